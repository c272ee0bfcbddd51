"""Run by the Python of an environment: what was quantized beforehand against loading with quantization on the fly.

``python bits.py STANDALONE ZOO FOLDER CASE ...`` with cases ``model:quant[:double][:dtype][:skip=A+B][:compute=TYPE]``;
one JSON object a line.
"""

from __future__ import annotations

import importlib
import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from safetensors import safe_open

NEWER = int(hf.__version__.split(".")[0]) >= 5


def config(quant: str, double: bool, compute: str, skip: list[str] | None) -> Any:
    if quant == "int8":
        return hf.BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=skip)
    kind = {"bnb_4bit_quant_type": quant, "bnb_4bit_use_double_quant": double, "llm_int8_skip_modules": skip}
    return hf.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=getattr(torch, compute), **kind)


def load(folder: Path, dtype: str | None, **more: Any) -> Any:
    if dtype is not None:
        more["dtype" if NEWER else "torch_dtype"] = getattr(torch, dtype)
    model = hf.AutoModelForCausalLM.from_pretrained(folder, device_map={"": "cpu"}, **more)
    for module in model.modules():
        # On a CPU with AVX512-BF16 bitsandbytes 0.50 repacks weights, and fails where a row is no multiple of a block.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


def everything(model: Any) -> dict[str, torch.Tensor]:
    """Parameters, buffers and what the modules save of the quantization."""
    return {**dict(model.named_buffers()), **model.state_dict()}


def saved(folder: Path) -> dict[str, torch.Tensor]:
    found = {}
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as stream:
            names = stream.keys()
            found.update({name: stream.get_tensor(name) for name in names})
    return found


def quantization(folder: Path) -> Any:
    return json.loads((folder / "config.json").read_text())["quantization_config"]


def differences(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> list[str]:
    found = [f"only one has {name}" for name in sorted(one.keys() ^ other.keys())]
    for name in sorted(one.keys() & other.keys()):
        a, b = one[name].detach(), other[name].detach()
        if a.dtype != b.dtype or a.shape != b.shape:
            found.append(f"{name}: {a.dtype} {list(a.shape)} and {b.dtype} {list(b.shape)}")
        elif not torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8)):
            found.append(f"{name}: other values")
    return found


def compare(protocol: Any, main: Any, model: Path, folder: Path, case: str) -> dict[str, Any]:
    _, quant, *more = case.split(":")
    double, given = "double" in more, dict(word.split("=") for word in more if "=" in word)
    dtype = next((word for word in more if word != "double" and "=" not in word), None)
    compute, skip = given.get("compute", "bfloat16"), given["skip"].split("+") if "skip" in given else None
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    stream = io.StringIO()
    job = {"model": str(model), "out": str(folder), "quant": quant, "double_quant": double, "dtype": dtype}
    job |= {"compute_dtype": compute, "skip": skip}
    main.attempt(json.dumps({**job, "shard_bytes": 500_000}), protocol.Reporter(stream))
    told = [json.loads(line) for line in stream.getvalue().splitlines()]
    events = {event["event"]: event for event in told}
    if "error" in events:
        return {"case": case, "error": events["error"]}
    plan = events["plan"]

    fly = load(model, dtype, quantization_config=config(quant, double, compute, skip))
    again = folder.with_name(folder.name + "-again")
    fly.save_pretrained(again)  # before it computes, which moves scales of int8 elsewhere
    made = load(folder, None if NEWER else dtype)
    with torch.no_grad():
        words = torch.arange(1, 40).unsqueeze(0)
        before = differences(everything(fly), everything(made))
        logits = torch.equal(fly(words).logits, made(words).logits)
    theirs, ours = saved(again), saved(folder)
    same = quantization(again) == quantization(folder)
    shutil.rmtree(again)
    return {
        "case": case,
        "loaded": before,
        "logits": logits,
        "files": differences(theirs, ours),
        "config": same,
        "quantized": sum(type(value).__name__ in ("Params4bit", "Int8Params") for value in made.parameters()),
        "converted": plan["converted"],
        "dtype": plan["dtype"],
        "shards": len(plan["shards"]),
        "warned": [event["code"] for event in told if event["event"] == "warning"],
    }


def run(standalone: Path, zoo: Path, folder: Path, cases: list[str]) -> None:
    hf.utils.logging.set_verbosity_error()
    sys.path.insert(0, str(standalone.parent))
    protocol = importlib.import_module(f"{standalone.name}.protocol")
    main = importlib.import_module(f"{standalone.name}.main")
    for case in cases:
        result = compare(protocol, main, zoo / case.split(":")[0], folder / case.replace(":", "-"), case)
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    run(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
