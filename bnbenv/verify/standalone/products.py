"""Products with quantized weights: 4-bit matrix-vector and matrix-matrix, and LLM.int8 with outliers."""

from __future__ import annotations

import logging
from typing import Any

import bitsandbytes as bnb
import torch
from bitsandbytes import functional as F

from . import reference
from .measures import matrix, product_error, relative, unit
from .protocol import Broken, Step
from .quantization import DECODED_OLD_CPU
from .target import Target

# Errors of a product are measured in units in the last place of the root of the sum of the squared terms, which is
# how far independent roundings of its terms and of the result reach.
PRODUCT = (8.0, "three roundings a term and one of the result, each half a unit; the largest of thousands of results")
PRODUCT_FP32 = (64.0, "a float32 sum of up to 1024 terms, in any order")
SINGLE_FP32 = (16.0, "one term; a nested scale is itself a float32 sum")
SINGLE = (4.0, "one term: value, scale, product and result rounded, each half a unit")
WEIGHT_OLD_CPU = (4e-2, "relative; rounded to bfloat16 several times, and a table that is off by 0.7%")
INT8_THRESHOLD = 6.0


def check_product(step: Step, target: Target, what: str, result: Any, x: Any, weight: Any, bias: Any = None) -> None:
    error = product_error(result, x, weight, unit(x.dtype), bias)
    if target.old_cpu and x.dtype == torch.float32:
        step.check(what, error * unit(x.dtype), *DECODED_OLD_CPU)
    else:
        step.check(what, error, *(PRODUCT_FP32 if x.dtype == torch.float32 else PRODUCT))


def check_each_weight(step: Step, target: Target, what: str, result: Any, weight: Any) -> None:
    """What the rows of the identity give: the weights themselves, transposed."""
    error = relative(result, weight.t(), result.dtype)
    if target.old_cpu:
        step.check(f"{what}, each weight", error * unit(result.dtype), *WEIGHT_OLD_CPU)
    else:
        limit = SINGLE_FP32 if result.dtype == torch.float32 else SINGLE
        step.check(f"{what}, each weight", error, *limit)


def quantized(
    target: Target, shape: tuple[int, int], quant_type: str, blocksize: int, dtype: Any, nested: bool
) -> tuple[Any, Any, Any]:
    """A quantized weight on the device, its state, and the float64 matrix that it stands for."""
    values = (matrix(*shape, seed=53) / shape[1] ** 0.5).to(dtype)
    packed, state = F.quantize_4bit(
        values.to(target.device), blocksize=blocksize, quant_type=quant_type, compress_statistics=nested
    )
    return packed, state, reference.weight_4bit(packed, state)


def gemv_4bit(step: Step, target: Target) -> None:
    """One row times a 4-bit matrix: random rows, then a single 1 in each place, which shows every weight by itself."""
    target.need("quantize_4bit", "dequantize_4bit")
    for dtype in target.dtypes():
        for quant_type in target.quant_types():
            for blocksize, nested in ((64, False), (128, True)):
                what = f"{str(dtype)[6:]}, {quant_type}, blocks of {blocksize}{', nested' if nested else ''}"
                packed, state, weight = quantized(target, (256, 256), quant_type, blocksize, dtype, nested)
                rows = torch.cat((matrix(4, 256, 59).to(dtype), torch.eye(256, dtype=dtype)))
                # On a CPU there is no kernel of its own for one row; the identity may go in one call.
                parts = rows.to(target.device).split(1 if target.cuda else [1, 1, 1, 1, 256])
                for way, multiply in ways_to_multiply(target, packed, state):
                    result = torch.cat([multiply(part) for part in parts]).cpu()
                    check_product(step, target, f"{what}: {way}", result[:4], rows[:4], weight)
                    check_each_weight(step, target, f"{what}: {way}", result[4:], weight)
    if not target.cuda:
        linear_inference(step, target)


def ways_to_multiply(target: Target, packed: Any, state: Any) -> list[tuple[str, Any]]:
    """``matmul_4bit`` is what layers call; on a GPU 0.50 uses another kernel for it than ``gemv_4bit`` has."""
    ways = [("matmul_4bit", lambda x: bnb.matmul_4bit(x, packed.t(), quant_state=state))]
    if target.cuda:
        ways.append(("gemv_4bit", lambda x: F.gemv_4bit(x, packed.t(), state=state)))
    return ways


def linear_inference(step: Step, target: Target) -> None:
    """A CPU with AVX512-BF16 repacks the weight of a layer for inference and computes in bfloat16."""
    for quant_type in target.quant_types():
        layer = bnb.nn.Linear4bit(256, 128, bias=False, compute_dtype=torch.bfloat16, quant_type=quant_type)
        layer.weight.data = matrix(128, 256, 61) / 16
        layer = layer.to(target.device).eval()
        weight = reference.weight_4bit(layer.weight.data, layer.weight.quant_state)
        rows = torch.cat((matrix(8, 256, 67), torch.eye(256))).to(torch.bfloat16)
        with torch.no_grad():
            result = layer(rows.to(target.device))
        check_product(step, target, f"Linear4bit {quant_type}", result[:8], rows[:8], weight)
        check_each_weight(step, target, f"Linear4bit {quant_type}", result[8:], weight)


def gemm_4bit(step: Step, target: Target) -> None:
    """Many rows times a 4-bit matrix, in shapes for which bitsandbytes 0.50 chooses different kernels on a GPU.

    Few rows take its SIMT kernel, some its tensor-core kernel, many are dequantized first; which shape goes where
    depends on the architecture. The identity shows every weight by itself.
    """
    target.need("quantize_4bit", "dequantize_4bit")
    shapes = [(1024, 256, (3, 16, 64, 256)), (128, 1024, (6, 40))]
    if target.cuda:
        shapes += [(32768, 128, (8, 32)), (256, 256, (1600,))]
    for dtype in target.dtypes():
        for quant_type in target.quant_types():
            nested = quant_type == "nf4"
            for n, k, batches in shapes:
                packed, state, weight = quantized(target, (n, k), quant_type, 64, dtype, nested)
                bias = matrix(1, n, 71)[0].to(dtype)
                for m in batches:
                    what = f"{str(dtype)[6:]}, {quant_type}, {m} x {k} x {n}"
                    if m == k:
                        x = torch.eye(k, dtype=dtype).to(target.device)
                        check_each_weight(step, target, what, bnb.matmul_4bit(x, packed.t(), quant_state=state), weight)
                        continue
                    x = matrix(m, k, 73).to(dtype)
                    result = bnb.matmul_4bit(
                        x.to(target.device), packed.t(), quant_state=state, bias=bias.to(target.device)
                    )
                    check_product(step, target, what, result, x, weight, bias)


def linear8bit(step: Step, target: Target) -> None:
    """``Linear8bitLt``: int8 codes of the weight, and a forward pass with outlier columns kept in float16."""
    target.need_int8()
    target.need("int8_vectorwise_quant", "int8_linear_matmul", "int8_mm_dequant")
    rows, k, n = 48, 256, 128
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    weight = (matrix(n, k, 79) / 16).half()
    bias = matrix(1, n, 83)[0].half()
    x = matrix(rows, k, 89).clamp(-5.5, 5.5)
    x[::3, 17], x[5, 101], x[:, 200] = 11.0, -25.0, 8.0
    x = x.half()
    layer = bnb.nn.Linear8bitLt(k, n, bias=True, has_fp16_weights=False, threshold=INT8_THRESHOLD)
    layer.weight.data, layer.bias.data = weight.clone(), bias.clone()
    layer = layer.to(target.device).eval()
    scale = weight.double().abs().max(dim=1).values
    codes = layer.weight.data.detach().cpu()
    if codes.dtype != torch.int8 or tuple(codes.shape) != (n, k):
        raise Broken(f"the weight of Linear8bitLt is {codes.dtype} of shape {tuple(codes.shape)}, not int8")
    exact = weight.double() * 127 / scale[:, None]
    error = ((codes.double() - exact).abs() - (exact.round() - exact).abs()).max()
    step.check("codes of the weight", error, 1e-3, "the nearest whole number, but for rounding of a float32 quotient")
    with torch.no_grad():
        result = layer(x.to(target.device)).detach().cpu().double()
    decoded = codes.double() * scale[:, None] / 127
    expected = int8_forward(x.double(), codes.double(), scale) + bias.double()
    size = ((x.double() ** 2) @ (decoded**2).t()).sqrt() + bias.double().abs()
    error = ((result - expected).abs() / size).max() / unit(torch.float16)
    step.check("forward against the algorithm", error, *PRODUCT)
    true = x.double() @ weight.double().t() + bias.double()
    error = (result - true).norm() / true.norm()
    step.check("forward against the unquantized weight", error, 0.02, "int8 rounds both sides: 1.3% together")


def int8_forward(x: Any, codes: Any, scale: Any) -> Any:
    """LLM.int8 (arXiv 2208.07339) in float64: a column with an outlier is left out of int8 and multiplied as it is."""
    outlier = x.abs() >= INT8_THRESHOLD
    columns = outlier.any(dim=0)
    row_scale = x.masked_fill(outlier, 0).abs().max(dim=1).values
    quantized_x = torch.round(x * 127 / row_scale[:, None]).masked_fill(columns[None, :], 0)
    regular = (quantized_x @ codes.t()) * row_scale[:, None] * scale[None, :] / 127**2
    return regular + x[:, columns] @ (codes[:, columns] * scale[:, None] / 127).t()
