"""Does it fit, and if not, what would? Pure: from settings and devices to one answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from bnbenv.models.devices import Devices, room
from bnbenv.models.model import Device, Quantization, Setting, Workload
from bnbenv.models.options import Option, Question, options
from bnbenv.models.placing import Block, place

# What a process takes of a GPU before its first tensor: the CUDA context, the code of the kernels that it uses, and
# cuBLAS's workspace. Measured by others: 426 MiB for the context of torch 2.10 with CUDA 13.0 on an RTX 6000 Ada
# (unslothai/unsloth-zoo, pull request 1053), 287 MB with CUDA 11.7 (pytorch/pytorch, pull request 86509); the workspace
# is 8 MiB, on Hopper 32 MiB (torch's notes on CUDA, CUBLAS_WORKSPACE_CONFIG).
CUDA_CONTEXT = 512 << 20
LEFT = 9 / 10  # what transformers leaves of max_memory where it quantizes (adjust_max_memory)

# What Python takes with torch 2.13 (CPU), transformers 5.23.0 and bitsandbytes 0.50.2 imported: 393 MB resident, 387 MB
# with transformers 4.57.6. Measured on Linux x86-64.
PROCESS = 400 << 20

Answers = Literal["fits", "fits-with-device-map", "fits-when-prequantized", "does-not-fit"]

DOES_NOT: Answers = "does-not-fit"

BlocksOf = Callable[[Quantization], tuple[Block, ...]]


class Way(msgspec.Struct, frozen=True):
    """How a model can be loaded and used, or that it cannot.

    ``gpus`` are positions in ``Devices.gpus`` (none: the CPU). ``device_map`` is block -> such a position. ``missing``
    are the bytes that the best device lacks. ``prequantized``: only from a checkpoint that is quantized already.
    """

    answer: Answers
    gpus: tuple[int, ...] = ()
    device_map: dict[str, int] | None = None
    missing: int = 0
    prequantized: bool = False


def overhead(device: Device) -> int:
    """Bytes that a process takes of a device beside its tensors."""
    return PROCESS if device.index is None else CUDA_CONTEXT


def in_use(setting: Setting, train: bool) -> int:
    """Bytes of tensors while the model is used or trained."""
    return setting.weights.total + beside(setting, train)


def beside(setting: Setting, train: bool) -> int:
    """Bytes of tensors beside the weights: what training takes, or the KV cache and what a prompt takes."""
    return setting.training.total if train else setting.kv_cache + setting.forward


def way(setting: Setting, train: bool, devices: Devices, blocks_of: BlocksOf) -> Way:
    """The simplest way: one device; several GPUs; one or several from a checkpoint that is quantized already."""
    several = devices.gpus or (devices.cpu,)
    needs = [max(setting.load_peak, in_use(setting, train)) + overhead(one) - room(one) for one in several]
    fitting = [position for position, lacks in enumerate(needs) if lacks <= 0]
    on_gpus = bool(devices.gpus)
    if fitting:
        return Way("fits", (fitting[0],) if on_gpus else ())
    placed = _split(setting, setting.load_peak, train, devices, blocks_of)
    if placed is not None:
        return Way("fits-with-device-map", tuple(sorted(set(placed.values()))), placed)
    if setting.prequantized_peak is not None and setting.prequantized_peak < setting.load_peak:
        less = [max(setting.prequantized_peak, in_use(setting, train)) + overhead(one) - room(one) for one in several]
        fitting = [position for position, lacks in enumerate(less) if lacks <= 0]
        if fitting:
            return Way("fits-when-prequantized", (fitting[0],) if on_gpus else (), prequantized=True)
        placed = _split(setting, setting.prequantized_peak, train, devices, blocks_of)
        if placed is not None:
            return Way("fits-when-prequantized", tuple(sorted(set(placed.values()))), placed, prequantized=True)
        needs = less
    return Way(DOES_NOT, missing=min(needs))


def splittable(devices: Devices) -> list[int]:
    """Positions of the GPUs that one process can use together: of MIG slices it can use one."""
    return [at for at, gpu in enumerate(devices.gpus) if not (gpu.uuid or "").startswith("MIG-")]


def reserve(setting: Setting, load_peak: int, train: bool) -> int:
    """Bytes to be kept free on each of several GPUs, for what is computed there or converted while loading."""
    computing = setting.training.activations if train else setting.forward
    return max(load_peak - setting.weights.total, computing, 0)


def max_memory(setting: Setting, train: bool, devices: Devices) -> dict[int, int]:
    """Bytes of weights that each GPU may be given, by torch's number of it; what remains is for everything else."""
    usable = splittable(devices) or list(range(len(devices.gpus)))
    share = (setting.kv_cache if not train else _trained(setting)) // max(1, len(usable))
    kept = reserve(setting, setting.load_peak, train) + share + CUDA_CONTEXT
    return {at: max(0, room(devices.gpus[at]) - kept) for at in usable}


def beside_on(setting: Setting, train: bool, share: float) -> int:
    """The same on one of several GPUs, which has that share of the weights; activations count on each as a whole."""
    if train:
        return round(share * _trained(setting)) + setting.training.activations
    return round(share * setting.kv_cache) + setting.forward


def _trained(setting: Setting) -> int:
    return setting.training.total - setting.training.activations


def _split(
    setting: Setting, load_peak: int, train: bool, devices: Devices, blocks_of: BlocksOf
) -> dict[str, int] | None:
    """The blocks on several GPUs; None where they do not fit. Activations are counted on each of them as a whole."""
    usable = splittable(devices)
    if len(usable) < 2:
        return None
    kept = reserve(setting, load_peak, train) + CUDA_CONTEXT
    rooms = [max(0, room(devices.gpus[at]) - kept) for at in usable]
    if sum(rooms) < setting.weights.total:
        return None
    parts = blocks_of(setting.quantization)
    layers = sum(part.layer for part in parts)
    casts = setting.training.casts if train else 0
    of_layers = _trained(setting) - casts if train else setting.kv_cache
    placed = place(parts, rooms, -(-of_layers // max(1, layers)), casts)
    return None if placed is None else {name: usable[at] for name, at in placed.items()}


class Fit(msgspec.Struct, frozen=True):
    """The answer to a question; how each setting can be used and how trained; what would fit instead."""

    way: Way
    ways: dict[Quantization, tuple[Way, Way]]
    options: tuple[Option, ...] = ()


def judge(
    question: Question,
    known: Sequence[Setting],
    workload: Workload,
    devices: Devices,
    blocks_of: BlocksOf,
    again: Callable[[Sequence[Setting], Workload], tuple[Setting, ...]],
) -> Fit:
    """The answer. ``again`` gives the same settings for another workload."""
    by_name = {one.quantization: one for one in known}
    ways = {
        name: (way(one, False, devices, blocks_of), way(one, True, devices, blocks_of)) for name, one in by_name.items()
    }
    asked = ways[question.quantization][question.train]

    def fits(name: Quantization, other: Workload) -> bool:
        (setting,) = again([by_name[name]], other)
        return way(setting, question.train, devices, blocks_of).answer != DOES_NOT

    if asked.answer != DOES_NOT:
        return Fit(asked, ways)
    return Fit(asked, ways, options(question, workload, tuple(by_name), fits))


class Offload(msgspec.Struct, frozen=True):
    """A part of the layers on the GPU, the rest on the CPU: how many, and the bytes that these take there."""

    on_gpu: int
    on_cpu: int
    bytes: int


def offload(setting: Setting, devices: Devices, parts: tuple[Block, ...], plain: tuple[Block, ...]) -> Offload | None:
    """What ``llm_int8_enable_fp32_cpu_offload`` would come to on the GPU with most room; None where that fails too.

    ``parts`` are the blocks as they are quantized, ``plain`` the same as they are loaded without: what lies on the CPU
    is not converted.
    """
    if not devices.gpus or setting.quantization == "none":
        return None
    layers = sum(part.layer for part in parts)
    largest = max(room(gpu) for gpu in devices.gpus)
    left = largest - CUDA_CONTEXT - reserve(setting, setting.load_peak, False) - setting.kv_cache
    left -= sum(part.bytes for part in parts if not part.layer)
    left -= max((one.bytes for one in plain if one.layer), default=0)  # each comes to the GPU when it is its turn
    on_gpu, on_cpu = 0, 0
    for part, whole in zip(parts, plain, strict=True):
        if not part.layer:
            continue
        left -= part.bytes
        on_gpu, on_cpu = (on_gpu + 1, on_cpu) if left >= 0 else (on_gpu, on_cpu + whole.bytes)
    if not on_gpu or on_gpu == layers or on_cpu + PROCESS > room(devices.cpu):
        return None
    return Offload(on_gpu, layers - on_gpu, on_cpu)
