"""AWQ: a small layer quantized and packed by AutoAWQ, and multiplied by the kernels that it takes here."""

from __future__ import annotations

import importlib
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch

from . import packed
from .measures import matrix, product_error, unit
from .protocol import Reporter, Step
from .target import Target

INPUTS, OUTPUTS, GROUP = 256, 512, 128
# AutoAWQ multiplies up to this many rows in one kernel, and decodes the whole weight first for more.
SHAPES = ((1, 1), (1, 40), (4, 300))


def prove(target: Target, reporter: Reporter) -> None:
    """Run the steps. Without a packed layer there is nothing to multiply with."""
    made: list[Any] = []
    if not reporter.run("awq-quantize", partial(quantize, target=target, made=made)):
        return
    way = way_taken(target)
    reporter.run(f"awq-gemm-{way}", partial(multiply, target=target, layer=made[0], way=way))


def quantize(step: Step, target: Target, made: list[Any]) -> None:
    """Scales and zero points as its quantizer computes them; packed, they stand for the weights that it gave."""
    from awq.modules.linear.gemm import WQLinear_GEMM
    from awq.quantize.quantizer import AwqQuantizer

    linear = torch.nn.Linear(INPUTS, OUTPUTS, bias=True)
    linear.weight.data = matrix(OUTPUTS, INPUTS, 157) / INPUTS**0.5
    linear.bias.data = matrix(1, OUTPUTS, 159)[0] / INPUTS**0.5
    linear = linear.half().to(target.device)
    original = linear.weight.data.detach().cpu().double()
    # The method uses these three alone of a quantizer, which is made of a whole model.
    settings: Any = SimpleNamespace(w_bit=4, group_size=GROUP, zero_point=True)
    weight, scales, zeros = AwqQuantizer.pseudo_quantize_tensor(settings, linear.weight.data)
    linear.weight.data = weight
    layer = WQLinear_GEMM.from_linear(
        linear, w_bit=4, group_size=GROUP, scales=scales.t().contiguous(), zeros=zeros.t().contiguous()
    )
    decoded, steps = packed.awq_weight(layer, GROUP)
    step.check("packed weights", packed.in_steps(weight.t(), decoded, steps), *packed.STEP)
    nearest = packed.in_steps(original.t(), decoded, steps)
    why = "in steps between two codes: half of one, more at the ends of a group, whose zero point is rounded"
    step.check("against the unquantized weights", nearest, 1.1, why)
    x = matrix(300, INPUTS, 161).double()
    step.check("against the unquantized layer", packed.loss(decoded.t(), original, x), *packed.LOSS)
    made.append(layer.to(target.device).eval())


def way_taken(target: Target) -> str:
    """Which kernels AutoAWQ's forward calls: those of autoawq-kernels, else Triton's, else plain torch."""
    gemm = importlib.import_module("awq.modules.linear.gemm")
    if not target.cuda:
        return "torch"
    if getattr(gemm, "awq_ext", None) is not None:
        return "autoawq-kernels"
    return "triton" if getattr(gemm, "TRITON_AVAILABLE", False) else "torch"


def multiply(step: Step, target: Target, layer: Any, way: str) -> None:
    """Random rows, then a single 1 in each place, which shows every weight by itself."""
    gemm: Any = importlib.import_module("awq.modules.linear.gemm")
    if not target.cuda and (getattr(gemm, "awq_ext", None) is not None or getattr(gemm, "TRITON_AVAILABLE", False)):
        # Its forward calls GPU kernels wherever they can be imported. What it does without them is what can run here.
        gemm.awq_ext, gemm.TRITON_AVAILABLE = None, False
        step.warnings.append(
            "on a CPU AutoAWQ's own forward fails while triton or autoawq-kernels can be imported; verified is the "
            "plain torch path, which it takes where they cannot"
        )
    weight, steps = packed.awq_weight(layer, GROUP)
    bias = layer.bias.detach().cpu()
    for batch, rows in SHAPES:
        x = matrix(batch * rows, INPUTS, 163).half()
        with torch.no_grad():
            result = layer(x.reshape(batch, rows, INPUTS).to(target.device))
        error = product_error(result.reshape(-1, OUTPUTS), x, weight.t(), unit(torch.bfloat16), bias)
        step.check(f"{way}: {batch} x {rows} rows", error, *packed.PRODUCT)
    with torch.no_grad():
        result = layer(torch.eye(INPUTS).half().reshape(1, INPUTS, INPUTS).to(target.device))
    each = result.reshape(INPUTS, OUTPUTS).detach().cpu().double() - bias.double()
    step.check(f"{way}: each weight", packed.in_steps(each, weight, steps), *packed.EACH)
