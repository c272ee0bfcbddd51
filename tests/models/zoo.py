"""Run by the Python of an environment with transformers: small models of random weights, saved into a folder.

``python zoo.py FOLDER [NAME ...]``
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import transformers as hf

# Two layers, sides that are no multiples of a block times 256, fewer heads of keys than of queries.
SIDES: dict[str, Any] = {
    "vocab_size": 1000,
    "hidden_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "max_position_embeddings": 512,
}
GROUPED = {**SIDES, "num_key_value_heads": 2, "intermediate_size": 416}
OPT = {**SIDES, "ffn_dim": 416, "word_embed_proj_dim": 192}
GPT2 = {"vocab_size": 1000, "n_embd": 192, "n_layer": 2, "n_head": 6, "n_positions": 512}
BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32

# name: configuration, type that it is stored in, largest file
ZOO: dict[str, tuple[Any, torch.dtype, str]] = {
    "llama": (lambda: hf.LlamaConfig(**GROUPED), BF16, "5GB"),
    "llama-sharded": (lambda: hf.LlamaConfig(**GROUPED), BF16, "300KB"),
    "llama-f32": (lambda: hf.LlamaConfig(**GROUPED, tie_word_embeddings=True), F32, "5GB"),
    "llama-biases": (lambda: hf.LlamaConfig(**GROUPED, attention_bias=True, mlp_bias=True), F16, "5GB"),
    "qwen2": (lambda: hf.Qwen2Config(**GROUPED, tie_word_embeddings=True), BF16, "5GB"),
    "mistral": (lambda: hf.MistralConfig(**GROUPED, head_dim=48, sliding_window=64), BF16, "5GB"),
    "gemma": (lambda: hf.GemmaConfig(**GROUPED, head_dim=64), BF16, "400KB"),
    "opt": (lambda: hf.OPTConfig(**OPT), F16, "5GB"),
    "gpt2": (lambda: hf.GPT2Config(**GPT2), F32, "5GB"),
    "mixtral": (lambda: hf.MixtralConfig(**GROUPED, num_local_experts=4), BF16, "600KB"),
}


def main(folder: Path, names: list[str]) -> None:
    hf.utils.logging.set_verbosity_error()
    for name in names or ZOO:
        config, dtype, largest = ZOO[name]
        torch.manual_seed(20)
        model = hf.AutoModelForCausalLM.from_config(config()).to(dtype)
        for key, value in model.named_parameters():
            if key.endswith("bias"):  # which begin as zeros
                torch.nn.init.normal_(value, std=0.02)
        model.save_pretrained(folder / name, max_shard_size=largest)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
