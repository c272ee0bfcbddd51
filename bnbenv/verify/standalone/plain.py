"""torch alone: its own products and gradients in each float type."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from .measures import matrix, product_error, unit
from .protocol import Reporter, Step
from .target import Target

PRODUCT = (8.0, "units in the last place of the size of the terms: each rounded once, a sum in any order, the result")
GRADIENT = "relative in norm; three products, each rounded to the type"


def prove(target: Target, reporter: Reporter) -> None:
    """Run the steps."""
    reporter.run("torch-products", partial(products, target=target))
    reporter.run("torch-gradients", partial(gradients, target=target))


def types(target: Target) -> tuple[Any, ...]:
    old = target.cuda and (target.capability or (0, 0)) < (8, 0)
    return (torch.float32, torch.float16) if old else (torch.float32, torch.float16, torch.bfloat16)


def products(step: Step, target: Target) -> None:
    """A row, some rows, a batch: shapes for which a GPU's libraries have different kernels."""
    for dtype in types(target):
        for rows, inputs, outputs in ((1, 256, 512), (40, 1024, 256), (512, 512, 512)):
            x, weight = matrix(rows, inputs, 171).to(dtype), (matrix(outputs, inputs, 173) / inputs**0.5).to(dtype)
            bias = matrix(1, outputs, 177)[0].to(dtype)
            result = torch.nn.functional.linear(*(one.to(target.device) for one in (x, weight, bias)))
            # A sum of n terms in the type itself may be off by the root of n of its units.
            limit = PRODUCT[0] * (inputs**0.5 if dtype == torch.float32 else 1.0)
            error = product_error(result, x, weight.double(), unit(dtype), bias)
            step.check(f"{str(dtype)[6:]}: {rows} x {inputs} x {outputs}", error, limit, PRODUCT[1])


def gradients(step: Step, target: Target) -> None:
    """Two layers with a smooth bend between, and attention: the gradient of each weight against float64 on the CPU."""
    for dtype, limit in ((torch.float32, 1e-5), (types(target)[-1], 8 * unit(types(target)[-1]))):
        values = [matrix(64, 64, 181 + number) / (1 if number == 0 else 8) for number in range(5)]
        ours = [one.clone().to(dtype).to(target.device).requires_grad_() for one in values]
        exact = [one.to(dtype).double().requires_grad_() for one in values]
        for parts in (ours, exact):
            forward(parts).pow(2).mean().backward()
        for name, one, by in zip(("x", "query", "key", "value", "out"), ours, exact):  # noqa: B905 - Python 3.9
            error = (one.grad.detach().cpu().double() - by.grad).norm() / by.grad.norm()
            step.check(f"{str(dtype)[6:]}: gradient of {name}", error, limit, GRADIENT)


def forward(parts: list[Any]) -> Any:
    x, query, key, value, out = parts
    heads = [torch.tanh(x @ one.t()).reshape(1, 64, 4, 16).transpose(1, 2) for one in (query, key, value)]
    mixed = torch.nn.functional.scaled_dot_product_attention(*heads)
    return mixed.transpose(1, 2).reshape(64, 64) @ out.t()
