"""The data types and what kernels must compute, from their published definitions; nothing is read from bitsandbytes."""

from __future__ import annotations

from typing import Any

# NormalFloat4: the 16 values printed in QLoRA (arXiv 2305.14314), appendix E; quantiles of the normal distribution.
NF4 = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)


def fp4() -> tuple[float, ...]:
    """FP4 by its bits: a sign, two of exponent e, one of mantissa m; largest value 12, then scaled to 1.

    e = 0 gives m/16 (the format's only subnormal), else (2 + m) * 2**(3 - e): see the table in the comments of
    bitsandbytes' ``csrc/kernels.cu``, whose decoder this must agree with.
    """
    magnitudes = [m / 16 if e == 0 else (2 + m) * 2.0 ** (3 - e) for e in range(4) for m in range(2)]
    return tuple(sign * value / 12 for sign in (1, -1) for value in magnitudes)


def dynamic_map(signed: bool) -> tuple[float, ...]:
    """The 256 values of dynamic 8-bit quantization (arXiv 1511.04561; tree map of arXiv 2110.02861), in order.

    Decade i of seven, 10**(i - 6), is divided into 2**i equal parts of [0.1, 1] (twice as many where there is no sign),
    each represented by its middle; beside those zero and one.
    """
    values = [0.0, 1.0]
    for decade in range(7):
        parts = 2 ** (decade if signed else decade + 1)
        for part in range(parts):
            value = 10.0 ** (decade - 6) * (0.1 + 0.9 * (part + 0.5) / parts)
            values += [value, -value] if signed else [value]
    return tuple(sorted(values))


def tensor(values: tuple[float, ...]) -> Any:
    import torch

    return torch.tensor(values, dtype=torch.float64)


def code_of(quant_type: str) -> Any:
    """The 16 values of ``nf4`` or ``fp4`` by their code, float64."""
    return tensor(NF4 if quant_type == "nf4" else fp4())


def unpack(packed: Any, count: int) -> Any:
    """4-bit codes, two a byte, the first in the high half; int64, on the CPU."""
    import torch

    data = packed.detach().cpu().contiguous().view(torch.uint8).reshape(-1).to(torch.int64)
    return torch.stack((data >> 4, data & 15), dim=1).reshape(-1)[:count]


def blocks(values: Any, blocksize: int) -> Any:
    """The largest magnitude of each block of consecutive values, float64; the last block may be short."""
    import torch

    flat = values.detach().cpu().double().reshape(-1)
    short = -flat.numel() % blocksize
    return torch.nn.functional.pad(flat, (0, short)).reshape(-1, blocksize).abs().max(dim=1).values


def spread(per_block: Any, blocksize: int, count: int) -> Any:
    """One value a block, repeated for each value in it."""
    return per_block.detach().cpu().double().reshape(-1).repeat_interleave(blocksize)[:count]


def gap(scaled: Any, codes: Any, code: Any) -> Any:
    """By how much each chosen code is farther from its value than the nearest code is; 0 is a perfect choice.

    ``scaled`` are values in units of their block's scale, ``codes`` the indices that a kernel chose, ``code`` the
    table; all on the CPU, float64. Ties and rounding at a border cost next to nothing, another code its full distance.
    """
    import torch

    order = code.sort().values
    nearest = order[torch.bucketize(scaled, (order[1:] + order[:-1]) / 2)]
    return (scaled - code[codes]).abs() - (scaled - nearest).abs()


def weight_4bit(packed: Any, state: Any) -> Any:
    """The float64 matrix that 4-bit codes with a bitsandbytes ``QuantState`` stand for; nested scales are decoded too.

    Of the state only the stored numbers are used (scales, offset, shape, sizes), not its code tables.
    """
    count = state.shape.numel()
    absmax = state.absmax
    if state.nested:
        absmax = blockwise(absmax, state.state2.absmax, state.state2.blocksize) + float(state.offset)
    values = code_of(state.quant_type)[unpack(packed, count)] * spread(absmax, state.blocksize, count)
    return values.reshape(tuple(state.shape))


def blockwise(codes: Any, absmax: Any, blocksize: int, signed: bool = True) -> Any:
    """What dynamic 8-bit codes with one scale a block stand for, float64."""
    import torch

    flat = codes.detach().cpu().reshape(-1).to(torch.int64)
    return tensor(dynamic_map(signed))[flat] * spread(absmax, blocksize, flat.numel())
