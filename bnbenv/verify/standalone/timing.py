"""How fast the kernels run on a GPU, and warnings where 8 bits bring no speed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import bitsandbytes as bnb
import torch
from bitsandbytes import functional as F

from .protocol import Step
from .speed import judge
from .target import Target

REPEATS = 20
BYTES_AN_ELEMENT = 40  # parameter, gradient, two 32-bit states, two 8-bit states, and what a copy needs


def timing(step: Step, target: Target) -> None:
    """Bandwidth of dequantizing NF4 to 16 bits beside a plain copy, and one optimizer step at 8 and at 32 bits."""
    free, _ = torch.cuda.mem_get_info()
    count = min(1 << 25, free // (2 * BYTES_AN_ELEMENT)) // 4096 * 4096
    generator = torch.Generator(device=target.device).manual_seed(137)
    values = torch.randn(count, generator=generator, device=target.device).half()
    packed, state = F.quantize_4bit(values, blocksize=64, quant_type="nf4")
    copy = milliseconds(values.clone)
    dequantize = milliseconds(lambda: F.dequantize_4bit(packed, state))
    copied, moved = 4 * count, count // 2 + count // 16 + 2 * count  # codes, a float32 scale for 64, 16-bit results
    step.figures.update(
        elements=count,
        copy_gb_per_s=copied / copy / 1e6,
        dequantize_gb_per_s=moved / dequantize / 1e6,
        quantize_ms=milliseconds(lambda: F.quantize_4bit(values, blocksize=64, quant_type="nf4")),
        adamw8bit_ms=optimizer_step(bnb.optim.AdamW8bit, count, target),
        adamw32bit_ms=optimizer_step(bnb.optim.AdamW, count, target),
    )
    step.warnings += judge(step.figures)
    step.figures = {name: round(value, 3) for name, value in step.figures.items()}


def optimizer_step(optimizer_class: Any, count: int, target: Target) -> float:
    parameter = torch.nn.Parameter(torch.zeros(count, device=target.device))
    parameter.grad = torch.full_like(parameter, 0.01)
    optimizer = optimizer_class([parameter], lr=1e-3)
    return milliseconds(optimizer.step)


def milliseconds(work: Callable[[], Any]) -> float:
    """The median of some runs after two that warm up."""
    times = []
    for number in range(REPEATS + 2):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        work()
        end.record()
        torch.cuda.synchronize()
        if number >= 2:
            times.append(begin.elapsed_time(end))
    return float(sorted(times)[len(times) // 2])
