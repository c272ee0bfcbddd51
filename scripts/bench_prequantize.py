#!/usr/bin/env python3
"""How fast a checkpoint is quantized and written, against the plain library calls that only read and quantize it.

usage: .test-env/bin/python scripts/bench_prequantize.py PYTHON [--megabytes N] [--rounds N] [--folder DIR]

PYTHON is that of an environment with transformers. It makes a checkpoint of Llama's shapes with random weights, and by
turns runs ``bnbenv prequantize`` and safetensors' ``safe_open`` with bitsandbytes' ``Params4bit`` on the same files.
Both are timed without imports. Prints one JSON object; the figures are medians, the speeds bytes read a second.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HIDDEN, WIDE, VOCABULARY = 2048, 5632, 32000
LAYER = (4 * HIDDEN * HIDDEN + 3 * HIDDEN * WIDE) * 2  # bytes

MAKE = """
import json, sys, torch
from safetensors.torch import save_file
folder, config = sys.argv[1], json.loads(sys.argv[2])
h, w, v = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
make = lambda *shape: (torch.randn(*shape) * 0.02).to(torch.bfloat16)
tensors = {"model.embed_tokens.weight": make(v, h), "lm_head.weight": make(v, h), "model.norm.weight": make(h)}
for n in range(config["num_hidden_layers"]):
    for name in "qkvo":
        tensors[f"model.layers.{n}.self_attn.{name}_proj.weight"] = make(h, h)
    for name, shape in {"gate": (w, h), "up": (w, h), "down": (h, w)}.items():
        tensors[f"model.layers.{n}.mlp.{name}_proj.weight"] = make(*shape)
    for name in ("input", "post_attention"):
        tensors[f"model.layers.{n}.{name}_layernorm.weight"] = make(h)
save_file(tensors, f"{folder}/model.safetensors", {"format": "pt"})
json.dump(config, open(f"{folder}/config.json", "w"))
"""

PLAIN = """
import json, sys, time, torch
from bitsandbytes.nn import Params4bit
from safetensors import safe_open
Params4bit(torch.randn(64, 64), requires_grad=False, quant_type="nf4").to("cpu")
started = time.perf_counter()
with safe_open(f"{sys.argv[1]}/model.safetensors", "pt") as file:
    for name in file.keys():
        tensor = file.get_tensor(name)
        if tensor.ndim == 2 and "proj" in name:
            Params4bit(tensor, requires_grad=False, quant_type="nf4", compress_statistics=True).to("cpu")
        else:
            tensor.clone()  # a mapped tensor is not read before it is used
print(time.perf_counter() - started)
"""


def config(layers: int) -> dict[str, object]:
    heads = {"num_attention_heads": 16, "num_key_value_heads": 16, "num_hidden_layers": layers}
    sizes = {"hidden_size": HIDDEN, "intermediate_size": WIDE, "vocab_size": VOCABULARY}
    kind = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "bfloat16"}
    return {**kind, **sizes, **heads, "tie_word_embeddings": False, "rms_norm_eps": 1e-6}


def measure(python: str, folder: Path, megabytes: int, rounds: int) -> dict[str, float]:
    model, out = folder / "model", folder / "out"
    model.mkdir()
    layers = max(1, (megabytes * 1_000_000 - 4 * VOCABULARY * HIDDEN) // LAYER)
    environ = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    words = [python, "-c", MAKE, str(model), json.dumps(config(layers))]
    subprocess.run(words, check=True, env=environ)
    plain, ours = [], []
    for _ in range(rounds):
        done = subprocess.run([python, "-c", PLAIN, str(model)], check=True, env=environ, stdout=subprocess.PIPE)
        plain.append(float(done.stdout))
        shutil.rmtree(out, ignore_errors=True)
        tool = [sys.executable, "-m", "bnbenv", "prequantize", str(model), str(out), "--device", "cpu", "--json"]
        done = subprocess.run([*tool, "--python", python], check=True, env=environ, stdout=subprocess.PIPE)
        ours.append(float(json.loads(done.stdout)["seconds_quantizing"]))
    size = (model / "model.safetensors").stat().st_size / 1e6
    before, now = statistics.median(plain), statistics.median(ours)
    return {"megabytes": size, "plain": size / before, "prequantize": size / now, "ratio": before / now}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("python", metavar="PYTHON")
    parser.add_argument("--megabytes", type=int, default=1000, help="of weights (default: 1000)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured (default: 3)")
    parser.add_argument("--folder", metavar="DIR", help="where it is made (default: a temporary folder)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bnbenv-bench-", dir=args.folder) as folder:
        print(json.dumps(measure(args.python, Path(folder), args.megabytes, args.rounds)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
