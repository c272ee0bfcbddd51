"""One weight after another: quantized by the library, and taken apart into the tensors of a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from .checkpoint import NAMES
from .names import Names


@dataclass(frozen=True)
class Entry:
    """A tensor of the output. ``bytes`` is what it takes; of a ``blob``, the state's description, at the most."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int
    alignment: int
    blob: bool = False


def entry(name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> Entry:
    elements = 1
    for side in shape:
        elements *= side
    return Entry(name, NAMES[dtype], shape, elements * dtype.itemsize, dtype.itemsize)


def is_converted(model: Any, target: str) -> bool:
    """Whether it is the weight of a module that bitsandbytes has made."""
    import bitsandbytes as bnb

    path, _, name = target.rpartition(".")
    module = model.get_submodule(path)
    return name == "weight" and isinstance(module, (bnb.nn.Linear4bit, bnb.nn.Linear8bitLt))


def stored_shape(model: Any, target: str) -> tuple[int, ...]:
    """The shape that a checkpoint holds of a parameter or buffer: GPT-2's Conv1D is stored the other way round."""
    shape = tuple(model.state_dict()[target].shape)
    module = model.get_submodule(target.rpartition(".")[0])
    source = getattr(module, "source_cls", None)
    if source is not None and source.__name__ == "Conv1D" and target.endswith("weight"):
        return shape[::-1]
    return shape


def serialize(model: Any, names: Names, target: str, value: torch.Tensor) -> dict[str, torch.Tensor]:
    """Quantize a weight; what its module would save of it: ``weight``, ``weight.absmax``, ..., or ``SCB``, ...

    The module forgets it again.
    """
    module = model.get_submodule(target.rpartition(".")[0])
    empty = module._parameters["weight"]
    found: dict[str, torch.Tensor] = {}
    try:
        module._parameters["weight"] = names.quantize(target, value)
        module._save_to_state_dict(found, "", False)
    finally:
        module._parameters["weight"] = empty
        if hasattr(module, "quant_state"):
            module.quant_state = None
    found.pop("bias", None)
    return found


class Prediction:
    """What a weight's tensors will be like, learned from a small one that the library has quantized."""

    # The description of the state is JSON: the nested offset may have other digits, the shape more of them.
    SLACK = 96

    def __init__(self, model: Any, names: Names, target: str, dtype: torch.dtype, device: torch.device) -> None:
        # Whole blocks of statistics, and square, as a Conv1D's weight is turned round.
        self.sample = torch.linspace(-1, 1, 256 * 256, device=device).to(dtype).view(256, 256)
        self.found = serialize(model, names, target, self.sample)

    def entries(self, base: str, shape: tuple[int, ...]) -> list[Entry]:
        """``base`` is the name of the module with its dot; ``shape`` is rows and columns of its weight."""
        return [self._entry(base, key, value, shape) for key, value in self.found.items()]

    def _entry(self, base: str, key: str, value: torch.Tensor, shape: tuple[int, ...]) -> Entry:
        elements, sample = shape[0] * shape[1], self.sample.numel()
        if "quant_state." in key:
            size = value.numel() + self.SLACK
            return Entry(base + key, NAMES[value.dtype], (size,), size, 1, blob=True)
        if key == "weight" and value.shape == self.sample.shape:  # int8
            made: tuple[int, ...] = shape
        elif key == "weight":  # packed: two elements a byte, in elements of the storage type
            made = (-(-elements // (2 * value.dtype.itemsize)), 1)
        elif key == "SCB":
            made = (shape[0],)
        elif key.endswith("nested_absmax"):
            blocks = -(-elements // (sample // self.found["weight.absmax"].numel()))
            made = (-(-blocks // (self.found["weight.absmax"].numel() // value.numel())),)
        elif key.endswith(".absmax"):
            made = (-(-elements // (sample // value.numel())),)
        else:  # tables of numbers
            made = tuple(value.shape)
        return entry(base + key, value.dtype, made)
