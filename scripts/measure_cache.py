#!/usr/bin/env python3
"""What a model's cache holds after a prompt and after one token more, as JSON lines.

usage: PYTHON scripts/measure_cache.py [--out FILE] [--context 48] [--batch 2] [MODEL ...]

PYTHON is that of an environment with transformers. MODEL is a checkpoint's folder, which is loaded and run, or the name
of a model type; without any all types with a causal language model are tried. Of a type the model is built with the
default configuration on the meta device, where tensors have shapes and no data; windows are made 16 tokens wide, so
that they show. Bytes are those of the storages of keys, values and states: what is held, whatever a tensor shows of it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import re
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CLASSES

WINDOW = 16
SECONDS = 90  # a model type
# Fields of a configuration that may tell how large its cache is; those of colours and tokens do not.
TELLING = re.compile(
    r"model_type|head|layer|hidden_size|^n_|^d_|_dim$|kv_|window|chunk|conv|mamba|ssm|state_size|linear|pattern|rank|"
    r"expand|groups|multi_query|decoder_architecture|attn|block"
)
CACHES = ("past_key_values", "cache_params")


class TooSlow(Exception):
    """A type whose default configuration takes too long to build."""


def storages(value: Any, found: dict[int, tuple[int, str]]) -> dict[int, tuple[int, str]]:
    """Storage -> its bytes and what is shown of it, of all tensors within; a window's width is a number, no state."""
    if isinstance(value, torch.Tensor):
        if value.dim():
            held = value.untyped_storage()
            found[held._cdata] = (held.nbytes(), f"{list(value.shape)} {str(value.dtype).removeprefix('torch.')}")
    elif isinstance(value, (list, tuple)):
        for one in value:
            storages(one, found)
    elif isinstance(value, dict):
        storages(list(value.values()), found)
    elif hasattr(value, "__dict__") and type(value).__module__.startswith("transformers"):
        storages(list(vars(value).values()), found)
    return found


def cache_of(output: Any) -> Any:
    return next((found for name in CACHES if (found := getattr(output, name, None)) is not None), None)


def run(model: Any, context: int, batch: int, device: str) -> dict[str, Any]:
    """A prompt of ``context`` tokens, and one more."""
    ids = torch.zeros((batch, context), dtype=torch.long, device=device)
    with torch.no_grad():
        held = cache_of(model(input_ids=ids, use_cache=True))
        found = storages(held, {})
        row: dict[str, Any] = {"bytes": sum(size for size, _ in found.values())}
        row["tensors"] = dict(Counter(shape for _, shape in found.values()))
        try:
            after = cache_of(model(input_ids=ids[:, :1], past_key_values=held, use_cache=True))
            row["written"] = sum(size for size, _ in storages(after, {}).values())
        except Exception as error:
            row["written_error"] = f"{type(error).__name__}: {error}"[:120]
    return row


def telling(config: dict[str, Any]) -> dict[str, Any]:
    return {key: one for key, one in config.items() if one is not None and TELLING.search(key) and key != "id2label"}


def of_type(name: str, context: int, batch: int) -> dict[str, Any]:
    """The default configuration of a model type, on the meta device."""
    config = CONFIG_MAPPING[name]()
    text = config.get_text_config(decoder=True)
    for key in ("sliding_window", "attention_chunk_size"):
        if getattr(text, key, None):
            setattr(text, key, WINDOW)
    names = CLASSES[name]
    model_class = getattr(transformers, names if isinstance(names, str) else names[0])
    row = {"architecture": model_class.__name__, "config": telling(json.loads(text.to_json_string(use_diff=False)))}
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"), contextlib.redirect_stdout(io.StringIO()):
            return {**row, **run(model_class(config).eval(), context, batch, "meta")}
    finally:
        torch.set_default_dtype(torch.float32)


def of_folder(name: str, context: int, batch: int) -> dict[str, Any]:
    model = transformers.AutoModelForCausalLM.from_pretrained(name, torch_dtype=torch.bfloat16).eval()
    config = json.loads((Path(name) / "config.json").read_text())
    return {"architecture": type(model).__name__, "config": telling(config), **run(model, context, batch, "cpu")}


def too_slow(*_: object) -> None:
    raise TooSlow(f"more than {SECONDS} s")


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure what a model's cache holds.")
    parser.add_argument("models", nargs="*", metavar="MODEL")
    parser.add_argument("--context", type=int, default=48)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--out", type=Path, help="write the lines to this file too")
    options = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    signal.signal(signal.SIGALRM, too_slow)
    lines = []
    for name in options.models or sorted(CLASSES):
        row = {"model": Path(name).name, "transformers": transformers.__version__, "dtype": "BF16"}
        row |= {"context": options.context, "batch": options.batch}
        signal.alarm(0 if Path(name).is_dir() else SECONDS)
        try:
            row |= (of_folder if Path(name).is_dir() else of_type)(name, options.context, options.batch)
        except Exception as error:
            row["error"] = f"{type(error).__name__}: {error}"[:160]
        signal.alarm(0)
        lines.append(json.dumps(row))
        print(lines[-1], flush=True)
        if options.out is not None:
            options.out.write_text("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
