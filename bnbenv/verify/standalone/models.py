"""A small model, made here and saved, and what transformers makes of it in 4 and in 8 bits."""

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import bitsandbytes as bnb
import torch

from . import reference
from .huggingface import cause_of
from .protocol import Broken, Skip, describe
from .target import Target, numbers

NO_PLACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)
SHAPE = {
    "vocab_size": 512,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 1 / 16,  # 1 / sqrt(hidden_size): what comes out of a layer is as large as what goes in
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": None,  # so that each generation has its full length
    "pad_token_id": 0,
}


@dataclass
class Models:
    """The saved model: ``folder`` holds it, ``weights`` are its parameters by name, float64, as they were saved.

    ``loaded`` are the quantized ones by kind, ``4bit`` or ``8bit``, as far as they could be loaded.
    """

    transformers: ModuleType
    target: Target
    folder: Path
    config: Any
    weights: dict[str, Any]
    loaded: dict[str, Loaded] = field(default_factory=dict)

    def dtype(self, kind: str) -> Any:
        """What the layers compute in: LLM.int8 always in float16, and bfloat16 has no units before capability 8.0."""
        old = self.target.cuda and (self.target.capability or (0, 0)) < (8, 0)
        return torch.float16 if old or kind == "8bit" else torch.bfloat16

    def load(self, kind: str) -> Loaded:
        """Load the model in ``4bit`` (NF4 with nested scales) or ``8bit`` onto the device. Raises Broken."""
        dtype, version = self.dtype(kind), self.transformers.__version__
        options: dict[str, Any] = {"load_in_8bit": True}
        if kind == "4bit":
            options = {
                "load_in_4bit": True,
                "bnb_4bit_quant_type": "nf4",
                "bnb_4bit_use_double_quant": True,
                "bnb_4bit_compute_dtype": dtype,
            }
        try:
            model = self.transformers.LlamaForCausalLM.from_pretrained(
                str(self.folder),
                quantization_config=self.transformers.BitsAndBytesConfig(**options),
                device_map={"": 0 if self.target.cuda else "cpu"},
                **{"dtype" if numbers(version) >= (4, 56) else "torch_dtype": dtype},
            )
        except Exception as error:
            text = describe(cause_of(error))
            raise Broken(f"transformers {version} cannot load a model in {words(kind)}: {text}") from error
        return Loaded(self, kind, model, dict(quantized_layers(model, kind, self.target)))

    def plain(self, weights: dict[str, Any]) -> Any:
        """The model in float64 on the CPU, with ``weights`` in place of those of the same names. Nothing is trained."""
        model = self.transformers.LlamaForCausalLM(self.config).double().eval()
        model.load_state_dict({**self.weights, **weights})
        return model.requires_grad_(False)

    def tokens(self, rows: int, length: int, seed: int) -> Any:
        """Random tokens but the special ones, int64, on the device."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(3, SHAPE["vocab_size"], (rows, length), generator=generator).to(self.target.device)


@dataclass
class Loaded:
    """A quantized model; ``decoded`` is what its weights stand for by their names, float64, ``layers`` has the layers.

    All is decoded at once, since on some CPUs the first forward pass packs the weights in another way.
    """

    models: Models
    kind: str
    model: Any
    layers: dict[str, Any]
    decoded: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.decoded = {f"{name}.weight": self.decode(name, layer) for name, layer in self.layers.items()}

    def decode(self, name: str, layer: Any) -> Any:
        if self.kind == "4bit":
            return reference.weight_4bit(layer.weight.data, layer.weight.quant_state)
        return layer.weight.data.cpu().double() * self.scale(name)[:, None] / 127

    def scale(self, name: str) -> Any:
        """The largest magnitude of each row of the saved weight: the scales of int8."""
        return self.models.weights[f"{name}.weight"].abs().max(dim=1).values


def words(kind: str) -> str:
    return f"{kind[0]} bits"


def make(transformers: ModuleType, target: Target, folder: Path | None) -> Models:
    """Make a model with seeded weights, and save it. Raises Broken, and Skip where there is no place for it."""
    if folder is None:
        raise Skip("there is no place for temporary files, and a model must be saved: set TMPDIR to a folder")
    torch.manual_seed(151)
    try:
        config = transformers.LlamaConfig(**SHAPE)
        model = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
        model.save_pretrained(str(folder / "model"))
    except Exception as error:
        cause = cause_of(error)
        number = system_error(cause)
        if number in NO_PLACE:
            why = os.strerror(number).lower()
            raise Skip(f"a model cannot be saved in {folder.parent} ({why}): set TMPDIR to another folder") from error
        version = transformers.__version__
        raise Broken(f"transformers {version} cannot make and save a model: {describe(cause)}") from error
    weights = {name: value.double() for name, value in model.state_dict().items()}
    return Models(transformers, target, folder / "model", config, weights)


def system_error(error: BaseException) -> int:
    """The number of what the operating system said, 0 for none; safetensors, written in Rust, has it in its text."""
    if isinstance(error, OSError):
        return error.errno or 0
    found = re.search(r"os error (\d+)", str(error))
    return int(found[1]) if found else 0


def quantized_layers(model: Any, kind: str, target: Target) -> list[tuple[str, Any]]:
    """The linear layers but the last by name. Raises Broken where one is not quantized, or not on the device."""
    wanted, dtype = (bnb.nn.Linear4bit, torch.uint8) if kind == "4bit" else (bnb.nn.Linear8bitLt, torch.int8)
    found = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and not name.endswith("lm_head")
    ]
    plain = [name for name, layer in found if not isinstance(layer, wanted) or layer.weight.dtype != dtype]
    if plain or not found:
        first = f", such as {plain[0]} ({model.get_submodule(plain[0]).weight.dtype})" if plain else ""
        text = f"asked for {words(kind)}, transformers left {len(plain)} of {len(found)} layers unquantized{first}"
        raise Broken(text)
    elsewhere = {str(value.device) for value in model.parameters() if value.device.type != target.device}
    if elsewhere:
        raise Broken(f"transformers put a model on {', '.join(sorted(elsewhere))}, not on {target.device}")
    for name, layer in found if kind == "4bit" else ():
        state = layer.weight.quant_state
        if state.quant_type != "nf4" or not state.nested:
            have = f"{state.quant_type}{', nested' if state.nested else ', not nested'}"
            raise Broken(f"asked for NF4 with nested scales, transformers quantized {name} as {have}")
    return found
