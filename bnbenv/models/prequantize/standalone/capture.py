"""The model as from_pretrained makes it just before it would read the weights.

from_pretrained itself runs: it takes the class, the type that is loaded in, builds the model on the meta device, and
its quantizer replaces the modules. What would read the weights then gets all of that in its hands, and stops.
"""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import torch

from .packages import release
from .protocol import Job, JobError


@dataclass
class Captured:
    """``model`` is on the meta device, with bitsandbytes' modules; ``arguments`` are those of the loader by name."""

    model: Any
    quantizer: Any
    dtype: torch.dtype
    files: list[str]
    arguments: dict[str, Any]
    architecture: str
    versions: dict[str, str]

    @property
    def transformers(self) -> tuple[int, ...]:
        return release(self.versions["transformers"])


class _Stop(BaseException):
    """Nobody on the way handles this one."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        super().__init__()
        self.arguments = arguments


def capture(job: Job, hf: ModuleType, versions: dict[str, str]) -> Captured:
    """Raises JobError for a checkpoint that cannot be taken."""
    config = read_config(Path(job.model))
    model_class = _class(job, hf, config)
    keywords: dict[str, Any] = {
        "quantization_config": _quantization(job, hf),
        "device_map": {"": torch.device(job.device) if job.device != "cpu" else "cpu"},
        "use_safetensors": True,
        "local_files_only": True,
    }
    if job.trust_remote_code:
        keywords["trust_remote_code"] = True
    if job.dtype is not None:
        # transformers 4.56 gave the argument its new name.
        keywords["dtype" if release(versions["transformers"]) >= (4, 56) else "torch_dtype"] = getattr(torch, job.dtype)
    arguments = _run(hf, model_class, job.model, keywords)
    load = arguments.get("load_config")
    model = arguments["model"]
    dtype = load.dtype if load is not None else arguments.get("dtype")
    return Captured(
        model=model,
        quantizer=load.hf_quantizer if load is not None else arguments["hf_quantizer"],
        dtype=dtype if isinstance(dtype, torch.dtype) else torch.get_default_dtype(),
        files=list(arguments["checkpoint_files"]),
        arguments=arguments,
        architecture=type(model).__name__,
        versions=versions,
    )


def read_config(folder: Path) -> dict[str, Any]:
    """Its config.json; raises JobError where there is none, or where the checkpoint is quantized already."""
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        message = f"config.json of {folder} cannot be read: {error}"
        raise JobError("unreadable-checkpoint", message, "Name the folder of a whole checkpoint.") from None
    if not isinstance(config, dict):
        raise JobError("unreadable-checkpoint", f"config.json of {folder} holds no object")
    text = config.get("text_config")
    quantization = config.get("quantization_config") or (
        text.get("quantization_config") if isinstance(text, dict) else 0
    )
    if quantization:
        method = quantization.get("quant_method") if isinstance(quantization, dict) else None
        message = f"the checkpoint is quantized already ({method or 'by a method that it does not name'})"
        raise JobError("quantized-already", message, "Start from the checkpoint that it was made of.")
    return config


def _class(job: Job, hf: ModuleType, config: dict[str, Any]) -> Any:
    """The class that the checkpoint names, else the one that AutoModelForCausalLM takes."""
    names = config.get("architectures") or []
    name = names[0] if isinstance(names, list) and names else None
    kind, remote = config.get("model_type"), config.get("auto_map")
    if isinstance(remote, dict) and job.trust_remote_code:
        auto = next((key for key in remote if key.startswith("AutoModel") and remote[key] is not None), None)
        found = getattr(hf, auto, None) if auto else None
        if found is not None:
            return found
    own = getattr(hf, name, None) if isinstance(name, str) else None
    if own is not None and hasattr(own, "from_pretrained"):
        return own
    if remote:
        step = "Read that code; --trust-remote-code runs it."
        raise JobError("remote-code", f"{name or kind} is made by code that comes with the checkpoint", step)
    if name is None and kind in hf.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return hf.AutoModelForCausalLM
    message = (
        f"transformers {hf.__version__} does not know the architecture {name or kind or '(config.json names none)'}"
    )
    raise JobError("unknown-architecture", message, "A newer transformers may know it.")


def _quantization(job: Job, hf: ModuleType) -> Any:
    if job.quant == "int8":
        return hf.BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=job.skip)
    return hf.BitsAndBytesConfig(
        load_in_4bit=True,
        llm_int8_skip_modules=job.skip,
        bnb_4bit_quant_type=job.quant,
        bnb_4bit_use_double_quant=job.double_quant,
        bnb_4bit_compute_dtype=getattr(torch, job.compute_dtype),
    )


def _run(hf: ModuleType, model_class: Any, folder: str, keywords: dict[str, Any]) -> dict[str, Any]:
    """from_pretrained, up to the point where it would read the weights."""
    base = hf.modeling_utils.PreTrainedModel
    signature = inspect.signature(base._load_pretrained_model)
    original = inspect.getattr_static(base, "_load_pretrained_model")

    def stop(*values: Any, **named: Any) -> NoReturn:
        bound = signature.bind_partial(*values, **named)
        raise _Stop({**bound.arguments, **bound.arguments.get("kwargs", {})})

    base._load_pretrained_model = staticmethod(stop)
    try:
        model_class.from_pretrained(folder, **keywords)
    except _Stop as stopped:
        return stopped.arguments
    except (MemoryError, JobError):
        raise
    except Exception as error:  # whatever transformers says about a checkpoint or an environment
        raise _explain(error, folder) from None
    finally:
        base._load_pretrained_model = original
    raise JobError("failed", f"transformers {hf.__version__} loads weights in a way that is not known here")


def _explain(error: Exception, folder: str) -> JobError:
    text = " ".join(str(error).split())[:300]
    if "torch.OutOfMemoryError" in repr(type(error)):
        return JobError("out-of-memory", f"there is not enough memory to build the model: {text}")
    if "Safetensor" in type(error).__name__ or isinstance(error, json.JSONDecodeError):
        return JobError("unreadable-checkpoint", f"a file of {folder} is broken: {text}", "Get the file again.")
    if isinstance(error, (OSError, FileNotFoundError)):
        if "safetensors" in text and "no file" in text:
            step = "Save it with save_pretrained, which writes safetensors."
            return JobError("no-safetensors", f"{folder} holds no weights as safetensors: {text}", step)
        return JobError("unreadable-checkpoint", f"{folder} cannot be loaded: {text}", "Get the missing files.")
    if isinstance(error, ImportError):
        return JobError("package-missing", f"transformers needs another package: {text}", "Add it to the environment.")
    message = f"transformers cannot build the model: {type(error).__name__}: {text}"
    return JobError("cannot-build", message, "Load it with plain from_pretrained to see the same in full.")
