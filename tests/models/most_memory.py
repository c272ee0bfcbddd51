"""Run by the Python of an environment: the most memory that quantizing takes, and that of the largest tensor alone.

``python most_memory.py STANDALONE SMALL_MODEL FOLDER QUANT`` writes ``{"event", "alone", "job"}``, bytes above what
the process had before, after the libraries have done all of it once with a small model.
"""

from __future__ import annotations

import importlib
import io
import json
import sys
from pathlib import Path

import bitsandbytes as bnb
import torch
import transformers as hf

HIDDEN, INTERMEDIATE = 512, 12288


def most(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def run(standalone: Path, small: Path, folder: Path, quant: str) -> None:
    sys.path.insert(0, str(standalone.parent))
    protocol = importlib.import_module(f"{standalone.name}.protocol")
    main = importlib.import_module(f"{standalone.name}.main")
    main.return_freed_memory()
    large = folder / "large"
    sides = {"hidden_size": HIDDEN, "intermediate_size": INTERMEDIATE, "num_hidden_layers": 1, "vocab_size": 256}
    config = hf.LlamaConfig(**sides, num_attention_heads=8, num_key_value_heads=8, tie_word_embeddings=True)
    hf.LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(large)

    def job(model: Path) -> str:
        out = folder / f"out-{model.name}"
        out.mkdir()
        stream = io.StringIO()
        main.attempt(json.dumps({"model": str(model), "out": str(out), "quant": quant}), protocol.Reporter(stream))
        return json.loads(stream.getvalue().splitlines()[-1])["event"]

    def alone() -> None:
        value = torch.ones(INTERMEDIATE, HIDDEN, dtype=torch.bfloat16)
        if quant == "int8":
            bnb.nn.Int8Params(value, requires_grad=False, has_fp16_weights=False).to("cpu")
        else:
            bnb.nn.Params4bit(value, requires_grad=False, quant_type=quant).to("cpu")

    job(small)
    found = {}
    for name, work in (("alone", alone), ("job", lambda: found.update(event=job(large)))):
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew: proc(5)
        before = most("VmRSS")
        work()
        found[name] = most("VmHWM") - before
    print(json.dumps(found))


if __name__ == "__main__":
    run(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
