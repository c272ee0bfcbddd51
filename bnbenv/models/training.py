"""The bytes that training LoRA adapters takes beside the weights, as peft and transformers do it. Pure.

Read in peft 0.21.2, transformers 5.23.0 and bitsandbytes 0.50.2, and held against a step of training on the CPU
(scripts/measure_training.py). What is counted is a step as most people run it:

- A quantized model is made ready by ``prepare_model_for_kbit_training``: all that is not quantized becomes float32,
  the embeddings, the output and experts too (``casts``). What flows between the layers is float32 from then on.
- Adapters are float32 (``autocast_adapter_dtype``), and so are their gradients and what AdamW keeps.
- Attention is PyTorch's (sdpa), which keeps no matrix but a mask where a window is smaller than the context; Gemma 2's
  is not, and keeps some.
- Checkpointing is of the kind that the release of transformers takes by itself.
- There is no autocast. With it (``bf16=True`` of the Trainer) some of the activations are half as large.
- Gradients are there from the step before, as they are while they are accumulated.

Measured activations (``matrices/evidence/training-cpu-*.jsonl``) are within 3 % of these for models like Llama, OPT's
10 % above them, Mixtral's up to 8 % below; all else agrees to the byte. Nothing of it was measured on a GPU. What
kernels take for themselves, and what PyTorch's allocator loses to fragments, is not in it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from bnbenv.models.cache import layers as cached
from bnbenv.models.model import (
    SIZES,
    CheckpointError,
    Config,
    Parameter,
    Quantization,
    Skeleton,
    Training,
    Workload,
)

FLOAT32 = 4
BLOCK = 256  # elements of a state in 8 bit that share one absmax
SMALLEST = 4096  # elements below which a state stays in 32 bit (``min_8bit_size``)
CODES = 2 * 256 * FLOAT32  # the two tables of 8-bit values, one for all tensors
# Since then gradient checkpointing is by default not reentrant, and what a function keeps for itself is not dropped:
# bitsandbytes' int8 keeps the inputs of each linear layer so.
NOT_REENTRANT_SINCE = 5
LOGITS = 3  # float32 copies when the loss goes backward: the log of the softmax, and the gradients of two functions

# The linear layers that give the result of attention or of the MLP, by family.
LAST = frozenset({"o_proj", "out_proj", "dense", "c_proj", "wo", "down_proj", "fc2", "w2", "dense_4h_to_h", "fc_out"})

# Where peft takes experts for what they were, all layers of their names count as experts: what is shared gets nothing.
_EXPERTS_OWN = (".gate_proj.weight", ".up_proj.weight", ".down_proj.weight")
_NOT_FUSED = frozenset({"qwen2_moe", "phimoe"})  # which peft 0.21.2 has no rule for

_INDEX = re.compile(r"\.(\d+|\*)\.")
_EXPERT = re.compile(r"\.experts\.(\d+|\*)\.")
_CHOSEN = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "top_k_experts")


class Linear(NamedTuple):
    """A linear layer: rows out, columns in; ``share`` of the tokens come to it (experts).

    ``weight`` are the bytes that experts with adapters take once more: the sum of both is a tensor of its own.
    """

    module: str
    out: int
    into: int
    adapted: bool
    share: float
    weight: int = 0


def training(
    skeleton: Skeleton, config: Config, quantization: Quantization, dtype: str, workload: Workload
) -> Training:
    """What training adapters needs beside the loaded weights (``layout.weights``).

    ``dtype`` is the loading type, as safetensors names it. ``workload.targets`` None are all linear layers but the
    output, as peft's ``all-linear``. Paged optimizers are counted in full: what the GPU has no room for lies in main
    memory.
    """
    fused, tensors = _fused(skeleton, config, workload), []
    for one in skeleton.parameters:
        if is_adapted(one, workload.targets, fused):
            tensors += [(_rank(one, workload) * side, one.count) for side in one.shape[-2:]]
    trained = sum(size * count for size, count in tensors)
    return Training(
        trained=trained,
        adapters=trained * FLOAT32,
        gradients=trained * FLOAT32,
        optimizer=_optimizer(tensors, workload.optimizer),
        activations=_activations(skeleton, config, quantization, dtype, workload),
        casts=_casts(skeleton, quantization, dtype),
    )


def is_adapted(parameter: Parameter, targets: Sequence[str] | None, fused: bool = False) -> bool:
    """Whether peft gives this weight an adapter; ``fused`` says that experts and their routers get some."""
    if parameter.name.endswith(".bias"):
        return False
    if fused and (_is_fused(parameter) or parameter.name.endswith(".gate.weight")):
        return True
    if fused and parameter.name.endswith(_EXPERTS_OWN):
        return False
    if parameter.kind not in ("linear", "output") or len(parameter.shape) != 2:
        return False
    module = parameter.name.removesuffix(".weight")
    if targets is None:
        return parameter.kind == "linear"
    return any(module == target or module.endswith(f".{target}") for target in targets)


def _fused(skeleton: Skeleton, config: Config, workload: Workload) -> bool:
    """Whether ``all-linear`` means experts too that transformers 5 puts together from linear layers of the checkpoint.

    peft does so since they were linear layers once (``transformers_weight_conversion``), of the classes it knows.
    """
    if workload.targets is not None or config.model_type in _NOT_FUSED:
        return False
    return any(_is_fused(one) for one in skeleton.parameters)


def _is_fused(parameter: Parameter) -> bool:
    return parameter.kind == "expert" and len(parameter.shape) == 3 and parameter.parts > 1


def _rank(parameter: Parameter, workload: Workload) -> int:
    """One adapter for each expert, and of twice the rank where two layers became one."""
    if len(parameter.shape) != 3:
        return workload.rank
    return workload.rank * parameter.shape[0] * (2 if parameter.name.endswith("gate_up_proj") else 1)


def _optimizer(tensors: Sequence[tuple[int, int]], kind: str) -> int:
    """Bytes of two moments for each (elements, number of such tensors)."""
    if kind == "adamw":
        return sum((2 * FLOAT32 * size + FLOAT32) * count for size, count in tensors)  # and the number of the step
    total = CODES if any(size >= SMALLEST for size, _ in tensors) else 0
    for size, count in tensors:
        each = 2 * FLOAT32 * size if size < SMALLEST else 2 * size + 2 * FLOAT32 * -(-size // BLOCK)
        total += each * count
    return total


def _casts(skeleton: Skeleton, quantization: Quantization, dtype: str) -> int:
    """What it adds that parameters which are not quantized become float32; nobody does that to a plain model."""
    if quantization == "none":
        return 0
    total = 0
    for one in skeleton.parameters:
        held = one.dtype or dtype
        if not one.converted and one.kind != "buffer" and held in ("F16", "BF16"):
            total += one.count * one.elements * (FLOAT32 - SIZES[held])
    return total


def _activations(skeleton: Skeleton, config: Config, quantization: Quantization, dtype: str, workload: Workload) -> int:
    """The most bytes that are alive within a step, beside weights, adapters and gradients.

    The peak is either at the loss, where the logits are there three times, or within the backward pass of a layer.
    """
    tokens = workload.batch * workload.context
    size = SIZES[dtype] if quantization == "none" else FLOAT32
    hidden, vocabulary = _sides(skeleton)
    layers = _layers(skeleton, config, workload)
    kept = [_kept(one, hidden, size, workload.rank, quantization) for one in layers.values()]
    matrix, masked = _matrix(config, workload, size), _masked(skeleton, config, dtype, workload)
    inside = [
        tokens * (row + masked * _repeated(one) * size)
        + masked * workload.batch * workload.context**2 * size
        + matrix
        + sum(linear.weight for linear in one)
        for row, one in zip(kept, layers.values(), strict=True)
    ]
    backward = [
        tokens * _backward(one, hidden, size)
        + max(0, _decoded(one, quantization, dtype) - tokens * _narrow(one, hidden, size))
        + max(linear.weight for linear in one)
        for one in layers.values()
    ]
    between = tokens * hidden * size
    copies = LOGITS + (1 if config.text.get("final_logit_softcapping") else 0)
    loss = tokens * vocabulary * FLOAT32 * copies + between
    if workload.checkpointing:
        left = 0.0
        if quantization == "int8" and int(skeleton.transformers.partition(".")[0]) >= NOT_REENTRANT_SINCE:
            left = sum(tokens * size * sum(_inputs(block)) for one in layers.values() for block in _blocks(one))
        largest = max((one + two for one, two in zip(inside, backward, strict=True)), default=0)
        return int(between * len(layers) + left + max(loss, largest))
    return int(between * len(layers) + sum(inside) + max([loss, *backward]))


def _sides(skeleton: Skeleton) -> tuple[int, int]:
    """The width of what flows between the layers, and the number of tokens that there are."""
    tables = [one for one in skeleton.parameters if one.kind in ("embedding", "output") and len(one.shape) == 2]
    largest = max(tables, key=lambda one: one.elements, default=None)
    if largest is None:
        linears = [one.shape for one in skeleton.parameters if one.kind == "linear" and len(one.shape) == 2]
        return max((min(shape) for shape in linears), default=0), 0
    return min(largest.shape), max(largest.shape)


def _layers(skeleton: Skeleton, config: Config, workload: Workload) -> Mapping[str, list[Linear]]:
    """The linear layers of each layer of the model; a parameter that stands for many stands in as many layers."""
    layers: dict[str, list[Linear]] = {}
    fused = _fused(skeleton, config, workload)
    for one in skeleton.parameters:
        found = _INDEX.search(one.name)
        if found is None or one.kind not in ("linear", "expert") or len(one.shape) not in (2, 3):
            continue
        linear = Linear(
            one.name.removesuffix(".weight"),
            one.shape[-2],
            one.shape[-1],
            is_adapted(one, workload.targets, fused),
            _share(one, skeleton, config),
            one.elements * FLOAT32 if fused and _is_fused(one) else 0,
        )
        before, copies = one.name[: found.start()], one.count if found.group(1) == "*" else 1
        for number in range(copies):
            key = f"{before}.{number if found.group(1) == '*' else found.group(1)}"
            layers.setdefault(key, []).append(linear)
    return layers


def _share(parameter: Parameter, skeleton: Skeleton, config: Config) -> float:
    """How many times a token comes to it: once, to an expert more rarely, to all experts of a layer a few times."""
    chosen = next((config.text[name] for name in _CHOSEN if isinstance(config.text.get(name), int)), 1)
    if len(parameter.shape) == 3:
        return float(chosen)
    if not _EXPERT.search(parameter.name):
        return 1.0
    named = ("num_local_experts", "num_experts", "n_routed_experts")
    experts = next((config.text[name] for name in named if isinstance(config.text.get(name), int)), 0)
    return chosen / experts if experts else 1.0


def _blocks(linears: Sequence[Linear]) -> list[list[Linear]]:
    """Those with one parent: attention, the MLP, each expert; what gives the result stands last."""
    blocks: dict[str, list[Linear]] = {}
    for one in linears:
        blocks.setdefault(one.module.rpartition(".")[0], []).append(one)
    return [sorted(block, key=lambda one: one.module.rpartition(".")[2] in LAST) for block in blocks.values()]


def _kept(linears: Sequence[Linear], hidden: int, size: int, rank: int, quantization: Quantization) -> float:
    """Bytes a token that a layer keeps for its backward pass, beside its input.

    The output of each linear layer but the last of a block, which flows on; the input that the first ones share and
    that of the last; where there is a gate, what becomes of it; the results of lora_A; and the sum after attention.
    In half precision a linear layer has its input cast for its adapter, each for itself, and a norm has its own in
    float32, which are kept in place of what they were made of.
    """
    cast = quantization == "none" and size < FLOAT32
    kept = float(2 * hidden * FLOAT32 if cast else hidden * size)
    for block in _blocks(linears):
        *first, last = block
        shared, own = _inputs(block)
        kept += last.share * size * sum(one.out for one in first)
        if cast:
            kept += sum(one.share * one.into * FLOAT32 for one in block if one.adapted) + size * own
        else:
            if quantization == "int8" or any(one.adapted for one in first):
                kept += size * shared
            if quantization == "int8" or last.adapted or not _gated(block):
                kept += size * own
            kept += size * own if _gated(block) else 0
        kept += sum(one.share * rank * FLOAT32 for one in block if one.adapted and not one.weight)
        kept += size * last.share * last.out if last.weight else 0  # before it is weighted by the router
    return kept


def _inputs(block: Sequence[Linear]) -> tuple[float, float]:
    """Elements a token: what the first layers of a block are given, and what the last one is."""
    *first, last = block
    return last.share * max((one.into for one in first), default=0), last.share * last.into


def _masked(skeleton: Skeleton, config: Config, dtype: str, workload: Workload) -> float:
    """The share of the layers whose window is smaller than the context: PyTorch's attention needs a mask for these."""
    try:
        found = cached(config, dtype, skeleton.transformers)
    except CheckpointError:  # it does not say what attention it has
        return 0.0
    narrow = [one for one in found if one.window is not None and one.window < workload.context]
    return len(narrow) / len(found) if found else 0.0


def _repeated(linears: Sequence[Linear]) -> int:
    """Elements a token that keys and values get more where each is repeated for its queries, as it is with a mask."""
    for block in _blocks(linears):
        keys = next((one.out for one in block if one.module.endswith(".k_proj")), 0)
        if keys:
            return 2 * max(0, block[-1].into - keys)
    return 0


def _gated(block: Sequence[Linear]) -> bool:
    *first, last = block
    wide = [one.out for one in first]
    return last.into > 0 and ((len(first) == 2 and wide.count(last.into) == 2) or wide == [2 * last.into])


def _backward(linears: Sequence[Linear], hidden: int, size: int) -> float:
    """Bytes a token for gradients within a layer: those of its output, and of the widest thing in it two more.

    In half precision one of these is there as it is and in float32, the adapter's.
    """
    widest = max((min(one.share, 1) * one.into for one in linears), default=0)
    if size < FLOAT32:
        return (size + FLOAT32) * (hidden + widest)
    return size * (hidden + 2 * widest)


def _narrow(linears: Sequence[Linear], hidden: int, size: int) -> float:
    """Of these, what is not there yet while a weight is decoded."""
    widest = max((min(one.share, 1) * one.into for one in linears), default=0)
    return size * (1.5 * widest - 0.5 * hidden)


def _decoded(linears: Sequence[Linear], quantization: Quantization, dtype: str) -> float:
    """Bytes of the largest weight of a layer when bitsandbytes decodes it for the backward pass."""
    largest = max((one.out * one.into for one in linears), default=0)
    if quantization == "none":
        return 0
    if quantization == "int8":
        return largest * FLOAT32
    return largest * SIZES[dtype] + (largest / 16 if quantization.endswith("-double") else 0)


def _matrix(config: Config, workload: Workload, size: int) -> float:
    """The matrices of attention that Gemma 2 keeps: its cap has to be put on them (``attn_logit_softcapping``)."""
    heads = config.text.get("num_attention_heads") or 0
    if not config.text.get("attn_logit_softcapping"):
        return 0
    return 3.0 * heads * workload.batch * workload.context**2 * size
