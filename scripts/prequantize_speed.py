"""How fast a checkpoint is quantized, against the plain library calls on the same files.

Run by the Python of an environment: ``python prequantize_speed.py MODEL EMPTY_FOLDER [nf4|fp4|int8] [cpu|cuda:0]``.
The plain calls read each tensor with safe_open and quantize it with Params4bit or Int8Params; they write nothing.
Both sides take turns, and the best of each counts, in seconds without imports. One JSON object on standard output.
"""

from __future__ import annotations

import importlib
import io
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

STANDALONE = Path(__file__).resolve().parents[1] / "bnbenv" / "models" / "prequantize" / "standalone"


def plain(files: list[Path], names: set[str], quant: str, dtype: Any, device: str) -> None:
    """Every tensor is read; ``names`` are quantized."""
    bnb = importlib.import_module("bitsandbytes")
    safe_open = importlib.import_module("safetensors").safe_open
    for file in files:
        with safe_open(file, "pt") as stream:
            for name in stream.keys():  # noqa: SIM118 - it is no dictionary
                value = stream.get_tensor(name).to(dtype)
                if name not in names:
                    value.to(device, copy=True)
                elif quant == "int8":
                    bnb.nn.Int8Params(value, requires_grad=False, has_fp16_weights=False).to(device)
                else:
                    bnb.nn.Params4bit(value, requires_grad=False, quant_type=quant).to(device)


def job(model: Path, out: Path, quant: str, device: str) -> list[dict[str, Any]]:
    """The events of quantizing the whole checkpoint into an empty folder."""
    protocol = importlib.import_module(f"{STANDALONE.name}.protocol")
    main = importlib.import_module(f"{STANDALONE.name}.main")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    stream = io.StringIO()
    text = json.dumps({"model": str(model), "out": str(out), "quant": quant, "device": device})
    main.attempt(text, protocol.Reporter(stream))
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def measure(model: Path, out: Path, quant: str, device: str, rounds: int = 3) -> dict[str, Any]:
    """``ratio`` is the speed of the job in that of the plain calls: 1.0 is as fast."""
    sys.path.insert(0, str(STANDALONE.parent))
    torch = importlib.import_module("torch")
    events = job(model, out, quant, device)  # the first one imports
    if events[-1]["event"] != "done":
        raise SystemExit(events[-1]["message"])
    plan = next(event for event in events if event["event"] == "plan")
    names, dtype = quantized(out), getattr(torch, plan["dtype"])
    files = sorted(model.glob("*.safetensors"))
    times: dict[str, list[float]] = {"plain": [], "job": []}
    for _ in range(rounds):
        for name, work in (
            ("plain", lambda: plain(files, names, quant, dtype, device)),
            ("job", lambda: job(model, out, quant, device)),
        ):
            started = time.perf_counter()
            work()
            times[name].append(time.perf_counter() - started)
    best = {name: min(values) for name, values in times.items()}
    return {**best, "bytes": plan["read_bytes"], "ratio": best["plain"] / best["job"]}


def quantized(out: Path) -> set[str]:
    """Names of the weights that have statistics beside them."""
    safe_open = importlib.import_module("safetensors").safe_open
    found: set[str] = set()
    for file in out.glob("*.safetensors"):
        with safe_open(file, "pt") as stream:
            names = set(stream.keys())
        found |= {name for name in names if f"{name}.absmax" in names or f"{name[: -len('weight')]}SCB" in names}
    return found


if __name__ == "__main__":
    arguments = [*sys.argv[1:], *("nf4", "cpu")[len(sys.argv) - 3 :]]
    print(json.dumps(measure(Path(arguments[0]), Path(arguments[1]), arguments[2], arguments[3])))
