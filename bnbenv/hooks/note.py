"""What the machine was like when a hook last looked: the same quick fingerprint that ``check`` compares.

Read from files alone, in a few milliseconds; no process is started and NVML is not asked.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from bnbenv.facts.quick import Quick, differences, quick_facts
from bnbenv.hooks.registry import load, save
from bnbenv.paths import Sysroot

_BOOT = "/proc/sys/kernel/random/boot_id"
LIBRARY = "driver library"


class Noted(NamedTuple):
    """``number`` counts the changes, ``event`` is what had it look, ``boot`` identifies the start of the machine.

    ``changes`` are the last ones, ``when`` an ISO time, ``state`` the driver's.
    """

    number: int
    when: str
    event: str
    state: str
    boot: str
    fingerprint: dict[str, str]
    changes: list[str]

    @property
    def name(self) -> str:
        """The same for two that noted the same change at once."""
        return f"{self.number}-{self.state}"


def observe(sysroot: Sysroot) -> Quick:
    """The driver, the GPUs and the CUDA toolkits of this machine, whatever variables say of them."""
    quick = quick_facts({}, sysroot)
    try:
        toolkits = sorted(path.name for path in sysroot.path("/usr/local").glob("cuda-*"))
    except OSError:
        toolkits = []
    return Quick(quick.state, {**quick.fingerprint, "CUDA toolkits": " ".join(toolkits) or "none"})


def boot_id(sysroot: Sysroot) -> str:
    return (sysroot.read(_BOOT) or Sysroot().read(_BOOT) or "unknown").strip()


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())


def read_noted(path: Path) -> Noted | None:
    data = load(path)
    data.pop("schema", None)
    try:
        noted = Noted(**data)
    except TypeError:
        return None
    sound = isinstance(noted.number, int) and isinstance(noted.fingerprint, dict) and isinstance(noted.changes, list)
    return noted if sound and all(isinstance(text, str) for text in noted.fingerprint.values()) else None


def write_noted(path: Path, noted: Noted) -> None:
    """Raises OSError."""
    save(path, noted._asdict())


def compare(before: Noted | None, quick: Quick, event: str, boot: str) -> tuple[Noted, bool]:
    """What is to be noted now, and whether that is news. Pure but for the clock.

    The reboot after which module and library are the same again is part of the change that was noted before it.
    """
    fresh = Noted(1, now(), event, quick.state, boot, dict(quick.fingerprint), [])
    if before is None:
        return fresh, False
    changes = differences(before.fingerprint, quick.fingerprint)
    if not changes and before.state == quick.state:
        return before, False
    if (
        before.state == "mismatch"
        and quick.state == "ok"
        and _library(before.fingerprint) == _library(fresh.fingerprint)
    ):
        return fresh._replace(number=before.number, changes=before.changes), False
    return fresh._replace(number=before.number + 1, changes=changes), True


def _library(fingerprint: Mapping[str, str]) -> str | None:
    return fingerprint.get(LIBRARY)


def driver_change(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    """``from 570.124.06 to 580.65.06``, as far as it is known; empty where the driver is the same."""
    old, new = (found.get(LIBRARY) or found.get("driver module") for found in (before, after))
    if old == new:
        return ""
    return " ".join(f"{word} {version}" for word, version in (("from", old), ("to", new)) if version)
