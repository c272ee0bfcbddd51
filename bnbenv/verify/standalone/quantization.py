"""Quantizing and dequantizing: 8 bits in blocks, nested, and 4 bits in all block sizes and float types."""

from __future__ import annotations

from typing import Any

import torch
from bitsandbytes import functional as F

from . import reference
from .measures import relative, unit
from .protocol import Broken, Skip, Step
from .target import Target

# How far a chosen code may be from the nearest, in units of the block's scale; see reference.gap.
# The CUDA kernels divide with a fast reciprocal (2 units in the last place, 5e-7 for two sides of a border) and
# compare with borders written with six digits.
GAP_CUDA = (4e-6, "the nearest code, but for rounding of a float32 quotient at the border between two codes")
# bitsandbytes 0.50 quantizes on the CPU through a table of 65536 bins over [-1, 1]: half a bin twice is 3.05e-5.
GAP_CPU_8BIT = (3.2e-5, "the nearest code, but for the CPU's table of 65536 bins (half a bin on either side)")
# Before 0.50 the CPU code takes -1 for the lowest 8-bit value, which moves the border to the next by 3.5e-3, and
# scales a short last block of 4-bit values in its own type: bfloat16 rounds by 2e-3 on either side.
GAP_OLD_CPU = (4e-3, "the nearest code, but for the old CPU code's lowest value and its scaling in bfloat16")
DECODED_OLD_CPU = (8e-3, "relative; before 0.50 the CPU's tables are off by 0.7%, half the distance between two codes")
ABSMAX = (1e-7, "the largest magnitude of a block is one of its values: nothing is rounded")


def gap_8bit(target: Target) -> tuple[float, str]:
    return GAP_CUDA if target.cuda else GAP_OLD_CPU if target.old_cpu else GAP_CPU_8BIT


def normal(count: int, seed: int, dtype: Any = torch.float32) -> Any:
    """Normal values as a CPU tensor, the same on every machine; the scale differs from block to block of 64."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(count, generator=generator)
    scales = torch.exp(torch.randn(-(-count // 64), generator=generator) / 2)
    return (values * scales.repeat_interleave(64)[:count]).to(dtype)


def check_decoded(step: Step, target: Target, what: str, result: Any, expected: Any, dtype: Any) -> None:
    """A decoded value is one product, rounded once to its type; the tables themselves are float32 literals."""
    if result.dtype != dtype or result.numel() != expected.numel():
        raise Broken(f"{what}: {result.numel()} values of {result.dtype}, not {expected.numel()} of {dtype}")
    if target.old_cpu:
        step.check(what, relative(result.reshape(expected.shape), expected, dtype) * unit(dtype), *DECODED_OLD_CPU)
        return
    limit = 8.0 if dtype == torch.float32 else 1.0
    why = "units in the last place: one product of float32 numbers that are themselves rounded"
    why = why if dtype == torch.float32 else "units in the last place: rounded once to the type"
    step.check(what, relative(result.reshape(expected.shape), expected, dtype), limit, why)


def check_absmax(step: Step, what: str, result: Any, expected: Any) -> None:
    if result.numel() != expected.numel():
        raise Broken(f"{what}: {result.numel()} scales for {expected.numel()} blocks")
    error = ((result.detach().cpu().double().reshape(-1) - expected).abs() / expected).max()
    step.check(f"{what}: scales", error, *ABSMAX)


def blockwise(step: Step, target: Target) -> None:
    """Random values, and every one of the 256 codes, at the block sizes of the optimizers and of the default."""
    if target.version >= (0, 46):
        target.need("quantize_blockwise", "dequantize_blockwise")
    code = reference.tensor(reference.dynamic_map(signed=True))
    limit = gap_8bit(target)
    for dtype in [torch.float32] if target.early_cpu else target.dtypes():
        for blocksize in (256, 4096):
            what = f"{str(dtype)[6:]}, blocks of {blocksize}"
            values = normal(4 * 4096 + 100, 11 + blocksize, dtype)
            codes, state = F.quantize_blockwise(values.to(target.device), blocksize=blocksize)
            absmax = reference.blocks(values, blocksize)
            check_absmax(step, what, state.absmax, absmax)
            chosen = codes.detach().cpu().reshape(-1).to(torch.int64)
            scaled = values.double() / reference.spread(absmax, blocksize, values.numel())
            step.check(f"{what}: codes", reference.gap(scaled, chosen, code).max(), *limit)
            decoded = F.dequantize_blockwise(codes, quant_state=state)
            check_decoded(
                step, target, f"{what}: decoded", decoded, reference.blockwise(codes, absmax, blocksize), dtype
            )
    every = torch.arange(256, dtype=torch.uint8).repeat(2)
    scales = torch.tensor([0.75, 3.0])
    decoded = F.dequantize_blockwise(every.to(target.device), absmax=scales.to(target.device), blocksize=256)
    check_decoded(step, target, "every code", decoded, reference.blockwise(every, scales, 256), torch.float32)


def blockwise_nested(step: Step, target: Target) -> None:
    """The scales less their mean are quantized in turn; both levels are decoded by the reference."""
    if target.version >= (0, 46):
        target.need("quantize_blockwise", "dequantize_blockwise")
    blocksize = 256
    values = normal(300 * blocksize, 23)
    codes, state = F.quantize_blockwise(values.to(target.device), blocksize=blocksize, nested=True)
    absmax = reference.blocks(values, blocksize)
    offset = float(state.offset)
    step.check("offset", abs(offset - float(absmax.mean())) / offset, 1e-6, "the mean of 300 float32 numbers")
    centred = absmax - offset
    second = reference.blocks(centred, state.state2.blocksize)
    error = ((state.state2.absmax.detach().cpu().double() - second).abs() / second).max()
    step.check("scales of the scales", error, 1e-5, "a difference of two float32 numbers of similar size")
    code = reference.tensor(reference.dynamic_map(signed=True))
    scaled = centred / reference.spread(second, state.state2.blocksize, centred.numel())
    limit = gap_8bit(target)
    chosen = state.absmax.detach().cpu().reshape(-1).to(torch.int64)
    step.check("codes of the scales", reference.gap(scaled, chosen, code).max(), *limit)
    scales = reference.blockwise(state.absmax, second, state.state2.blocksize) + offset
    decoded = F.dequantize_blockwise(codes, quant_state=state).detach().cpu().double()
    expected = reference.blockwise(codes, scales, blocksize)
    largest = reference.spread(reference.blocks(expected, blocksize), blocksize, expected.numel())
    error = ((decoded.reshape(-1) - expected).abs() / largest).max()
    limit = DECODED_OLD_CPU if target.old_cpu else (2e-6, "the scale is a float32 sum, the value one more product")
    step.check("decoded", error, *limit)


def four_bit(step: Step, target: Target, quant_type: str, blocksize: int) -> None:
    """Codes, scales and decoded values in each float type, with a short last block; then every code in both halves."""
    target.need("quantize_4bit", "dequantize_4bit")
    if quant_type not in target.quant_types():
        raise target.missing(quant_type)
    code = reference.code_of(quant_type)
    tail = 0 if target.early_cpu else 48
    for dtype in target.dtypes():
        what = str(dtype)[6:]
        values = normal(96 * 256 + tail, 31 + blocksize, dtype)
        packed, state = F.quantize_4bit(values.to(target.device), blocksize=blocksize, quant_type=quant_type)
        if packed.numel() * packed.element_size() != values.numel() // 2:
            raise Broken(
                f"{what}: {values.numel()} values take {packed.numel() * packed.element_size()} bytes, not half"
            )
        absmax = reference.blocks(values, blocksize)
        check_absmax(step, what, state.absmax, absmax)
        chosen = reference.unpack(packed, values.numel())
        scaled = values.double() / reference.spread(absmax, blocksize, values.numel())
        limit = GAP_OLD_CPU if target.old_cpu else GAP_CUDA
        step.check(f"{what}: codes", reference.gap(scaled, chosen, code).max(), *limit)
        decoded = F.dequantize_4bit(packed, state)
        check_decoded(step, target, f"{what}: decoded", decoded, reference.weight_4bit(packed, state), dtype)
        every = torch.arange(256, dtype=torch.uint8)  # every pair of codes, twice
        packed = every.repeat(2 * blocksize // 256 or 1).reshape(-1, 1).to(target.device)
        count = packed.numel() * 2
        state.absmax = torch.linspace(0.5, 2.0, count // blocksize).to(target.device)
        state.shape = torch.Size((count,))
        decoded = F.dequantize_4bit(packed, state)
        check_decoded(step, target, f"{what}: every code", decoded, reference.weight_4bit(packed, state), dtype)
        for first in () if target.early_cpu else (0x01, 0x23):
            # Too few for the vector instructions of a CPU: what is left over has code and a table of its own.
            packed = (first + 0x22 * torch.arange(7)).to(torch.uint8).reshape(-1, 1).to(target.device)
            state.absmax = torch.tensor([0.75]).to(target.device)
            state.shape = torch.Size((14,))
            decoded = F.dequantize_4bit(packed, state)
            check_decoded(step, target, f"{what}: a short block", decoded, reference.weight_4bit(packed, state), dtype)


def ragged_rows(step: Step, target: Target) -> None:
    """A matrix whose rows are no multiple of the block size: blocks run on from one row into the next."""
    target.need("quantize_4bit", "dequantize_4bit")
    values = normal(32 * 96, 47).reshape(32, 96)
    packed, state = F.quantize_4bit(values.to(target.device), blocksize=64, quant_type="nf4")
    expected = reference.weight_4bit(packed, state)
    decoded = F.dequantize_4bit(packed, state)
    wrong = relative(decoded, expected, torch.float32)
    if not target.cuda and not wrong <= 8:
        error = float((decoded.double() - expected).abs().max())
        raise Skip(
            f"on this CPU bitsandbytes decodes rows that are no multiple of the block size wrongly (by up to "
            f"{error:.2g}): keep such layers unquantized here"
        )
    check_decoded(step, target, "rows of 96, blocks of 64", decoded, expected, torch.float32)
