#!/usr/bin/env python3
"""Trains adapters for one step and prints what that held in memory, as JSON lines.

usage: PYTHON scripts/measure_training.py MODEL ... [--out FILE]

PYTHON is that of an environment with transformers, peft and bitsandbytes. MODEL is a checkpoint's folder, or
``llama:HIDDEN:LAYERS:HEADS:KV:INSIDE:VOCAB``, which is made with random weights. Each is loaded with each
``--quantization``, made ready by peft's ``prepare_model_for_kbit_training`` (if quantized), given LoRA adapters, and
trained with each ``--context`` and ``--batch``, with and without gradient checkpointing.

Bytes are those of live tensors, each storage once, as every operation of torch makes them; what a kernel takes inside
is not seen. On a GPU (``--device cuda``) also those that torch's allocator counts.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import weakref
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# What a prediction needs to know of a configuration.
CONFIG = (
    *("model_type", "num_attention_heads", "final_logit_softcapping", "attn_logit_softcapping"),
    *("num_local_experts", "num_experts", "num_experts_per_tok", "num_hidden_layers", "sliding_window", "layer_types"),
)


class Live(TorchDispatchMode):  # type: ignore[misc]
    """Bytes of the storages that are alive: of those that were known at first, and of all that are made since."""

    def __init__(self, explain: bool = False) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}
        self.now = self.peak = 0
        self.explain = explain
        self.names: dict[int, str] = {}
        self.at_peak: dict[str, int] = {}

    def see(self, tensor: torch.Tensor, name: str = "") -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self.sizes or not size:
            return
        self.sizes[key] = size
        self.now += size
        weakref.finalize(storage, self.gone, key)
        if self.explain:
            self.names[key] = f"{name} {tuple(tensor.shape)} {tensor.dtype}"
        if self.now > self.peak:
            self.peak = self.now
            if self.explain:
                self.at_peak = {}
                for one, held in self.sizes.items():
                    self.at_peak[self.names[one]] = self.at_peak.get(self.names[one], 0) + held

    def gone(self, key: int) -> None:
        self.now -= self.sizes.pop(key, 0)
        self.names.pop(key, None)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for one in tree_leaves(out):
            if isinstance(one, torch.Tensor):
                self.see(one, str(func))
        return out


def tensors_of(model: torch.nn.Module) -> list[torch.Tensor]:
    """Parameters, buffers and the tensors of their quantization."""
    found = [*model.parameters(), *model.buffers()]
    for one in model.parameters():
        state = getattr(one, "quant_state", None)
        for part in (state, getattr(state, "state2", None)):
            found += [value for value in vars(part).values() if isinstance(value, torch.Tensor)] if part else []
        found += [one.SCB] if getattr(one, "SCB", None) is not None else []
    for module in model.modules():
        state = getattr(module, "state", None)
        found += [value for name in ("CB", "SCB") if isinstance(value := getattr(state, name, None), torch.Tensor)]
    return found


def described(model: torch.nn.Module) -> list[list[Any]]:
    """Name, shape, kind of each parameter and whether it was quantized, as ``bnbenv.models`` speaks of them."""
    output = model.get_output_embeddings()
    found = []
    for prefix, module in model.named_modules():
        for name, one in module.named_parameters(recurse=False):
            state = getattr(one, "quant_state", None)
            shape = list(one.shape if state is None else state.shape)
            converted = state is not None or getattr(one, "SCB", None) is not None
            kind = "norm"
            if module is output and name == "weight":
                kind = "output"
            elif isinstance(module, torch.nn.Embedding):
                kind = "embedding"
            elif len(shape) == 3:
                kind = "expert"
            elif isinstance(module, torch.nn.Linear):
                kind = "linear" if name == "weight" else "bias"
            found.append([f"{prefix}.{name}", shape, kind, converted])
    tied = model.get_input_embeddings().weight is getattr(output, "weight", None)
    return [one for one in found if not (tied and one[2] == "output")]


def size_of(tensors: list[torch.Tensor]) -> int:
    return sum({one.untyped_storage()._cdata: one.untyped_storage().nbytes() for one in tensors}.values())


def load(folder: str, quantization: str, device: str) -> Any:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    config = None
    if quantization == "int8":
        config = BitsAndBytesConfig(load_in_8bit=True)
    elif quantization != "none":
        kind, _, double = quantization.partition("-")
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=kind,
            bnb_4bit_use_double_quant=bool(double),
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    return AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=config, torch_dtype=torch.bfloat16, device_map={"": device}
    )


def optimizer_of(name: str, trained: list[torch.Tensor]) -> Any:
    import bitsandbytes as bnb

    kinds = {
        "adamw": torch.optim.AdamW,
        "adamw-8bit": bnb.optim.AdamW8bit,
        "paged-adamw-8bit": bnb.optim.PagedAdamW8bit,
    }
    return kinds[name](trained, lr=1e-4)


def measure(
    folder: str, options: argparse.Namespace, quantization: str, context: int, batch: int, checkpointing: bool
) -> dict[str, Any]:
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    model = load(folder, quantization, options.device)
    row: dict[str, Any] = {"weights": size_of(tensors_of(model)), "parameters": described(model)}
    text = model.config.get_text_config().to_dict()
    row["config"] = {name: text[name] for name in CONFIG if text.get(name) is not None}
    kind = {"use_reentrant": False}
    if quantization != "none":
        model = prepare_model_for_kbit_training(
            model,
            use_gradient_checkpointing=checkpointing,
            gradient_checkpointing_kwargs=kind if checkpointing else None,
        )
    elif checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=kind)
        model.enable_input_require_grads()
    row["prepared"] = size_of(tensors_of(model)) - row["weights"]
    targets = options.targets.split(",") if options.targets else "all-linear"
    model = get_peft_model(model, LoraConfig(r=options.rank, target_modules=targets, task_type="CAUSAL_LM"))
    trained = [one for one in model.parameters() if one.requires_grad]
    row |= {"trained": sum(one.numel() for one in trained), "adapters": size_of(trained)}
    model.train()
    optimizer = optimizer_of(options.optimizer, trained)
    base = tensors_of(model)
    autocast = torch.autocast(options.device, dtype=torch.bfloat16, enabled=options.autocast)

    def step() -> torch.Tensor:
        with autocast:
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        return loss.detach()

    torch.manual_seed(0)
    ids = torch.randint(0, model.config.get_text_config().vocab_size, (batch, context), device=options.device)
    loss = step()  # from now on there are gradients, as there are while they are accumulated
    gradients = [one.grad for one in trained if one.grad is not None]
    row["gradients"] = size_of(gradients)
    live = Live(options.explain)
    for one in [*base, *gradients, ids]:
        live.see(one, "before")
    began = live.now
    if options.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        allocated = torch.cuda.memory_allocated()
    with live:
        step()
    row["activations"] = live.peak - began
    if options.explain:
        row["at_peak"] = dict(sorted(live.at_peak.items(), key=lambda one: -one[1])[:40])
    if options.device == "cuda":
        row["allocator_peak"] = torch.cuda.max_memory_allocated() - allocated
    optimizer.step()
    row["optimizer_bytes"] = size_of(
        [value for state in optimizer.state.values() for value in state.values() if isinstance(value, torch.Tensor)]
    )
    row["loss"] = round(loss.item(), 4)
    return row


def made(words: str, folder: Path) -> str:
    """A checkpoint of random weights of such sides."""
    import transformers as hf

    sides = [int(one) for one in words.split(":")[1:]]
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size")
    config = hf.LlamaConfig(**dict(zip((*names, "vocab_size"), sides, strict=True)))
    place = folder / words.replace(":", "-")
    hf.AutoModelForCausalLM.from_config(config).to(torch.bfloat16).save_pretrained(place)
    return str(place)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure one step of training adapters.")
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--quantization", nargs="+", default=["nf4-double"])
    parser.add_argument("--context", nargs="+", type=int, default=[512])
    parser.add_argument("--batch", nargs="+", type=int, default=[1])
    parser.add_argument("--checkpointing", nargs="+", choices=("on", "off"), default=["on", "off"])
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--targets", help="names of modules, with commas (default: all-linear)")
    parser.add_argument("--optimizer", default="adamw", choices=("adamw", "adamw-8bit", "paged-adamw-8bit"))
    parser.add_argument("--autocast", action="store_true", help="compute under autocast to bfloat16")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--explain", action="store_true", help="what was alive at the peak")
    parser.add_argument("--out", type=Path, help="append the lines to this file too")
    return parser.parse_args()


def main() -> int:
    options = parse()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import bitsandbytes
    import peft
    import transformers

    transformers.utils.logging.set_verbosity_error()
    versions = {one.__name__: one.__version__ for one in (torch, transformers, peft, bitsandbytes)}
    with tempfile.TemporaryDirectory() as place:
        for model in options.models:
            folder = made(model, Path(place)) if model.startswith("llama:") else model
            for quantization in options.quantization:
                for context in options.context:
                    for batch in options.batch:
                        for word in options.checkpointing:
                            row = {"model": Path(model).name, "quantization": quantization, "context": context}
                            row |= {"batch": batch, "rank": options.rank, "optimizer": options.optimizer}
                            row |= {
                                "checkpointing": word == "on",
                                "autocast": options.autocast,
                                "device": options.device,
                            }
                            row |= measure(folder, options, quantization, context, batch, word == "on")
                            line = json.dumps({**row, "versions": versions})
                            print(line, flush=True)
                            if options.out is not None:
                                with options.out.open("a") as stream:
                                    stream.write(line + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
