"""What uv is doing, read from what it prints where standard error is no terminal (uv 0.13), and from the kernel."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

# Lines that tell how it goes; none of them is part of an error.
_TELLING = re.compile(
    r"(?:Using (?:C?Python) |(?:Resolved|Prepared|Installed|Uninstalled|Audited|Checked) (?=\d)|"
    r" {0,6}(?:Downloading|Downloaded|Building|Built|Updating|Updated) | [+~-] )\S.*"
)
_DOWNLOADING = re.compile(r"^Downloading (\S+) \(([0-9]+(?:\.[0-9]+)?)([KMG]?i?B)\)$", re.M)
_DOWNLOADED = re.compile(r"^ Downloaded (\S+)$", re.M)
_BUILDING = re.compile(r"^ *Building (\S+)", re.M)
_BUILT = re.compile(r"^ *Built (\S+)", re.M)
_PREPARED = re.compile(r"^Prepared \d", re.M)
_UNITS = {"B": 2**-20, "KiB": 2**-10, "MiB": 1.0, "GiB": 2.0**10}

WINDOW = 5.0  # seconds that a rate is taken over


def without_progress(text: str) -> str:
    """What uv printed, without the lines that only tell how it goes. Pure."""
    return "".join(line for line in text.splitlines(keepends=True) if not _TELLING.fullmatch(line.rstrip("\r\n")))


@dataclass(frozen=True)
class Stage:
    """Where uv is: files that are on their way with their size in MiB, how many are here, what is being built."""

    coming: dict[str, float]
    here: int
    building: tuple[str, ...]
    linking: bool


def read_stage(text: str) -> Stage:
    """The stage after what uv printed so far. Pure."""
    here = set(_DOWNLOADED.findall(text))
    announced = {name: float(number) * _UNITS.get(unit, 1.0) for name, number, unit in _DOWNLOADING.findall(text)}
    coming = {name: size for name, size in announced.items() if name not in here}
    built = set(_BUILT.findall(text))
    building = tuple(name for name in _BUILDING.findall(text) if name not in built)
    return Stage(coming, len(here), building, bool(_PREPARED.search(text)))


def describe(stage: Stage, otherwise: str) -> str:
    """``downloading torch (780 MiB) and 2 more``; ``otherwise`` where uv does not say what it does. Pure."""
    if stage.linking:
        return "linking the files into the environment"
    if stage.building:
        return f"building {_first(stage.building)}"
    if stage.coming:
        name, size = max(stage.coming.items(), key=lambda item: item[1])
        more = f" and {len(stage.coming) - 1} more" if len(stage.coming) > 1 else ""
        total = sum(stage.coming.values())
        in_all = f", {total:.0f} MiB to come" if more else ""
        here = f"; {stage.here} are here" if stage.here else ""
        return f"downloading {name} ({size:.0f} MiB){more}{in_all}{here}"
    return otherwise


def _first(names: tuple[str, ...]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


@dataclass
class Follower:
    """Follows one run of uv and tells ``tell`` what it does, how much it has written, and how quickly."""

    tell: Callable[[str], None]
    otherwise: str
    written: Callable[[int], int | None]
    clock: Callable[[], float] = time.monotonic
    _seen: list[tuple[float, int]] = field(default_factory=list)

    def __call__(self, pid: int, stdout: str, stderr: str) -> None:
        self.tell(f"{describe(read_stage(stderr), self.otherwise)}{self._rate(pid)}")

    def _rate(self, pid: int) -> str:
        size, now = self.written(pid), self.clock()
        if size is None:
            return ""
        self._seen = [*(one for one in self._seen if one[0] >= now - WINDOW), (now, size)]
        began, before = self._seen[0]
        speed = f", {(size - before) / (now - began) / 2**20:.0f} MiB/s" if now - began >= 1 else ""
        return f": {size / 2**20:.0f} MiB unpacked{speed}" if size >= 2**20 else ""


def bytes_written(pid: int) -> int | None:
    """Bytes that a process has written to files, as Linux counts them; None where it cannot be known."""
    try:
        text = Path(f"/proc/{pid}/io").read_text(encoding="ascii")
    except (OSError, ValueError):
        return None
    found = re.search(r"^wchar: (\d+)$", text, re.M)
    return int(found[1]) if found else None
