"""Load one model with the real ``from_pretrained``, and tell what was held. For ``measure_loading.py`` and tests.

Run by the Python of an environment with torch, transformers, accelerate and bitsandbytes:

    measure_loading_child.py make FOLDER NAME           a larger model of random weights (see MODELS)
    measure_loading_child.py weights DTYPE FOLDER ...   the bytes of the loaded models, for each of QUANTIZATIONS
    measure_loading_child.py save FOLDER QUANTIZATION DTYPE OUT
    measure_loading_child.py peak FOLDER QUANTIZATION DTYPE cpu|cuda

A JSON object a line on standard output.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

torch: Any = importlib.import_module("torch")
hf: Any = importlib.import_module("transformers")

QUANTIZATIONS = ("none", "int8", "nf4", "fp4-double")  # NF4 and FP4 take the same bytes
TYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
EARLY = hf.__version__.startswith("4.")

# Few layers and large matrices: temporaries of a kernel are tens of MB, as in models that people load.
SIDES: dict[str, Any] = {"hidden_size": 2048, "num_attention_heads": 16, "max_position_embeddings": 2048}
GROUPED = {**SIDES, "num_key_value_heads": 4, "intermediate_size": 8192}
MODELS: dict[str, tuple[Any, str, str]] = {
    "one-layer": (lambda: hf.LlamaConfig(**GROUPED, num_hidden_layers=1, vocab_size=4000), "BF16", "50GB"),
    "llama": (lambda: hf.LlamaConfig(**GROUPED, num_hidden_layers=4, vocab_size=32000), "BF16", "50GB"),
    "llama-f16": (lambda: hf.LlamaConfig(**GROUPED, num_hidden_layers=3, vocab_size=16000), "F16", "50GB"),
    "llama-f32": (lambda: hf.LlamaConfig(**GROUPED, num_hidden_layers=2, vocab_size=16000), "F32", "50GB"),
    "qwen2-tied-sharded": (
        lambda: hf.Qwen2Config(**GROUPED, num_hidden_layers=3, vocab_size=64000, tie_word_embeddings=True),
        "BF16",
        "150MB",
    ),
    "opt": (lambda: hf.OPTConfig(**SIDES, ffn_dim=8192, num_hidden_layers=4, vocab_size=32000), "F16", "50GB"),
    "mixtral": (
        lambda: hf.MixtralConfig(
            **{**GROUPED, "hidden_size": 1536, "intermediate_size": 4096},
            num_hidden_layers=2,
            num_local_experts=4,
            vocab_size=16000,
        ),
        "BF16",
        "300MB",
    ),
}


def main(words: list[str]) -> None:
    hf.utils.logging.set_verbosity_error()
    torch.set_num_threads(2)
    if words[0] == "make":
        make(Path(words[1]), words[2])
    elif words[0] == "weights":
        for line in weights(TYPES[words[1]], words[2:]):
            print(json.dumps(line), flush=True)
    elif words[0] == "save":
        load(words[1], words[2], TYPES[words[3]], "cpu").save_pretrained(words[4])
    else:
        print(json.dumps(peak(words[1], words[2], TYPES[words[3]], words[4])))


def make(folder: Path, name: str) -> None:
    """Values of one row, turned: what they are costs nothing here."""
    config, dtype, largest = MODELS[name]
    torch.set_default_dtype(TYPES[dtype])
    with torch.device("meta"):
        model = hf.AutoModelForCausalLM.from_config(config(), **{"torch_dtype" if EARLY else "dtype": TYPES[dtype]})
    model = model.to_empty(device="cpu")
    model.tie_weights()
    with torch.no_grad():
        for value in model.parameters():
            row = torch.randn(value.shape[-1], dtype=TYPES[dtype]) * 0.02
            value.copy_(row.expand(value.shape))
    model.save_pretrained(folder, max_shard_size=largest)


def config_of(quantization: str) -> Any:
    if quantization == "none":
        return None
    if quantization == "int8":
        return hf.BitsAndBytesConfig(load_in_8bit=True)
    kind, _, double = quantization.partition("-")
    return hf.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=kind, bnb_4bit_use_double_quant=bool(double))


def load(folder: str, quantization: str, dtype: Any, device: str) -> Any:
    given: dict[str, Any] = {"torch_dtype" if EARLY else "dtype": dtype}
    if json.loads(Path(folder, "config.json").read_text()).get("quantization_config") is None:
        given["quantization_config"] = config_of(quantization)
    place = 0 if device == "cuda" else "cpu"
    return hf.AutoModelForCausalLM.from_pretrained(folder, device_map={"": place}, **given)


def tensors_of(model: Any) -> Iterator[Any]:
    """Parameters, buffers, and the tensors of each weight's quantization state."""
    yield from model.buffers()
    for value in model.parameters():
        yield value.data
        state = getattr(value, "quant_state", None)
        if state is not None:
            yield from (state.absmax, state.code)
            if state.nested:
                yield from (state.state2.absmax, state.state2.code, state.offset)
        if getattr(value, "SCB", None) is not None:
            yield value.SCB


def weights(dtype: Any, folders: list[str]) -> Iterator[dict[str, Any]]:
    for folder in folders:
        for quantization in QUANTIZATIONS:
            total = sum(one.nbytes for one in tensors_of(load(folder, quantization, dtype, "cpu")))
            yield {"model": Path(folder).name, "quantization": quantization, "total": total}


def peak(folder: str, quantization: str, dtype: Any, device: str) -> dict[str, Any]:
    """What is held at most while the model is loaded, beyond what was held after a tiny one of the same kind."""
    warm_up(folder, quantization, dtype, device)
    release = {"torch": torch.__version__, "transformers": hf.__version__}
    release["bitsandbytes"] = importlib.import_module("bitsandbytes").__version__
    if device == "cuda":
        return {**release, "device_name": torch.cuda.get_device_name(0), **on_cuda(folder, quantization, dtype)}
    return {**release, **on_the_cpu(folder, quantization, dtype)}


def warm_up(folder: str, quantization: str, dtype: Any, device: str) -> None:
    """Imports, tables of codes, and the first threads are no part of loading."""
    config = hf.AutoConfig.from_pretrained(folder)
    small = {"hidden_size": 64, "num_hidden_layers": 1, "vocab_size": 64, "num_attention_heads": 2}
    small.update({"num_key_value_heads": 2, "word_embed_proj_dim": 64, "head_dim": 32})
    small.update({"intermediate_size": 64, "ffn_dim": 64})
    for key, value in small.items():
        if getattr(config, key, None) is not None:
            setattr(config, key, value)
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:1]
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with tempfile.TemporaryDirectory() as place:
        hf.AutoModelForCausalLM.from_config(config).to(torch.bfloat16).save_pretrained(place)
        load(place, quantization, dtype, device)
    gc.collect()


def on_cuda(folder: str, quantization: str, dtype: Any) -> dict[str, Any]:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before, reserved = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    model = load(folder, quantization, dtype, "cuda")
    return {
        "weight_bytes": sum(one.nbytes for one in tensors_of(model)),
        "peak_bytes": torch.cuda.max_memory_allocated() - before,
        "reserved_bytes": torch.cuda.max_memory_reserved() - reserved,
    }


def on_the_cpu(folder: str, quantization: str, dtype: Any) -> dict[str, Any]:
    """``peak_bytes`` is the anonymous memory at its peak and the file's pages that the model keeps as weights."""
    sys.setswitchinterval(0.0005)
    before = resident()
    highest, ended = dict(before), threading.Event()

    def watch() -> None:
        while not ended.wait(0.001):
            now = resident()
            for key, value in now.items():
                highest[key] = max(highest[key], value)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    model = load(folder, quantization, dtype, "cpu")
    ended.set()
    watcher.join()
    mapped = mapped_bytes(model)
    anonymous = highest["RssAnon"] - before["RssAnon"]
    return {
        "weight_bytes": sum(one.nbytes for one in tensors_of(model)),
        "peak_bytes": anonymous + mapped,
        "anonymous_bytes": anonymous,
        "mapped_bytes": mapped,
        "resident_bytes": highest["VmRSS"] - before["VmRSS"],
    }


def resident() -> dict[str, int]:
    text = Path("/proc/self/status").read_text()
    return {key: int(value) * 1024 for key, value in re.findall(r"^(VmRSS|RssAnon):\s+(\d+) kB", text, re.M)}


def mapped_bytes(model: Any) -> int:
    """Bytes of the model that are pages of the checkpoint's files."""
    spans = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.endswith(".safetensors"):
            begin, _, end = line.split()[0].partition("-")
            spans.append((int(begin, 16), int(end, 16)))
    tensors = list(tensors_of(model))
    return sum(one.nbytes for one in tensors if any(begin <= one.data_ptr() < end for begin, end in spans))


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main(sys.argv[1:])
