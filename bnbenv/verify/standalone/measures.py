"""How errors of rounded results are measured; needs torch and nothing of the package that is verified."""

from __future__ import annotations

from typing import Any

import torch

from .protocol import Broken


def unit(dtype: Any) -> float:
    """The spacing of a float type relative to the value."""
    return float(torch.finfo(dtype).eps)


def relative(result: Any, expected: Any, dtype: Any) -> Any:
    """The largest error relative to the value, in the type's spacing; below the smallest normal value, to that."""
    finfo = torch.finfo(dtype)
    size = expected.abs().clamp(min=float(finfo.smallest_normal))
    return ((result.detach().cpu().double() - expected).abs() / size).max() / finfo.eps


def matrix(rows: int, columns: int, seed: int) -> Any:
    """Normal values, the same on every machine."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=generator)


def product_error(result: Any, x: Any, weight: Any, eps: float, bias: Any = None) -> Any:
    """The largest error of ``x @ weight.T (+ bias)`` against float64, in units of ``eps`` of the size of its terms."""
    exact, size = x.double() @ weight.t(), ((x.double() ** 2) @ (weight**2).t()).sqrt()
    if bias is not None:
        exact, size = exact + bias.double(), size + bias.double().abs()
    if tuple(result.shape) != tuple(exact.shape):
        raise Broken(f"a product has the shape {tuple(result.shape)}, not {tuple(exact.shape)}")
    return ((result.detach().cpu().double() - exact).abs() / size.clamp(min=1e-30)).max() / eps
