"""Speaks as the script that quantizes does, without torch: three small files of weights, in a few milliseconds.

The variable STAND_IN says how it ends: ``die N`` (killed after N files), ``error CODE N`` (after N files), ``hang N``,
``largest BYTES``, ``room BYTES``, ``lie`` (the last file is shorter than told), ``packages`` (of another release).
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAMES = [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
SHARD = 4096  # bytes of weights in each


def event(kind: str, **fields: object) -> str:
    return json.dumps({"event": kind, **fields}) + "\n"


def shard(number: int) -> bytes:
    header = {f"layer.{number}.weight": {"dtype": "U8", "shape": [SHARD], "data_offsets": [0, SHARD]}}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes([number]) * SHARD


def work(job: dict[str, Any]) -> Iterator[str]:
    """The lines, as the work goes on."""
    words = os.environ.get("STAND_IN", "").split()
    how, number = (words or [""])[0], int(words[-1]) if words and words[-1].isdecimal() else -1
    out = Path(job["out"])
    release = "5.22.0" if how == "packages" else "5.23.0"
    yield event("packages", versions={"torch": "2.13.0+cpu", "transformers": release, "python": "3.11.7"})
    largest = number if how == "largest" else 1000
    room = number if how == "room" else 3 * SHARD + 1000
    numbers = {"tensors": 3, "converted": 2, "kept": 1, "left_out": 0, "read_bytes": 100, "bytes": room}
    yield event("plan", architecture="LlamaForCausalLM", dtype="bfloat16", largest=largest, **numbers)
    yield "a library says something\n"
    for place, name in enumerate(NAMES):
        if how == "die" and place == number:
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "hang" and place == number:
            time.sleep(600)
        if how == "error" and place == number:
            yield event("error", code=words[1], message="it does not work", next_step="Do it otherwise.", detail="")
            sys.exit(1)
        if name in job["done"]:
            continue
        data = shard(place)
        (out / f"{name}.part").write_bytes(data[:-1] if how == "lie" and place == len(NAMES) - 1 else data)
        (out / f"{name}.part").rename(out / name)
        if log := os.environ.get("STAND_IN_LOG"):
            with Path(log).open("a") as stream:
                stream.write(f"{name}\n")
        yield event("progress", tensor=f"layer.{place}", index=place + 1, of=3, read=10, written=10, total=100)
        yield event("shard", name=name, bytes=len(data), tensors=1, sha256=hashlib.sha256(data).hexdigest())
    weights = {f"layer.{place}.weight": name for place, name in enumerate(NAMES)}
    index = {"metadata": {"total_size": 3 * SHARD}, "weight_map": weights}
    (out / "model.safetensors.index.json").write_text(json.dumps(index))
    config = json.loads((Path(job["model"]) / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (out / "config.json").write_text(json.dumps(config))
    yield event("done", files=[*NAMES, "config.json"], bytes=0, total_size=3 * SHARD, seconds=0.1, device="cpu")


if __name__ == "__main__":
    for line in work(json.loads(sys.stdin.read())):
        print(line, end="", flush=True)
