"""The devices that a model could be loaded on, and the memory that each has free now.

NVML is asked by a process of its own, whose start may take a second: ``ask`` begins it, other work goes on meanwhile.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from bnbenv.facts.memory import Place, Sample, may_have_gpus, visible, watch_memory
from bnbenv.facts.ram import main_memory
from bnbenv.models.model import Device
from bnbenv.paths import Sysroot
from bnbenv.progress import shown_size

if TYPE_CHECKING:
    from bnbenv.facts.model import HostFacts
    from bnbenv.process.background import Background

LIMIT = 8.0  # seconds; NVML's start takes up to a few where no process holds the driver

# What the driver keeps of a GPU for itself, in thousandths of what NVML calls its memory; for where it is not known how
# much is free now. Printed by real machines: "Reserved" of nvidia-smi -q is 328 to 516 of 81559 MiB on an H100 (4 to
# 6), and CUDA has 24082 of the 24564 MiB of an RTX 4090 (20).
DRIVER_KEEPS = 20

NO_DRIVER = "no NVIDIA driver is here"


class Devices(msgspec.Struct, frozen=True):
    """``gpus`` are those that a program would see, in the order in which torch numbers them; a MIG slice is one.

    ``missing`` says in words why there is none. ``recorded``: they are another machine's, or this one's at another
    time, and what is free is not known. ``notes`` are sentences that hold for what is found.
    """

    gpus: tuple[Device, ...]
    cpu: Device
    missing: str | None = None
    recorded: bool = False
    notes: tuple[str, ...] = ()


class Asked:
    """NVML is being asked; ``answer`` waits for what it says."""

    def __init__(self, environ: Mapping[str, str], sysroot: Sysroot) -> None:
        self._sample: Sample | None = None
        self._came = threading.Event()
        self._process: Background | None = None
        if may_have_gpus(environ, sysroot):
            self._process = watch_memory(environ, sysroot, self._take, seconds=0.0)

    def _take(self, sample: Sample) -> None:
        if not self._came.is_set():
            self._sample = sample
            self._came.set()

    def answer(self, limit: float = LIMIT) -> Sample:
        """What NVML says within ``limit`` seconds. What the driver does is a failure in it and never an exception."""
        if self._process is None:
            return Sample(failure=NO_DRIVER)
        try:
            if not self._came.wait(limit):
                return Sample(failure=f"NVML did not answer within {limit:g} s")
        finally:
            self._process.stop()
        return self._sample or Sample(failure="NVML cannot be asked")


def ask(environ: Mapping[str, str], sysroot: Sysroot) -> Asked:
    """Begin to ask NVML, once."""
    return Asked(environ, sysroot)


def now(
    sample: Sample, sysroot: Sysroot, shown: str | None, mixed_order: bool = False, state: str | None = None
) -> Devices:
    """The devices of this machine. ``shown`` is the value of CUDA_VISIBLE_DEVICES that holds for the model (None: all).

    ``mixed_order``: CUDA numbers the GPUs by their speed, which is so unless CUDA_DEVICE_ORDER says otherwise.
    ``state`` is the driver's where it is known: with ``mismatch`` no GPU can be used before a reboot.
    """
    cpu = main_memory_device(sysroot)
    if state == "mismatch":
        why = "the NVIDIA driver is half upgraded and no GPU can be used before a reboot"
        return Devices((), cpu, why)
    if not sample.places:
        said = sample.failure
        own = said == NO_DRIVER or (said or "").startswith("NVML ")
        why = said if said and own else f"NVML says: {said}" if said else "the NVIDIA driver shows no GPU"
        return Devices((), cpu, why)
    places = visible(sample.places, shown)
    if not places:
        return Devices((), cpu, f"CUDA_VISIBLE_DEVICES={shown} hides every GPU")
    notes = [text for place in places if (text := _held(place))]
    if mixed_order and shown is None and len({place.name for place in places}) > 1:
        notes.append(
            "the GPUs are numbered as nvidia-smi does; CUDA puts the fastest first unless CUDA_DEVICE_ORDER=PCI_BUS_ID"
        )
    return Devices(tuple(_device(place) for place in places), cpu, notes=tuple(notes))


def recorded(facts: HostFacts, cpu: Device, shown: str | None) -> Devices:
    """The devices of recorded facts, of which what is free is not known. ``cpu`` is this machine's."""
    from bnbenv.facts.model import Mig

    if facts.driver.state == "mismatch":
        why = "the NVIDIA driver is half upgraded and no GPU can be used before a reboot"
        return Devices((), cpu, why, recorded=True)
    places = []
    for gpu in facts.gpus:
        slices = gpu.mig.devices if isinstance(gpu.mig, Mig) else ()
        parts = [(one.uuid, one.name or gpu.name, one.memory_total or 0) for one in slices]
        for uuid, name, total in parts or [(gpu.uuid, gpu.name, gpu.memory_total)]:
            places.append(Place(gpu.index, uuid, name, total, 0, 0, capability=gpu.compute_capability))
    found = [place for place in visible(tuple(places), shown) if place.total]
    gpus = tuple(msgspec.structs.replace(_device(place), free=None) for place in found)
    missing = None if gpus else "the recorded facts name no GPU whose memory is known"
    return Devices(gpus, cpu, missing, recorded=True)


def with_free(devices: Devices, free: int) -> Devices:
    """The same as if each GPU (without any, the main memory) had ``free`` bytes free."""
    if not devices.gpus:
        return msgspec.structs.replace(devices, cpu=_set(devices.cpu, free))
    return msgspec.structs.replace(devices, gpus=tuple(_set(gpu, free) for gpu in devices.gpus))


def room(device: Device) -> int:
    """Bytes that can be counted on: what is free, and where that is not known the total less what the driver keeps."""
    if device.free is not None:
        return device.free
    return device.total if device.index is None else device.total - device.total * DRIVER_KEEPS // 1000


def main_memory_device(sysroot: Sysroot) -> Device:
    """The CPU, whose memory is the machine's or what a container may use of it."""
    ram = main_memory(sysroot)
    name = "main memory of this container" if ram.limited else "main memory"
    return Device(None, name, ram.total or 0, ram.free)


def _set(device: Device, free: int) -> Device:
    return msgspec.structs.replace(device, free=free, total=max(device.total, free))


def _device(place: Place) -> Device:
    return Device(place.gpu, place.name, place.total, place.free, place.uuid, place.capability)


def _held(place: Place) -> str | None:
    """Who holds memory there, where that matters."""
    if place.used < place.total * 5 // 100:
        return None
    largest = sorted(place.holders, key=lambda one: one.bytes or 0, reverse=True)[:3]
    who = ", ".join(
        f"{one.program or 'process'} ({one.pid}{'' if one.bytes is None else f', {shown_size(one.bytes)}'})"
        for one in largest
    )
    return f"{place.title}: {shown_size(place.used)} in use{f' by {who}' if who else ''}"
