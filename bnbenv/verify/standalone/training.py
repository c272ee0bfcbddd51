"""Training: the 8-bit AdamW against the 32-bit one, and QLoRA steps on frozen 4-bit layers."""

from __future__ import annotations

from typing import Any

import bitsandbytes as bnb
import torch

from . import reference
from .measures import matrix
from .protocol import Broken, Step
from .quantization import gap_8bit
from .target import Target

LR, BETAS, EPS, DECAY = 1e-2, (0.9, 0.999), 1e-8, 1e-2
STEPS = 80
BLOCK = 256  # the block size of the 8-bit optimizer states


def adamw8bit(step: Step, target: Target) -> None:
    """80 steps of AdamW8bit: each step by itself against its formula, all together against 32-bit AdamW."""
    target.need("optimizer_update_8bit_blockwise")
    compare_adamw(step, target, bnb.optim.AdamW8bit, 16384 + 100, paged=False)


def paged_adamw8bit(step: Step, target: Target) -> None:
    """The same in memory that the driver moves between host and GPU; smaller parameters would not be paged."""
    compare_adamw(step, target, bnb.optim.PagedAdamW8bit, 131072 + 100, paged=True)


def compare_adamw(step: Step, target: Target, optimizer_class: Any, count: int, paged: bool) -> None:
    generator = torch.Generator().manual_seed(97)
    start, goal = torch.randn(2, count, generator=generator).mul(0.1).unbind()
    curvature = torch.exp(torch.randn(count, generator=generator))
    ours = torch.nn.Parameter(start.clone().to(target.device))
    plain = torch.nn.Parameter(start.clone())
    options = {"lr": LR, "betas": BETAS, "eps": EPS, "weight_decay": DECAY}
    optimizer, adamw = optimizer_class([ours], **options), torch.optim.AdamW([plain], **options)
    memory = Memory(count)
    for number in range(1, STEPS + 1):
        noise = torch.randn(count, generator=generator) * 0.1
        before = ours.detach().cpu().double()
        plain.grad = curvature * (plain.detach() - goal) + noise
        gradient = curvature * (before.float() - goal) + noise
        ours.grad = gradient.to(target.device)
        adamw.step()
        optimizer.step()
        state = optimizer.state[ours]
        if number == 1:
            check_eight_bits(state, count, paged)
        expected = memory.advance(before, gradient.double(), number)
        after = ours.detach().cpu().double()
        moved = (expected - before).abs() + LR / 10
        why = "units of the step: the CUDA kernel's fast power and division err by 2e-4 of a step"
        step.check(f"step {number}", ((after - expected).abs() / moved).max(), 1e-3, why)
        memory.take(step, target, state, number)
    reached = ours.detach().cpu().double()
    drift = (reached - plain.detach().double()).norm() / (plain.detach() - start).double().norm()
    step.check(f"{STEPS} steps, against 32 bits", drift, 0.05, "8-bit states err by about 1% of an update")


def check_eight_bits(state: Any, count: int, paged: bool) -> None:
    for name in ("state1", "state2"):
        tensor = state.get(name)
        if tensor is None or tensor.dtype != torch.uint8 or tensor.numel() != count:
            raise Broken(f"the optimizer's {name} is {getattr(tensor, 'dtype', None)}, not 8-bit")
        if paged and not getattr(tensor, "is_paged", False):
            raise Broken(f"the paged optimizer's {name} is not in paged memory")


class Memory:
    """The optimizer's two moments, followed in float64 from what the 8-bit states stood for before each step."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.first = torch.zeros(count, dtype=torch.float64)
        self.second = torch.zeros(count, dtype=torch.float64)

    def advance(self, parameters: Any, gradient: Any, number: int) -> Any:
        """One step of AdamW (arXiv 1711.05101, algorithm 2); returns the new parameters."""
        self.first = BETAS[0] * self.first + (1 - BETAS[0]) * gradient
        self.second = BETAS[1] * self.second + (1 - BETAS[1]) * gradient**2
        first = self.first / (1 - BETAS[0] ** number)
        second = self.second / (1 - BETAS[1] ** number)
        return parameters * (1 - LR * DECAY) - LR * first / (second.sqrt() + EPS)

    def take(self, step: Step, target: Target, state: Any, number: int) -> None:
        """Check that the 8-bit states are the nearest codes of the moments, and go on from what they stand for."""
        limit = gap_8bit(target)
        for name, moment, signed in (("1", self.first, True), ("2", self.second, False)):
            codes = state[f"state{name}"].detach().cpu().reshape(-1).to(torch.int64)
            absmax = reference.blocks(moment, BLOCK)
            stored = state[f"absmax{name}"].detach().cpu().double()
            error = ((stored - absmax).abs() / absmax).max()
            step.check(f"step {number}: scales of state {name}", error, 1e-5, "a float32 sum of two products")
            code = reference.tensor(reference.dynamic_map(signed))
            scaled = moment / reference.spread(absmax, BLOCK, self.count)
            gap = reference.gap(scaled, codes, code)
            gap = gap.masked_fill(kernel_habits(scaled, codes, code), 0) if signed else gap
            step.check(f"step {number}: codes of state {name}", gap.max(), *limit)
        self.first = reference.blockwise(state["state1"], state["absmax1"], BLOCK)
        self.second = reference.blockwise(state["state2"], state["absmax2"], BLOCK, signed=False)


def kernel_habits(scaled: Any, codes: Any, code: Any) -> Any:
    """Where the CUDA optimizer kernel chooses the second nearest code on purpose (``csrc/kernels.cu``, quantize_2D).

    A negative moment nearest to zero gets the smallest negative code, to keep its sign; and the search takes -1 for
    the lowest value, which is -0.993, so between the lowest two codes the border lies elsewhere.
    """
    zero = int(code.abs().argmin())
    keeps_sign = (scaled < 0) & (codes == zero - 1) & (scaled > code[zero - 1])
    lowest = (codes <= 1) & (scaled <= code[1])
    return keeps_sign | lowest


def qlora(step: Step, target: Target) -> None:
    """Two frozen NF4 layers with adapters: gradients against float64, then the loss must fall."""
    target.need("quantize_4bit", "dequantize_4bit", "quantize_blockwise", "dequantize_blockwise")
    half = torch.float16 if target.cuda and (target.capability or (0, 0)) < (8, 0) else torch.bfloat16
    why = "roundings in {}: {} units in the last place in norm"
    for dtype, threshold in ((torch.float32, 2e-5), (half, 8 * float(torch.finfo(half).eps))):
        name = str(dtype)[6:]
        units = round(threshold / float(torch.finfo(dtype).eps))
        train_adapters(step, target, dtype, threshold, why.format(name, units))


def frozen_layer(target: Target, inputs: int, outputs: int, seed: int, dtype: Any) -> tuple[Any, Any]:
    """An NF4 layer with nested scales, and the float64 matrix that it stands for."""
    layer = bnb.nn.Linear4bit(inputs, outputs, bias=False, compute_dtype=dtype, quant_type="nf4")
    layer.weight.data = matrix(outputs, inputs, seed) / inputs**0.5
    layer = layer.to(target.device)
    if layer.weight.data.dtype != torch.uint8 or layer.weight.requires_grad:
        raise Broken("the weight of a Linear4bit layer is not packed and frozen")
    return layer, reference.weight_4bit(layer.weight.data, layer.weight.quant_state)


def forward(x: Any, first: Any, second: Any, adapters: Any) -> Any:
    """Two linear maps, each with a low-rank adapter beside it, and a smooth bend between."""
    a1, b1, a2, b2 = adapters
    hidden = torch.tanh(first(x) + (x @ a1.t()) @ b1.t())
    return second(hidden) + (hidden @ a2.t()) @ b2.t()


def train_adapters(step: Step, target: Target, dtype: Any, threshold: float, why: str) -> None:
    width, rank = 128, 8
    first, first_weight = frozen_layer(target, width, 2 * width, 101, dtype)
    second, second_weight = frozen_layer(target, 2 * width, width, 103, dtype)
    packed = [layer.weight.data.clone() for layer in (first, second)]
    shapes = [(rank, width), (2 * width, rank), (rank, 2 * width), (width, rank)]
    values = [(matrix(*shape, seed=107 + i) / 16).to(dtype) for i, shape in enumerate(shapes)]
    adapters = [torch.nn.Parameter(value.to(target.device)) for value in values]
    exact = [torch.nn.Parameter(value.double()) for value in values]
    x = matrix(64, width, 113).to(dtype)
    shift = matrix(width, rank, 127) @ matrix(rank, width, 131) / width  # low rank, as an adapter can learn it
    goal = (torch.tanh(x.double() @ first_weight.t()) @ second_weight.t() + x.double() @ shift.double().t()).to(dtype)

    x_device, goal_device = x.clone().to(target.device).requires_grad_(), goal.to(target.device)
    loss = loss_of(forward(x_device, first, second, adapters), goal_device)
    loss.backward()
    x_exact = x.double().requires_grad_()
    by_hand = forward(x_exact, lambda v: v @ first_weight.t(), lambda v: v @ second_weight.t(), exact)
    loss_of(by_hand, goal.double()).backward()
    names = ("x", "A1", "B1", "A2", "B2")
    for what, ours, theirs in zip(names, [x_device, *adapters], [x_exact, *exact]):  # noqa: B905 - Python 3.9
        error = (ours.grad.detach().cpu().double() - theirs.grad).norm() / theirs.grad.norm()
        step.check(f"{str(dtype)[6:]}: gradient of {what}", error, threshold, why)

    optimizer = torch.optim.AdamW(adapters, lr=5e-3)
    losses = [float(loss.detach())]
    for _ in range(30):
        optimizer.step()
        optimizer.zero_grad()
        loss = loss_of(forward(x_device.detach(), first, second, adapters), goal_device)
        loss.backward()
        losses.append(float(loss.detach()))
    step.check(f"{str(dtype)[6:]}: loss after 30 steps", losses[-1] / losses[0], 0.5, "of the first: it must fall")
    if not all(torch.equal(layer.weight.data, copy) for layer, copy in zip((first, second), packed)):  # noqa: B905
        raise Broken("training changed the frozen weights")


def loss_of(output: Any, goal: Any) -> Any:
    wide = torch.promote_types(output.dtype, torch.float32)
    return ((output.to(wide) - goal.to(wide)) ** 2).mean()
