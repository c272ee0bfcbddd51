"""The most memory that a command used on each GPU, as NVML's samples tell. Pure but for its watch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from bnbenv.facts.memory import Place, Sample, visible

RISE = 1 << 20  # bytes by which a GPU's use has to rise for the command to have used it, where processes are not told


class Peak(NamedTuple):
    """``of`` says whose memory: the command's own (``command``), or all that is in use there (``device``)."""

    gpu: int
    uuid: str
    bytes: int
    of: str


class Peaks:
    """Collects samples; ``shown`` is the value of CUDA_VISIBLE_DEVICES."""

    def __init__(self, shown: str | None) -> None:
        self._shown = shown
        self._own: dict[str, Peak] = {}
        self._all: dict[str, Peak] = {}
        self._before: dict[str, int] = {}

    def add(self, sample: Sample) -> None:
        seen = visible(sample.places, self._shown)
        for place in sample.places:
            if place.ours:
                _raise(self._own, place, place.ours, "command")
            if place in seen:
                self._before.setdefault(place.uuid, place.used)
                _raise(self._all, place, place.used, "device")

    def result(self) -> tuple[Peak, ...]:
        """The command's own peaks where NVML tells them of any GPU, else those of the GPUs whose use rose."""
        rose = [peak for peak in self._all.values() if peak.bytes - self._before[peak.uuid] >= RISE]
        return tuple(sorted(self._own.values() or rose))


def _raise(peaks: dict[str, Peak], place: Place, size: int, of: str) -> None:
    known = peaks.get(place.uuid)
    if known is None or size > known.bytes:
        peaks[place.uuid] = Peak(place.gpu, place.uuid, size, of)


class Watching(Protocol):
    """What ends a watch."""

    def stop(self) -> None: ...


# Begins to watch a process: its id, and what is told each sample.
Watch = Callable[[int, Callable[[Sample], None]], Watching]


def documents(peaks: tuple[Peak, ...]) -> list[dict[str, Any]]:
    return [peak._asdict() for peak in peaks]
