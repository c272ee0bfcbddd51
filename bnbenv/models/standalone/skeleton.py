"""Tell what transformers makes of a model: build it on the meta device and let the real quantizer choose.

Run by the Python of an environment with torch, transformers, accelerate and bitsandbytes (Python 3.9 and newer); it
needs nothing of bnbenv. No weights are read. The request is one JSON document on standard input:

    {"folder": "...", "dtype": "bfloat16", "skip": ["lm_head"] or null, "trust_remote_code": false,
     "tensors": [["name", bytes], ...] or null}

``tensors`` are those of the checkpoint in the order of its files. Standard output is one JSON object a line: a
``parameter`` each in the order in which they are loaded, then ``end``; or ``error`` with a code and a message. What the
libraries print goes to standard error.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
from typing import Any


class Refused(Exception):
    """It cannot be done; ``code`` says why to programs, the text to people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def main() -> int:
    """Answer the request on standard input; 0, or 1 after an ``error``."""
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        for event in answer(json.load(sys.stdin)):
            lines.write(json.dumps(event) + "\n")
    except Refused as refused:
        lines.write(json.dumps({"event": "error", "code": refused.code, "message": str(refused)}) + "\n")
        return 1
    finally:
        lines.close()
    return 0


def answer(request: dict[str, Any]) -> list[dict[str, Any]]:
    """The lines that tell the model's parameters and buffers."""
    torch, hf = imported("torch"), imported("transformers")
    imported("accelerate")
    imported("bitsandbytes")
    hf.utils.logging.set_verbosity_error()
    dtype = getattr(torch, request["dtype"])
    config = read_config(hf, request)
    torch.set_default_dtype(dtype)  # what is made in the place of a linear layer is made while it holds, too
    with torch.device("meta"):
        model = build(hf, config, request, dtype)
        model.tie_weights()
        quantizer = prepare(hf, model, request["skip"], dtype)
        model.tie_weights()
    sources = read_from(hf, model, request["tensors"], dtype)
    lines = [line for _, line in sorted(told(torch, model, quantizer, dtype, sources), key=lambda one: one[0])]
    return [*lines, {"event": "end", "transformers": hf.__version__, "architecture": type(model).__name__}]


def imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == name:
            raise Refused("package-missing", f"the environment has no {name}") from None
        raise Refused("package-broken", f"{name} cannot be imported in the environment: {first_line(error)}") from None


def first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__


def read_config(hf: Any, request: dict[str, Any]) -> Any:
    try:
        config = hf.AutoConfig.from_pretrained(request["folder"], trust_remote_code=request["trust_remote_code"])
    except Exception as error:  # whatever the model's own code raises, too
        if "trust_remote_code" in str(error):
            message = "the model needs code of its own, which is not run unless it is asked for"
            raise Refused("remote-code", message) from None
        if isinstance(error, (ValueError, KeyError)) and "model type" in str(error):
            raise Refused("unknown-architecture", f"transformers {hf.__version__} does not know this model") from None
        raise Refused("unreadable-config", f"config.json cannot be read: {first_line(error)}") from None
    if hasattr(config, "quantization_config"):  # what is asked is how the plain model would be quantized
        del config.quantization_config
    return config


def build(hf: Any, config: Any, request: dict[str, Any], dtype: Any) -> Any:
    """The class that config.json names, or the causal language model of its type."""
    named = (getattr(config, "architectures", None) or [None])[0]
    known = getattr(hf, named, None) if isinstance(named, str) else None
    of_its_own = request["trust_remote_code"] and "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    given = {dtype_argument(hf): dtype}
    try:
        if known is not None and not of_its_own and hasattr(known, "_from_config"):
            return known._from_config(config, **given)
        if known is None and named is not None and not of_its_own:
            if getattr(config, "auto_map", None):
                raise Refused("remote-code", "the model needs code of its own, which is not run unless it is asked for")
            raise Refused("unknown-architecture", f"transformers {hf.__version__} has no class {named}")
        trust = request["trust_remote_code"]
        return hf.AutoModelForCausalLM.from_config(config, trust_remote_code=trust, **given)
    except Refused:
        raise
    except Exception as error:
        message = f"transformers {hf.__version__} cannot build the model: {first_line(error)}"
        raise Refused("cannot-build", message) from None


def dtype_argument(hf: Any) -> str:
    """transformers 4.56 renamed it."""
    numbers = tuple(int(part) for part in re.findall(r"\d+", hf.__version__)[:2])
    return "dtype" if numbers >= (4, 56) else "torch_dtype"


def prepare(hf: Any, model: Any, skip: list[str] | None, dtype: Any) -> Any:
    """Put bitsandbytes' modules in, as ``from_pretrained`` does; gives the quantizer that did."""
    wanted = hf.BitsAndBytesConfig(load_in_4bit=True, llm_int8_skip_modules=skip or None)
    quantizers = importlib.import_module("transformers.quantizers.auto")
    quantizer = quantizers.AutoHfQuantizer.from_config(wanted, pre_quantized=False)
    fixed = getattr(model, "_keep_in_fp32_modules", None)
    quantizer.preprocess_model(
        model=model, dtype=dtype, device_map={"": "cpu"}, keep_in_fp32_modules=fixed, config=model.config
    )
    return quantizer


def read_from(hf: Any, model: Any, tensors: list[list[Any]] | None, dtype: Any) -> dict[str, list[int]]:
    """For each parameter what it is loaded from: place in the order of loading, bytes, number of tensors.

    Without tensors, those that ``save_pretrained`` would write.
    """
    if hf.__version__.split(".")[0] == "4":
        return read_by_4(model, tensors, dtype)
    loading = importlib.import_module("transformers.core_model_loading")
    mapping = importlib.import_module("transformers.conversion_mapping").get_model_conversion_mapping(model)
    state = model.state_dict()
    if tensors is None:
        written = loading.revert_weight_conversion(model, state)
        tensors = [[name, value.numel() * size_of(value, dtype)] for name, value in written.items()]
    renamings = [one for one in mapping if isinstance(one, loading.WeightRenaming)]
    converters = [one for one in mapping if isinstance(one, loading.WeightConverter)]
    sources: dict[str, list[int]] = {}
    for name, size in sorted(tensors, key=lambda one: loading.dot_natural_key(one[0])):
        target, _ = loading.rename_source_key(name, renamings, converters, model.base_model_prefix, state)
        if target not in state and name in state:
            target = name
        add(sources, target, size)
    return sources


def size_of(value: Any, dtype: Any) -> int:
    return int(dtype.itemsize if value.is_floating_point() else value.element_size())


def add(sources: dict[str, list[int]], target: str, size: int) -> None:
    if target in sources:
        sources[target][1] += size
        sources[target][2] += 1
    else:
        sources[target] = [len(sources), size, 1]


def read_by_4(model: Any, tensors: list[list[Any]] | None, dtype: Any) -> dict[str, list[int]]:
    """File after file, in each by name. A tensor is renamed at most, never put together from several."""
    state = model.state_dict()
    if tensors is None:
        tensors = [[name, value.numel() * size_of(value, dtype)] for name, value in state.items()]
    renamed = getattr(model, "_checkpoint_conversion_mapping", None) or {}
    prefix = model.base_model_prefix + "."
    sources: dict[str, list[int]] = {}
    for name, size in tensors:
        target = name
        for pattern, replacement in renamed.items():
            target, number = re.subn(pattern, replacement, target)
            if number:
                break
        if target not in state:
            target = target[len(prefix) :] if target.startswith(prefix) else prefix + target
        add(sources, target, size)
    return sources


def told(torch: Any, model: Any, quantizer: Any, dtype: Any, sources: dict[str, list[int]]) -> list[Any]:
    """Each parameter and buffer with its place; tied ones are told once, as ``parameters()`` gives them once."""
    bnb = importlib.import_module("bitsandbytes")
    fixed = fixed_types(torch, model, dtype)
    output = model.get_output_embeddings()
    lines = []
    for is_buffer, values in ((False, model.named_parameters()), (True, model.named_buffers())):
        for name, value in values:
            module = model.get_submodule(name.rpartition(".")[0])
            leaf = name.rpartition(".")[2]
            converted = isinstance(module, bnb.nn.Linear4bit) and leaf == "weight"
            kind = "buffer" if is_buffer else kind_of(torch, module, name, leaf, value, module is output)
            place, stored, parts = sources.get(name, [len(sources), 0, 1])
            line = {
                "event": "parameter",
                "name": name,
                "shape": list(value.shape),
                "kind": kind,
                "converted": converted,
                "kept": None if converted else why_kept(kind, name, value, quantizer.modules_to_not_convert),
                "dtype": own_type(name, value, dtype, fixed, is_buffer and name not in sources, converted),
                "stored": stored,
                "parts": parts,
                "turned": converted and getattr(getattr(module, "source_cls", None), "__name__", "") == "Conv1D",
            }
            lines.append((place, line))
    return lines


def kind_of(torch: Any, module: Any, name: str, leaf: str, value: Any, is_output: bool) -> str:
    of_class = type(module).__name__.lower()
    if leaf == "bias":
        return "bias"
    if is_output:
        return "output"
    if isinstance(module, torch.nn.Embedding):
        return "embedding"
    if "norm" in of_class or "norm" in name.split(".")[-2:][0].lower():
        return "norm"
    if "experts" in name.split("."):
        return "expert"
    return "linear" if isinstance(module, torch.nn.Linear) or of_class == "conv1d" else "other"


def why_kept(kind: str, name: str, value: Any, skipped: list[str]) -> str | None:
    """Why a weight that people may think is quantized is not."""
    if kind == "expert":
        return f"a parameter of {value.dim()} dimensions and no linear layer" if value.dim() > 2 else "no linear layer"
    if kind == "output":
        return "the output stays in the loading type"
    if kind == "linear":
        return f"not to be converted: {', '.join(sorted(skipped))}"
    return None


def fixed_types(torch: Any, model: Any, dtype: Any) -> Any:
    """The pattern of the names that stay in float32 whatever the loading type is, or None."""
    if hasattr(model, "_get_dtype_plan"):
        plan = model._get_dtype_plan(dtype)
        if not plan:
            return None
        return importlib.import_module("transformers.core_model_loading").build_glob_alternation(list(plan))[0]
    named = list(getattr(model, "_keep_in_fp32_modules", None) or ())  # bitsandbytes' quantizers ask for these always
    if dtype in (torch.float16, torch.bfloat16):
        named += getattr(model, "_keep_in_fp32_modules_strict", None) or ()
    return re.compile("|".join(rf"((^|\.){one}($|\.))" for one in named)) if named else None


def own_type(name: str, value: Any, dtype: Any, fixed: Any, computed: bool, converted: bool) -> str | None:
    """The type that it has whatever the loading type is, as torch names it; None for the loading type."""
    if converted:
        return None
    if not computed and fixed is not None and value.is_floating_point() and fixed.search(name):
        return "float32"
    own = str(value.dtype).rpartition(".")[2]
    return None if value.dtype == dtype else own


if __name__ == "__main__":
    sys.exit(main())
