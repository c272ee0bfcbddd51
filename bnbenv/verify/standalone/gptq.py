"""GPTQ: a small layer quantized on calibration data by the package itself, packed, and multiplied by its kernels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch

from . import packed
from .measures import matrix, product_error, unit
from .protocol import Reporter, Skip, Step
from .target import Target

INPUTS, OUTPUTS, GROUP = 256, 512, 128
ROWS = 512  # of calibration data


@dataclass(frozen=True)
class Variant:
    """How a model may be quantized. ``act_order``: the inputs that matter most are quantized first."""

    name: str
    sym: bool
    act_order: bool


VARIANTS = (
    Variant("symmetric", sym=True, act_order=False),
    Variant("asymmetric", sym=False, act_order=False),
    Variant("activation order", sym=True, act_order=True),
)


@dataclass(frozen=True)
class Quantized:
    """What a quantizer made of a layer: ``linear`` has the new weights, ``original`` are the old ones (float64)."""

    linear: Any
    original: Any
    scales: Any
    zeros: Any
    groups: Any


class Package(Protocol):
    """What differs between gptqmodel and auto-gptq. ``offset``: by how much they store zero points too low."""

    name: str
    offset: int

    def quantize(self, linear: Any, x: Any, variant: Variant) -> tuple[Any, Any, Any, Any]:
        """The new weight (``[N, K]``), scales and zero points (``[N, groups]``), and the group of each input."""

    def pack(self, quantized: Quantized, variant: Variant) -> Any:
        """The layer in the package's packed format, on the CPU."""

    def kernels(self, target: Target, variant: Variant) -> list[Any]:
        """The layers that the package would take on this device, the best first."""

    def make(self, kernel: Any, layer: Any, target: Target, variant: Variant, dtype: Any) -> Any:
        """That kernel's layer with the contents of a packed one, ready on the device."""

    def dtypes(self, kernel: Any, target: Target) -> tuple[Any, ...]:
        """The float types that a kernel computes in on this device."""


def prove(package: Package, target: Target, reporter: Reporter) -> None:
    """Run the steps of one package. Without packed layers there is nothing to multiply with."""
    quantized: dict[str, Quantized] = {}
    layers: dict[str, Any] = {}
    if not reporter.run("gptq-quantize", partial(quantize, package=package, target=target, made=quantized)):
        return
    if not reporter.run("gptq-pack", partial(pack, package=package, quantized=quantized, made=layers)):
        return
    chosen: list[list[Any]] = []
    if not reporter.run("gptq-kernels", lambda step: chosen.append(choose(package, target))):
        return
    for kernel in chosen[0]:
        work = partial(multiply, package=package, kernel=kernel, target=target, layers=layers)
        reporter.run(f"gptq-{kernel_name(kernel)}", work)


def calibration() -> Any:
    """Inputs that go together, as those of a model do: there GPTQ can make up for what rounding loses."""
    mixed = matrix(ROWS, INPUTS, 141) @ (matrix(INPUTS, INPUTS, 143) / 16 + torch.eye(INPUTS) / 2)
    return mixed + 2 * matrix(ROWS, 1, 147)


def linear(target: Target) -> Any:
    """A float16 layer with bias, on the device."""
    layer = torch.nn.Linear(INPUTS, OUTPUTS, bias=True)
    layer.weight.data = matrix(OUTPUTS, INPUTS, 149) / INPUTS**0.5
    layer.bias.data = matrix(1, OUTPUTS, 151)[0] / INPUTS**0.5
    return layer.half().to(target.device)


def quantize(step: Step, package: Package, target: Target, made: dict[str, Quantized]) -> None:
    """The package's quantizer: values that 16 codes a group can stand for, and less loss than rounding has."""
    for variant in VARIANTS:
        layer, x = linear(target), calibration().half().to(target.device)
        original = layer.weight.data.detach().cpu().double()
        weight, scales, zeros, groups = package.quantize(layer, x, variant)
        layer.weight.data = weight.to(layer.weight.dtype)
        layer, weight = layer.cpu(), weight.detach().cpu().double()
        scales, zeros, groups = scales.detach().cpu(), zeros.detach().cpu(), groups.detach().cpu()
        spread, zero = scales.double()[:, groups.long()], zeros.double()[:, groups.long()]
        codes = weight / spread + zero
        beyond = (codes - codes.round().clamp(0, 15)).abs().max()
        step.check(f"{variant.name}: values", beyond, *packed.STEP)
        ours = x.detach().cpu().double()
        lost = packed.loss(weight, original, ours)
        step.check(f"{variant.name}: against the unquantized layer", lost, *packed.LOSS)
        plain = packed.loss(packed.rounded(original, GROUP, variant.sym), original, ours)
        why = "of what rounding to the nearest loses on the same inputs, which go together: GPTQ loses about a third"
        step.check(f"{variant.name}: against rounding", lost / plain, 0.7, why)
        made[variant.name] = Quantized(layer, original, scales, zeros, groups)


def pack(step: Step, package: Package, quantized: dict[str, Quantized], made: dict[str, Any]) -> None:
    """Codes, zero points and scales in their packed words stand for the very weights that the quantizer gave."""
    for variant in VARIANTS:
        source = quantized[variant.name]
        layer = package.pack(source, variant)
        weight, steps = packed.gptq_weight(layer, package.offset)
        error = packed.in_steps(source.linear.weight.data.t(), weight, steps)
        step.check(f"{variant.name}: packed weights", error, *packed.STEP)
        made[variant.name] = layer


def choose(package: Package, target: Target) -> list[Any]:
    """The kernels to run: the one that is taken for each variant, and, where that has to be compiled, the next."""
    found: list[Any] = []
    for variant in VARIANTS:
        for kernel in package.kernels(target, variant):
            if kernel not in found:
                found.append(kernel)
            if not compiled_at_first_use(kernel_name(kernel)):
                break
    return found


def kernel_name(kernel: Any) -> str:
    return str(kernel.__name__) if kernel.__name__ != "QuantLinear" else str(kernel.QUANT_TYPE)


def multiply(step: Step, package: Package, kernel: Any, target: Target, layers: dict[str, Any]) -> None:
    """What nearly all models are, symmetric, has to be right. What a CPU computes wrongly of the others is a warning.

    gptqmodel 5 and 6 multiply asymmetric layers wrongly on a CPU: their kernel there leaves the zero points out.
    """
    ran = 0
    for variant in VARIANTS:
        if kernel not in package.kernels(target, variant):
            continue
        part = Step()
        for dtype in package.dtypes(kernel, target):
            with nothing_compiled(kernel):
                layer = package.make(kernel, layers[variant.name], target, variant, dtype)
                multiply_one(part, layer, layers[variant.name], target, dtype, variant.name, package.offset)
            ran += 1
        wrong = next((check for check in part.checks if not check.ok), None)
        if wrong is None or target.cuda or variant is VARIANTS[0]:
            step.checks += part.checks
        else:
            step.warnings.append(
                f"on a CPU {package.name} computes models of this kind wrongly: {wrong.what}: error {wrong.error:.3g}, "
                f"allowed {wrong.threshold:.3g}. Run no such models here; symmetric ones are right"
            )
    if not ran:
        raise Skip(f"{kernel_name(kernel)} computes in no float type of this device")


def multiply_one(step: Step, layer: Any, source: Any, target: Target, dtype: Any, name: str, offset: int) -> None:
    """Random rows, few and many, then a single 1 in each place, which shows every weight by itself."""
    weight, steps = packed.gptq_weight(source, offset)
    bias, what = source.bias.detach().cpu(), f"{name}, {str(dtype)[6:]}"
    with torch.no_grad():
        for rows in (1, 40, 300):
            x = matrix(rows, INPUTS, 153).to(dtype)
            error = product_error(layer(x.to(target.device)), x, weight.t(), unit(torch.bfloat16), bias)
            step.check(f"{what}: {rows} rows", error, *packed.PRODUCT)
        result = layer(torch.eye(INPUTS, dtype=dtype).to(target.device))
    each = result.detach().cpu().double() - bias.double()
    step.check(f"{what}: each weight", packed.in_steps(each, weight, steps), *packed.EACH)


# ---- kernels that are compiled when they are first used ---------------------------------------------------------

REFUSED: list[str] = []  # the names of what was to be compiled


def refuse_compilers() -> None:
    """Have torch compile no extensions from here on: Marlin takes many minutes, and verification has six.

    What is compiled already is loaded all the same. Comes before the package is imported: it keeps torch's function.
    """
    from torch.utils import cpp_extension

    def load(name: str, *args: Any, **options: Any) -> Any:
        REFUSED.append(name)
        raise RuntimeError(f"{name} is not compiled during verification")

    cpp_extension.load = load


def compiled_at_first_use(name: str) -> bool:
    """Whether a kernel may have to be compiled: all but those of torch and Triton, which compile in seconds."""
    return not name.lower().startswith(("torch", "triton"))


class nothing_compiled:
    """Turns the failure of a kernel that nobody has compiled yet into a Skip."""

    def __init__(self, kernel: Any) -> None:
        self.name = kernel_name(kernel)

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        # MarlinLinear is compiled as gptqmodel_marlin_fp16_ops, and asked for once a process.
        word = self.name.lower().replace("quantlinear", "").replace("linear", "")
        if error is not None and compiled_at_first_use(self.name) and any(word in one.lower() for one in REFUSED):
            raise Skip(
                f"{self.name} is compiled when it is first used, which takes minutes and was not done to verify; "
                "what was run is the next best kernel"
            ) from None
