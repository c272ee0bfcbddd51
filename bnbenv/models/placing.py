"""Which layers of a model go on which GPU, where one alone is too small. Pure.

Layers are placed whole and in order, as accelerate's ``infer_auto_device_map`` does with transformers' classes that are
not to be split; each GPU is filled to the same part of what it has room for, so that none is at its limit alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from bnbenv.models.layout import held, quantized
from bnbenv.models.model import Quantization, Skeleton

_LAYER = re.compile(r"(?P<block>(?:[^.]+\.)*?[^.]+\.\d+)\.")
STEPS = 24  # halvings of the interval in which the smallest part is looked for


class Block(NamedTuple):
    """What goes on one device whole: a layer, or a module beside them.

    ``bytes`` are those of its weights, ``kept`` those of them that are not quantized.
    """

    name: str
    bytes: int
    layer: bool
    kept: int = 0


def blocks(skeleton: Skeleton, quantization: Quantization, dtype: str) -> tuple[Block, ...]:
    """The blocks in the order of the model; ``dtype`` is the loading type as safetensors names it.

    The output layer of tied weights is a block of its own without bytes, for a device map has to name it.
    """
    sizes: dict[str, int] = {}
    kept: dict[str, int] = {}
    layers: dict[str, bool] = {}
    output = False
    for parameter in skeleton.parameters:
        found = _LAYER.match(parameter.name)
        name = found["block"] if found else parameter.name.rpartition(".")[0] or parameter.name
        tied_twice = parameter.kind == "output" and not parameter.stored and not parameter.converted
        size = 0 if tied_twice and output else parameter.count * held(parameter, quantization, dtype)
        sizes[name] = sizes.get(name, 0) + size
        kept[name] = kept.get(name, 0) + (size if quantized(parameter, quantization) is None else 0)
        layers[name] = found is not None
        output = output or parameter.kind == "output"
    if not output and any(parameter.kind == "embedding" for parameter in skeleton.parameters):
        sizes.setdefault("lm_head", 0)
        layers.setdefault("lm_head", False)
    return tuple(Block(name, sizes[name], layers[name], kept.get(name, 0)) for name in _in_order(list(sizes), layers))


def _in_order(names: Sequence[str], layers: Mapping[str, bool]) -> list[str]:
    """As the model computes: what comes before its layers, these by number, what comes after."""
    early = ("embed", "wte", "wpe", "rotary", "rotary_emb")
    before = [name for name in names if not layers[name] and name.rpartition(".")[2].startswith(early)]
    within = sorted((name for name in names if layers[name]), key=_number)
    after = [name for name in names if not layers[name] and name not in before]
    # The norm is computed before the output layer.
    return [*before, *within, *sorted(after, key=lambda name: name.rpartition(".")[2] in ("lm_head", "output", "head"))]


def _number(name: str) -> tuple[str, int]:
    stem, _, number = name.rpartition(".")
    return stem, int(number)


def place(parts: Sequence[Block], rooms: Sequence[int], per_layer: int = 0, casts: int = 0) -> dict[str, int] | None:
    """Block -> position in ``rooms``; None where they do not fit.

    ``rooms`` are the bytes that each GPU has for weights and for what belongs to a layer (``per_layer``: its share of
    the KV cache and of what is trained; ``casts`` is what all that is not quantized takes more in float32). Blocks of
    tied weights stay where the embeddings are.
    """
    kept = max(1, sum(block.kept for block in parts))
    sizes = [
        (block.name, block.bytes + (per_layer if block.layer else 0) + -(-casts * block.kept // kept))
        for block in parts
    ]
    if _filled(sizes, rooms, 1.0) is None:
        return None
    low, high = 0.0, 1.0
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if _filled(sizes, rooms, middle) is not None else (middle, high)
    found = _filled(sizes, rooms, high)
    assert found is not None
    for block in parts:
        if not block.bytes and not block.layer:  # tied: it is the embeddings' tensor
            found[block.name] = found[parts[0].name]
    return found


def _filled(sizes: Sequence[tuple[str, int]], rooms: Sequence[int], part: float) -> dict[str, int] | None:
    found: dict[str, int] = {}
    at, used = 0, 0
    for name, size in sizes:
        while at < len(rooms) and used + size > rooms[at] * part:
            at, used = at + 1, 0
        if at == len(rooms):
            return None
        found[name] = at
        used += size
    return found
