"""4-bit weights in 32-bit words, as GPTQ and AWQ store them, decoded from their published layouts.

Nothing here is read from the packages. Both hold ``weight[k, n] = scales[g, n] * (code[k, n] - zero[g, n])`` for the
input ``k`` in group ``g`` and the output ``n``, eight codes a word, the first in the lowest bits.
"""

from __future__ import annotations

from typing import Any

import torch

BITS, PER_WORD = 4, 8
# AutoAWQ puts the even columns of eight before the odd ones: nibble i of a word is of this column.
AWQ_COLUMNS = (0, 2, 4, 6, 1, 3, 5, 7)

# A code that is off by one errs by a whole step of its group.
STEP = (0.02, "in steps between two codes: scale and weight are rounded to float16, each up to 15 steps from zero")
EACH = (0.2, "in steps between two codes: the kernel may round weight and bias to bfloat16; a wrong code is 1 or more")
# A kernel may round to bfloat16, whatever type it is given, and add up in its own order.
PRODUCT = (8.0, "units of bfloat16 of the size of the terms: roundings of each weight, each sum and the result")
LOSS = (0.15, "of the size of the result: 4 bits in groups of 128 normal weights err by about 11%")


def by_rows(words: Any) -> Any:
    """Codes of words that hold eight rows each (the weight of GPTQ): ``[K/8, N]`` to ``[K, N]``, int64 on the CPU."""
    return nibbles(words).permute(0, 2, 1).reshape(-1, words.shape[1])


def by_columns(words: Any, order: tuple[int, ...] = tuple(range(PER_WORD))) -> Any:
    """Codes of words that hold eight columns each: ``[R, N/8]`` to ``[R, N]``; nibble ``i`` is of ``order[i]``."""
    found = nibbles(words)
    return found[:, :, [order.index(column) for column in range(PER_WORD)]].reshape(words.shape[0], -1)


def nibbles(words: Any) -> Any:
    """``[..., 8]`` codes of each word."""
    values = words.detach().cpu().to(torch.int64) & 0xFFFFFFFF
    return (values[:, :, None] >> (BITS * torch.arange(PER_WORD))) & 15


def gptq_weight(module: Any, offset: int = 0) -> tuple[Any, Any]:
    """The float64 matrix ``[K, N]`` that a packed GPTQ layer stands for, and the step of each weight.

    ``offset`` is 1 for layers that store their zero points less one, as the first version of the format does.
    """
    groups = module.g_idx.detach().cpu().long()
    zeros = (by_columns(module.qzeros) + offset) & 15
    steps = module.scales.detach().cpu().double()[groups]
    return steps * (by_rows(module.qweight) - zeros[groups]).double(), steps


def awq_weight(module: Any, group: int) -> tuple[Any, Any]:
    """The same for a layer of AutoAWQ's GEMM layout."""
    codes, zeros = by_columns(module.qweight, AWQ_COLUMNS), by_columns(module.qzeros, AWQ_COLUMNS)
    steps = module.scales.detach().cpu().double().repeat_interleave(group, dim=0)
    return steps * (codes - zeros.repeat_interleave(group, dim=0)).double(), steps


def in_steps(result: Any, expected: Any, steps: Any) -> Any:
    """The largest error of weights, each in steps between two codes of its group."""
    return ((result.detach().cpu().double() - expected).abs() / steps).max()


def rounded(weight: Any, group: int, sym: bool) -> Any:
    """Each weight rounded to the nearest of the 16 values of its group (``[N, K]``, float64): what 4 bits do alone."""
    grouped = weight.double().reshape(weight.shape[0], -1, group)
    if sym:
        step = grouped.abs().amax(dim=2, keepdim=True) * 2 / 15
        zero = torch.full_like(step, 8)
    else:
        low, high = grouped.amin(dim=2, keepdim=True), grouped.amax(dim=2, keepdim=True)
        step = (high - low) / 15
        zero = torch.round(-low / step)
    codes = (torch.round(grouped / step) + zero).clamp(0, 15)
    return ((codes - zero) * step).reshape(weight.shape)


def loss(weight: Any, original: Any, x: Any) -> float:
    """By how much ``x @ weight.T`` differs from the product with the original, of the size of that. All float64."""
    exact = x @ original.t()
    return float((x @ weight.t() - exact).norm() / exact.norm())
