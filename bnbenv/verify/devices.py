"""Which devices to verify."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bnbenv.decode import shown
from bnbenv.errors import Failed, UsageError
from bnbenv.facts.model import Gpu, HostFacts, Mig


@dataclass(frozen=True)
class Device:
    """A device for one process: ``id`` is the UUID of a GPU or MIG slice, or ``cpu``; ``name`` is for people."""

    id: str
    name: str | None = None

    @property
    def kind(self) -> str:
        return "cpu" if self.id == "cpu" else "cuda"

    @property
    def visible(self) -> str:
        """The value of CUDA_VISIBLE_DEVICES that shows this device alone."""
        return "" if self.kind == "cpu" else self.id


CPU = Device("cpu", "CPU")


def devices_for(facts: HostFacts, selection: Sequence[str]) -> tuple[Device, ...]:
    """The devices that ``selection`` names on this host, each once.

    A word is ``cpu``, ``all`` (every GPU), an index, or a UUID or the beginning of one, of a GPU or of a MIG slice. A
    GPU with MIG enabled stands for its slices: CUDA cannot use it as a whole. No word at all means the CPU. Raises
    UsageError for what is not there, Failed for a GPU with MIG enabled and no slices.
    """
    found: list[Device] = []
    for word in selection or ("cpu",):
        found += _devices_named(facts, word)
    return tuple(dict.fromkeys(found))


def default_selection(facts: HostFacts, environ: Mapping[str, str]) -> tuple[str, ...]:
    """All GPUs, or those that CUDA_VISIBLE_DEVICES leaves; the CPU where there is none.

    Raises Failed where it is unknown whether there is a GPU: to verify the CPU instead would prove nothing.
    """
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and facts.gpus:
        words = [word.strip() for word in visible.split(",")]
        return tuple(words) if all(words) and "-1" not in words else ("cpu",)
    if facts.gpus:
        return ("all",)
    if facts.driver.state == "error":
        why = next((unknown.reason for unknown in facts.unknown if unknown.fact.startswith(("gpus", "driver"))), "")
        message = "the NVIDIA driver does not answer" + (f" ({why})" if why else "")
        raise Failed("driver-error", message, "Mend the driver, or verify the CPU alone with: --device cpu")
    return ("cpu",)


def _devices_named(facts: HostFacts, word: str) -> list[Device]:
    if word == "cpu":
        return [CPU]
    if word == "all":
        return [device for gpu in facts.gpus for device in _parts(gpu)]
    if word.isascii() and word.isdigit() and len(word) < 16:
        matches = [device for gpu in facts.gpus if gpu.index == int(word) for device in _parts(gpu)]
    else:
        whole = [gpu for gpu in facts.gpus if gpu.uuid.lower().startswith(word.lower())]
        slices = [s for gpu in facts.gpus for s in _slices(gpu) if s.id.lower().startswith(word.lower())]
        if len(whole) + len(slices) > 1:
            raise UsageError(
                "which-device", f'"{shown(word)}" is the beginning of several devices\' UUIDs', "Give more of it."
            )
        matches = [device for gpu in whole for device in _parts(gpu)] + slices
    if not matches:
        have = ", ".join(f"{gpu.index} ({gpu.uuid})" for gpu in facts.gpus) or "no GPU"
        message = f'there is no device "{shown(word)}"; this host has {have}'
        raise UsageError("no-such-device", message, "See: bnbenv facts")
    return matches


def _parts(gpu: Gpu) -> list[Device]:
    if not isinstance(gpu.mig, Mig) or gpu.mig.mode != "enabled":
        return [Device(gpu.uuid, gpu.name)]
    slices = _slices(gpu)
    if not slices:
        message = f"GPU {gpu.index} ({gpu.name}) has MIG enabled but no slices, so CUDA cannot use it"
        raise Failed("mig-without-slices", message, "Make slices with nvidia-smi mig, or disable MIG.")
    return slices


def _slices(gpu: Gpu) -> list[Device]:
    if not isinstance(gpu.mig, Mig):
        return []
    return [Device(part.uuid, part.name or f"{gpu.name}, a MIG slice") for part in gpu.mig.devices]
