"""The GPUs, out of what NVML or nvidia-smi said. Pure.

A GPU whose compute capability cannot be read is not listed, since nothing could be judged for it; an entry says so.
"""

from __future__ import annotations

from collections.abc import Sequence

from bnbenv.facts.driver import Seen
from bnbenv.facts.kernel import KernelGpu
from bnbenv.facts.model import Gpu, Unknown
from bnbenv.facts.nvml import NOT_SUPPORTED, Device
from bnbenv.facts.smi import SmiGpu


def list_gpus(
    seen: Seen, in_kernel: Sequence[KernelGpu], system_memory: int | None, in_container: bool
) -> tuple[tuple[Gpu, ...], tuple[Unknown, ...]]:
    """The GPUs of the source that answered, and why others are missing. ``system_memory`` is in bytes."""
    gpus: list[Gpu] = []
    gaps: list[Unknown] = []
    lost: list[str] = []
    if seen.nvml.failure is None:
        for device in seen.nvml.devices:
            if device.capability is None or device.capability == "0.0":
                why = device.reason("nvmlDeviceGetCudaComputeCapability")
                lost.append(f"GPU {device.index} ({device.name or 'no name'}): {why}")
            else:
                gpus.append(_from_nvml(device, system_memory, gaps, len(gpus)))
    elif seen.smi is not None and seen.smi.failure is None:
        for row in seen.smi.gpus:
            if row.capability is None:
                lost.append(f"GPU {row.index} ({row.name or 'no name'}): nvidia-smi does not tell it")
            else:
                gpus.append(_from_smi(row, gaps, len(gpus)))
    else:
        lost = [f"{gpu.name or 'GPU'} at {gpu.bus}: {seen.nvml.failure}" for gpu in in_kernel]
    if lost:
        reason = f"the compute capability of {_count(len(lost))} could not be read: {'; '.join(lost)}"
        gaps.append(Unknown("gpus", reason))
    answered = len(gpus) + len(lost)
    if seen.nvml.failure is None and seen.pci > answered and not in_container:
        reason = f"the PCI bus shows {_count(seen.pci)}, the driver answers for {answered}: it may not support the rest"
        gaps.append(Unknown("gpus", reason))
    return tuple(gpus), tuple(gaps)


def _from_nvml(device: Device, system_memory: int | None, gaps: list[Unknown], position: int) -> Gpu:
    memory = device.memory
    if memory is None:
        call = "nvmlDeviceGetMemoryInfo"
        unsupported = any(error.call == call and error.code == NOT_SUPPORTED for error in device.errors)
        if unsupported and system_memory:  # GB10 and other GPUs without memory of their own share the system's
            memory = system_memory
        else:
            gaps.append(Unknown(f"gpus[{position}].memory_total", device.reason(call)))
    for name, call in (("uuid", "nvmlDeviceGetUUID"), ("name", "nvmlDeviceGetName")):
        if getattr(device, name) is None:
            gaps.append(Unknown(f"gpus[{position}].{name}", device.reason(call)))
    return Gpu(device.index, device.uuid or "", device.name or "", device.capability or "", memory or 0, device.mig)


def _from_smi(row: SmiGpu, gaps: list[Unknown], position: int) -> Gpu:
    for name, value in (("memory_total", row.memory), ("uuid", row.uuid), ("name", row.name)):
        if value is None:
            gaps.append(Unknown(f"gpus[{position}].{name}", "nvidia-smi does not tell it"))
    gaps.append(Unknown(f"gpus[{position}].mig", "only NVML tells it"))
    return Gpu(row.index, row.uuid or "", row.name or "", row.capability or "", row.memory or 0)


def _count(number: int) -> str:
    return "one GPU" if number == 1 else f"{number} GPUs"
