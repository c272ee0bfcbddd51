"""The bytes of a model's weights as bitsandbytes lays them out.

Read in bitsandbytes 0.50.2 (``functional.quantize_4bit``, ``quantize_blockwise``, ``QuantState``; ``nn.Params4bit``,
``nn.Int8Params``) and held against real models of both majors of transformers, byte by byte. 0.43.3, 0.45.5 and 0.49.2
lay them out the same on CUDA.

A CPU with AVX-512 BF16 lays 4-bit weights out anew at the first forward pass: statistics become one BF16 a block and
are not nested any more. That is use, not loading, and not counted here.
"""

from __future__ import annotations

from typing import NamedTuple

from bnbenv.models.model import SIZES, Parameter, Quantization, Skeleton, Weights

BLOCK = 64  # elements of a weight that share one absmax
NESTED_BLOCK = 256  # of these, how many share one nested absmax
CODE = 16 * 4  # the 16 values of the 4-bit type, float32, with each weight
NESTED_CODE = 256 * 4  # the 256 values of the 8-bit type of absmax, float32, with each weight
OFFSET = 4  # the mean of absmax, float32

_PARTS = {
    "embedding": "embeddings",
    "output": "output",
    "norm": "norms and biases",
    "bias": "norms and biases",
    "buffer": "buffers",
    "expert": "experts",
    "linear": "linear",
    "other": "other",
}


class Quantized(NamedTuple):
    """Bytes of one quantized weight: its packed data, and the tensors of its quantization state."""

    data: int
    statistics: int

    @property
    def total(self) -> int:
        return self.data + self.statistics


def four_bit(elements: int, double: bool) -> Quantized:
    """A weight in NF4 or FP4: two elements a byte, the last byte half used where their number is odd.

    Plain: one float32 a block. ``double``: one byte a block, for 256 of these one float32, and an offset.
    """
    blocks = -(-elements // BLOCK)
    data = (elements + 1) // 2
    if not double:
        return Quantized(data, 4 * blocks + CODE)
    return Quantized(data, blocks + 4 * -(-blocks // NESTED_BLOCK) + NESTED_CODE + OFFSET + CODE)


def eight_bit(shape: tuple[int, ...]) -> Quantized:
    """A weight in LLM.int8: a byte an element, and one float32 (SCB) a row. ``shape`` is rows first, as computed with.

    The weights of GPT-2's Conv1D are turned over first: their columns are the rows.
    """
    elements = 1
    for side in shape:
        elements *= side
    return Quantized(elements, 4 * shape[0])


def quantized(parameter: Parameter, quantization: Quantization) -> Quantized | None:
    """One such parameter after quantization, or None for one that stays as it is."""
    if not parameter.converted or quantization == "none":
        return None
    if quantization == "int8":
        return eight_bit(parameter.shape)
    return four_bit(parameter.elements, quantization.endswith("-double"))


def plain(parameter: Parameter, dtype: str) -> int:
    """Bytes of one such parameter in the loading type (``dtype``, as safetensors names it), or in its fixed one."""
    return parameter.elements * SIZES[parameter.dtype or dtype]


def held(parameter: Parameter, quantization: Quantization, dtype: str) -> int:
    """Bytes of one such parameter in the loaded model."""
    small = quantized(parameter, quantization)
    return plain(parameter, dtype) if small is None else small.total


def weights(skeleton: Skeleton, quantization: Quantization, dtype: str) -> Weights:
    """The bytes of the loaded model; ``dtype`` is the loading type, as safetensors names it ("BF16")."""
    parts: dict[str, int] = {}

    def add(part: str, size: int) -> None:
        parts[part] = parts.get(part, 0) + size

    for parameter in skeleton.parameters:
        small = quantized(parameter, quantization)
        if small is None:
            add(_PARTS[parameter.kind], parameter.count * plain(parameter, dtype))
        else:
            add("converted", parameter.count * small.data)
            add("statistics", parameter.count * small.statistics)
    return Weights(sum(parts.values()), parts)
