"""Runs in an environment with transformers: what it makes of a model class, for many configs, as JSON lines.

Started by derive_architectures.py. Models are built on the meta device, without weights; transformers' own quantizer
decides what bitsandbytes gets. One line a class: samples, each a config.json and the parameters and buffers that
``from_pretrained`` gives for it, those that differ in the number of a layer alone in one group.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import inspect
import io
import json
import random
import re
import signal
import sys
import warnings
from typing import Any

NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")
EXPERTS = re.compile(r"(^|_)(n|num)_.*experts$|^num_experts$|^moe_num_experts$")
LAYERS = re.compile(
    r"^(num_hidden_layers|n_layers?|num_layers|depth|num_(decoder|encoder)_layers|(decoder|encoder)_layers)$"
)
FEW = {
    **{"num_experts_per_tok": 2, "num_experts_per_token": 2, "moe_topk": 2, "moe_k": 2, "top_k": 2, "n_group": 1},
    **{"topk_group": 1, "num_local_experts": 4},
}
LEFT = re.compile(
    r"token_id|_token|^(pad|bos|eos|sep)_|torch_dtype|^dtype|label|chunk_size_feed|seed|version|num_beams|^top_k$"
)
SECONDS = 150  # a class


class TooSlow(Exception):
    """A class that takes too long."""


def flatten(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, one in value.items():
        if isinstance(one, dict) and ("config" in key) and prefix.count(".") < 2:
            flat.update(flatten(one, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = one
    return flat


def nest(flat: dict[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, one in flat.items():
        at = nested
        *path, last = key.split(".")
        for step in path:
            at = at.setdefault(step, {})
        at[last] = one
    return nested


class Prober:
    def __init__(self, name: str, config_class: Any, model_class: Any, seed: int) -> None:
        self.name, self.config_class, self.model_class = name, config_class, model_class
        self.random = random.Random(f"{seed}{name}")
        self.samples: list[dict[str, Any]] = []
        self.said: list[str] = []

    def start(self) -> None:
        """Values to begin with: the class's defaults, with few layers and experts."""
        from transformers import PretrainedConfig

        default = self.config_class()
        document = default.to_dict()
        plain = set(PretrainedConfig().to_dict()) - {"tie_word_embeddings"}
        flat = {key: one for key, one in flatten(document).items() if key.rpartition(".")[2] not in plain}
        self.defaults = {key: one for key, one in flat.items() if simple(one)}
        self.defaults["tie_word_embeddings"] = bool(getattr(default, "tie_word_embeddings", True))
        self.types = {
            key: one for key, one in flatten(document).items() if key.endswith(".model_type") and isinstance(one, str)
        }
        self.base: dict[str, Any] = dict(self.types)
        for key, one in self.defaults.items():
            last = key.rpartition(".")[2]
            if LAYERS.match(last) and isinstance(one, int):
                self.base[key] = 5
            elif last in FEW and isinstance(one, int):
                self.base[key] = min(one, FEW[last])
            elif EXPERTS.search(last) and isinstance(one, int) and one > 6:
                self.base[key] = 6
        self.lists = {
            key: one
            for key, one in flat.items()
            if isinstance(one, list)
            and key.rpartition(".")[2] in ("layer_types", "mlp_layer_types", "layers_block_type")
        }

    def build(self, values: dict[str, Any]) -> list[dict[str, Any]]:
        import torch

        config = self.config_class(**nest(copy.deepcopy(values)))
        self.resolved = {}
        for key, default in self.defaults.items():
            at: Any = config
            for step in key.split("."):
                at = getattr(at, step, None)
            if simple(at) and at != values.get(key, default):
                self.resolved[key] = at
        torch.set_default_dtype(torch.bfloat16)
        try:
            return measured(self.model_class, config)
        finally:
            torch.set_default_dtype(torch.float32)

    def try_build(self, values: dict[str, Any]) -> list[dict[str, Any]] | None:
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                return self.build(values)
        except TooSlow:
            raise
        except Exception as error:
            self.last = f"{type(error).__name__}: {error}"[:160]
            return None

    def sample(self, values: dict[str, Any], why: str) -> bool:
        found = self.try_build(values)
        if found is None:
            return False
        self.samples.append({"config": values, "resolved": self.resolved, "groups": found, "why": why})
        return True

    def run(self, joint: int) -> None:
        self.start()
        if not self.sample(dict(self.base), "base"):
            self.said.append(f"cannot be built: {self.last}")
            return
        choices = self.alone()
        keys = sorted(choices)
        for number in range(joint):
            for _ in range(6):
                # All at once at first, fewer where that is no valid config.
                share = self.random.choice((0.3, 0.5, 0.8, 1.0))
                taken = [key for key in keys if self.random.random() < share]
                values = {**self.base, **{key: self.random.choice(choices[key]) for key in taken}}
                if self.sample(values, "check" if number % 3 == 2 else "joint"):
                    break

    def alone(self) -> dict[str, list[Any]]:
        """Each field changed by itself: the values that give a model which is another one."""
        plain = json.dumps(self.samples[0]["groups"])
        choices: dict[str, list[Any]] = {}
        for key, one in [*self.defaults.items(), *((key, None) for key in self.extra())]:
            if LEFT.search(key.rpartition(".")[2]):
                continue
            for value in variants(self.base.get(key, one), one, key):
                if value is not None and len(choices.get(key, ())) >= 2:
                    continue
                found = self.try_build({**self.base, key: value})
                if found is None or json.dumps(found) == plain:
                    continue
                changed = {**self.base, key: value}
                self.samples.append(
                    {"config": changed, "resolved": self.resolved, "groups": found, "why": f"alone {key}"}
                )
                choices.setdefault(key, []).append(value)
        for key, values in self.lists.items():
            kinds = sorted({one for one in values if isinstance(one, str)})
            count = self.base.get(key.rpartition(".")[0] + ("." if "." in key else "") + "num_hidden_layers", 5)
            for _ in range(3):
                chosen = [self.random.choice(kinds) for _ in range(count)] if kinds else []
                if chosen and self.sample({**self.base, key: chosen}, f"alone {key}"):
                    choices.setdefault(key, []).append(chosen)
        return choices

    def extra(self) -> list[str]:
        prefixes = {key.rpartition(".")[0] for key in self.defaults if key.endswith("hidden_size")}
        keys = [f"{prefix}.head_dim".lstrip(".") for prefix in sorted(prefixes)]
        return [key for key in keys if key not in self.defaults]


def simple(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float)) or (isinstance(value, list) and value == [])


def variants(now: Any, default: Any, key: str) -> list[Any]:
    """Other values of a field that could give a valid config."""
    if isinstance(now, bool):
        return [not now]
    if isinstance(now, list):
        return [[1], [0, 3]]
    if isinstance(now, float):
        return [0.25, 0.5, 0.75] if re.search("rotary|partial", key) else []
    last = key.rpartition(".")[2]
    if now is None:
        return [64, 96, 160] if not re.search("layers|experts", last) else [2, 3]
    if LAYERS.match(last):
        return [3, 4, 7]
    if now <= 12:
        return [*({now + 1, now + 2, 2 * now, 3 * now, max(0, now - 1), 0, 1} - {now}), None]
    return [2 * now, 3 * now, now // 2, 5 * now, now + 8, None]


def measured(model_class: Any, config: Any) -> list[dict[str, Any]]:
    """What from_pretrained with a BitsAndBytesConfig makes of it, and the names under which it is stored."""
    import torch
    from transformers import BitsAndBytesConfig

    with torch.device("meta"):
        model = model_class(copy.deepcopy(config))
    model.tie_weights()
    stored = stored_names(model)
    output = model.get_output_embeddings()
    inputs = model.get_input_embeddings()
    modules = dict(model.named_modules())
    before = {name: type(one).__name__ for name, one in modules.items()}
    bases = {name: base_kind(one) for name, one in modules.items()}
    special = {name: "output" for name, one in modules.items() if one is output}
    special.update({name: "embedding" for name, one in modules.items() if one is inputs})
    persistent = set(model.state_dict().keys())
    raw = dict(model.named_parameters(remove_duplicate=False))
    unique = {id(one) for one in raw.values()}
    first: dict[int, str] = {}
    quantizer, skips = quantize(model, BitsAndBytesConfig(load_in_4bit=True))
    del quantizer
    after = dict(model.named_modules())
    keep = list(getattr(model, "_keep_in_fp32_modules", None) or [])
    strict = list(getattr(model, "_keep_in_fp32_modules_strict", None) or [])
    found: list[dict[str, Any]] = []
    for name, one in raw.items():
        owner, _, last = name.rpartition(".")
        tied = first.get(id(one))
        first.setdefault(id(one), name)
        replaced = "4bit" in type(after[owner]).__name__ and last != "bias"
        shape = list(one.shape)
        if bases[owner] == "conv1d" and last == "weight":
            shape = shape[::-1]
        found.append(
            {
                **{"name": name, "shape": shape, "kind": kind(owner, last, one, before, bases, special)},
                **{"module": bases[owner] if last == "weight" else "", "converted": replaced, "tied": tied},
                **{"dtype": dtype_name(one.dtype), "stored": stored.get(name), "buffer": False},
            }
        )
    for name, one in model.named_buffers():
        found.append(
            {
                **{"name": name, "shape": list(one.shape), "kind": "buffer", "module": "", "converted": False},
                **{"tied": None, "dtype": dtype_name(one.dtype), "buffer": True},
                **{"stored": stored.get(name) if name in persistent else [], "persistent": name in persistent},
            }
        )
    assert len(unique) == len(first)
    common = {"skips": sorted(set(skips)), "fp32": sorted(keep), "fp32_strict": sorted(strict)}
    return [common, *grouped(found)]


def quantize(model: Any, wanted: Any) -> tuple[Any, list[str]]:
    from transformers.quantizers.quantizer_bnb_4bit import Bnb4BitHfQuantizer

    quantizer = Bnb4BitHfQuantizer(wanted, pre_quantized=False)
    arguments: dict[str, Any] = {"device_map": None}
    if "keep_in_fp32_modules" in inspect.signature(quantizer._process_model_before_weight_loading).parameters:
        arguments["keep_in_fp32_modules"] = list(getattr(model, "_keep_in_fp32_modules", None) or [])
    quantizer._process_model_before_weight_loading(model, **arguments)
    return quantizer, [one for one in quantizer.modules_to_not_convert if one is not None]


def base_kind(module: Any) -> str:
    import torch
    from transformers.pytorch_utils import Conv1D

    if type(module) is torch.nn.Linear:
        return "linear"
    if isinstance(module, torch.nn.Linear):
        return "linear-like"
    if isinstance(module, Conv1D):
        return "conv1d"
    return "embedding" if isinstance(module, torch.nn.Embedding) else ""


def kind(owner: str, last: str, one: Any, before: Any, bases: Any, special: Any) -> str:
    if owner in special and last == "weight":
        return str(special[owner])
    if last == "bias" or last.endswith("_bias"):
        return "bias"
    if "norm" in before[owner].lower():
        return "norm"
    if bases[owner] in ("linear", "linear-like", "conv1d"):
        return "linear"
    if bases[owner] == "embedding":
        return "embedding"
    return "expert" if one.ndim == 3 and "expert" in f"{owner}.{last}".lower() else "other"


def dtype_name(dtype: Any) -> str | None:
    """Safetensors' name; None for the type that the model is loaded in (here bfloat16)."""
    names = {
        **{"torch.float32": "F32", "torch.int64": "I64", "torch.int32": "I32", "torch.bool": "BOOL"},
        **{"torch.uint8": "U8", "torch.float16": "F16", "torch.float64": "F64", "torch.complex64": "C64"},
    }
    return None if str(dtype) == "torch.bfloat16" else names[str(dtype)]


def stored_names(model: Any) -> dict[str, list[list[Any]]]:
    """By name in the model, the tensors that a checkpoint holds for it: (name, name of what is joined, shape)."""
    state = model.state_dict()
    try:
        from transformers import core_model_loading as loading
        from transformers.conversion_mapping import get_model_conversion_mapping
    except ImportError:
        return stored_by_mapping(model, state)
    conversions = get_model_conversion_mapping(model) or []
    if not conversions:
        return {}
    reverted = loading.revert_weight_conversion(model, state)
    renamings = [one for one in conversions if isinstance(one, loading.WeightRenaming)]
    converters = [one for one in conversions if isinstance(one, loading.WeightConverter)]
    targets = {pattern: one for one in converters for pattern in one.source_patterns}
    found: dict[str, list[list[Any]]] = {}
    for name, tensor in reverted.items():
        known, pattern = loading.rename_source_key(name, renamings, converters, model.base_model_prefix, state)
        if known not in state and name in state:
            known, pattern = name, None
        names = [known]
        if pattern is not None and len(targets[pattern].target_patterns) > 1:
            here = targets[pattern].target_patterns
            first = next((one for one in here if one.lstrip("^") and known.endswith(one.strip("^$"))), None)
            if first is not None:
                names = [known[: -len(first.strip("^$"))] + one.strip("^$") for one in here]
        for one in names:
            found.setdefault(one, []).append([name, list(tensor.shape), len(names)])
    return {
        name: parts for name, parts in found.items() if parts != [[name, list(state[name].shape), 1]] if name in state
    }


def stored_by_mapping(model: Any, state: Any) -> dict[str, list[list[Any]]]:
    """Transformers 4: save_pretrained turns the mapping of a class around."""
    mapping = getattr(model, "_checkpoint_conversion_mapping", None) or {}
    found = {}
    for name in state:
        stored = name
        for pattern, target in mapping.items():
            plain = re.sub(r"\(.*\)", "", pattern.lstrip("^"))
            stored, times = re.subn(target.lstrip("^"), plain, name)
            if times:
                break
        if stored != name:
            found[name] = [[stored, list(state[name].shape), 1]]
    return found


def grouped(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those that differ in numbers alone, in one."""
    groups: dict[str, dict[str, Any]] = {}
    for one in found:
        name = one.pop("name")
        at = [int(number) for number in NUMBER.findall(name)]
        one["tied"] = one["tied"] and NUMBER.sub("*", one["tied"])
        one["stored"] = stars(one["stored"], at)
        pattern = NUMBER.sub("*", name)
        key = pattern + json.dumps(one, sort_keys=True)
        groups.setdefault(key, {"name": pattern, **one, "at": []})["at"].append(at)
    return list(groups.values())


def stars(stored: list[list[Any]] | None, at: list[int]) -> list[list[Any]] | None:
    """[pattern, shape of one, how many, into how many it is split] for each pattern of stored names."""
    if stored is None:
        return None
    parts: dict[str, list[Any]] = {}
    for name, shape, split in stored:
        pattern = NUMBER.sub("*", name)
        parts.setdefault(pattern, [pattern, shape, 0, split])[2] += 1
    return list(parts.values())


def classes(names: list[str]) -> list[tuple[str, Any, Any]]:
    """(architecture, config class, model class) of all that people load in 4 bit."""
    import transformers
    from transformers.models.auto import modeling_auto
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    found: dict[str, tuple[str, Any, Any]] = {}
    for task in ("CAUSAL_LM", "IMAGE_TEXT_TO_TEXT", "SEQ_TO_SEQ_CAUSAL_LM"):
        table = f"MODEL_FOR_{task}_MAPPING_NAMES"
        for model_type, architectures in getattr(modeling_auto, table, {}).items():
            for architecture in [architectures] if isinstance(architectures, str) else architectures:
                if names and architecture not in names:
                    continue
                with contextlib.suppress(Exception):
                    model_class = getattr(transformers, architecture)
                    config_class = model_class.config_class or CONFIG_MAPPING[model_type]
                    # Of several config classes of one model class, its own.
                    found.setdefault(architecture, (architecture, config_class, model_class))
    return list(found.values())


def aliases(config_class: Any) -> dict[str, str]:
    """Other names of fields; ``attribute_map`` does not have the width of older files of Bloom and Falcon."""
    found = dict(getattr(config_class, "attribute_map", {}) or {})
    with contextlib.suppress(Exception):  # a class without that field, or one that takes no other width alone
        width = 2 * config_class().hidden_size
        if "n_embed" not in found and config_class(n_embed=width).hidden_size == width:
            found["n_embed"] = "hidden_size"
    return found


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--joint", type=int, default=36)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", required=True)
    parser.add_argument("names", nargs="*")
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    import bitsandbytes
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)

    def expired(*_: Any) -> None:
        raise TooSlow

    signal.signal(signal.SIGALRM, expired)
    with open(given.out, "w", encoding="utf-8") as out:  # noqa: PTH123
        versions = {"transformers": transformers.__version__, "bitsandbytes": bitsandbytes.__version__}
        print(json.dumps({**versions, "torch": torch.__version__}), file=out)
        for name, config_class, model_class in classes(given.names):
            prober = Prober(name, config_class, model_class, given.seed)
            signal.alarm(SECONDS)
            try:
                prober.run(given.joint)
            except TooSlow:
                prober.said.append("took too long")
            except Exception as error:
                prober.said.append(f"{type(error).__name__}: {error}"[:200])
            signal.alarm(0)
            row = {
                **{"architecture": name, "model_type": config_class.model_type, "samples": prober.samples},
                **{"prefix": model_class.base_model_prefix, "said": prober.said},
                **{"defaults": getattr(prober, "defaults", {}), "types": getattr(prober, "types", {})},
                "aliases": aliases(config_class),
                "file": config_class.__module__,
            }
            print(json.dumps(row), file=out, flush=True)
            print(f"{name}: {len(prober.samples)} samples {'; '.join(prober.said)}", file=sys.stderr, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
