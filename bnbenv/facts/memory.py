"""How much GPU memory is free and used, told again and again by a process of its own (``memory_probe``).

Quick to import: ``bnbenv run`` starts with it. Numbers are bytes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from bnbenv.facts import kernel
from bnbenv.paths import Sysroot

if TYPE_CHECKING:
    from bnbenv.process.background import Background


class Holder(NamedTuple):
    """A process that holds memory of a GPU; ``bytes`` is None where the driver does not say."""

    pid: int
    bytes: int | None
    program: str | None


class Place(NamedTuple):
    """A GPU, or a MIG slice of one. ``ours`` is what the watched process and its children use, None if unknown.

    ``capability`` is the GPU's compute capability (``9.0``), None if unknown.
    """

    gpu: int
    uuid: str
    name: str
    total: int
    free: int
    used: int
    holders: tuple[Holder, ...] = ()
    ours: int | None = None
    capability: str | None = None

    @property
    def title(self) -> str:
        """``GPU 0 (NVIDIA H200)``; of a slice its UUID, since one GPU has several."""
        return f"GPU {self.gpu} ({self.uuid if self.is_slice else self.name})"

    @property
    def is_slice(self) -> bool:
        return self.uuid.startswith("MIG-")


class Sample(NamedTuple):
    """All GPUs at one moment, in NVML's order; ``failure`` says why there is none."""

    places: tuple[Place, ...] = ()
    failure: str | None = None


def may_have_gpus(environ: Mapping[str, str], sysroot: Sysroot, system: str = sys.platform) -> bool:
    """Whether there is a driver that could be asked: answered from files, in a millisecond."""
    if system == "darwin":
        return False
    if system == "win32":
        return kernel.windows_nvml(environ) is not None
    return kernel.nvml_library(environ, sysroot) is not None


def watch_memory(
    environ: Mapping[str, str],
    sysroot: Sysroot,
    take: Callable[[Sample], None],
    *,
    seconds: float,
    process: int | None = None,
    delay: float = 0.0,
) -> Background:
    """Have ``take`` told every so many ``seconds``, from ``delay`` on, until ``stop()``; in a thread of its own.

    0 seconds: one sample alone. The last sample has a ``failure``, should the asking end by itself.
    """
    from bnbenv.process.background import Background

    failure = ["NVML cannot be asked"]

    def make() -> Any:
        from bnbenv.facts.nvml import probe_command

        words = (f"{seconds:g}", *(() if process is None else (str(process),)))
        command = probe_command(environ, sysroot, "bnbenv.facts.memory_probe", words)
        if isinstance(command, str):
            failure[0] = command
            return None
        return command

    def read(line: str) -> None:
        sample = read_sample(line) if line else Sample(failure=failure[0])
        failure[0] = sample.failure or failure[0]
        take(sample)

    return Background(make, read, delay)


def read_sample(line: str) -> Sample:
    """One line of the probe as a value; what cannot be read is a failure and never an exception."""
    try:
        found = json.loads(line)
        places = tuple(
            Place(
                int(one["gpu"]),
                str(one["uuid"]),
                str(one["name"]),
                int(one["total"]),
                int(one["free"]),
                int(one["used"]),
                tuple(Holder(holder["pid"], holder["bytes"], holder["program"]) for holder in one["holders"]),
                one["ours"],
                one.get("capability"),
            )
            for one in found["places"]
        )
        return Sample(places, found["failure"])
    except (ValueError, KeyError, TypeError):
        return Sample(failure="NVML's answer cannot be read")


def visible(places: tuple[Place, ...], value: str | None) -> tuple[Place, ...]:
    """The places that ``CUDA_VISIBLE_DEVICES`` shows, in its order; None (not set) shows all.

    A word is an index, a UUID or the beginning of one; CUDA stops at the first that it does not know. An index is
    NVML's, which is CUDA's own with CUDA_DEVICE_ORDER=PCI_BUS_ID; of a GPU with MIG enabled it means all slices, of
    which a process can use one.
    """
    if value is None:
        return places
    found: list[Place] = []
    for word in (word.strip() for word in value.split(",")):
        of_word = [place for place in places if _means(word, place)]
        if not of_word:
            break
        found += [place for place in of_word if place not in found]
    return tuple(found)


def _means(word: str, place: Place) -> bool:
    if word.isascii() and word.isdigit():
        return place.gpu == int(word)
    return bool(word) and place.uuid.lower().startswith(word.lower())
