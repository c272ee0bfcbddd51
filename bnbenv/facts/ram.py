"""The main memory that this process may use: the machine's, or less where a control group limits it. Bytes."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import NamedTuple

from bnbenv.paths import Sysroot

UNLIMITED = 1 << 60  # what the first version of control groups writes where there is no limit is larger


class Ram(NamedTuple):
    """``total`` and ``free`` in bytes; None is unknown. ``limited``: a container, a unit or a batch system allows less
    than the machine has."""

    total: int | None
    free: int | None
    limited: bool = False


def main_memory(sysroot: Sysroot, system: str = sys.platform) -> Ram:
    """What there is and what is free now.

    Linux: MemAvailable of /proc/meminfo (what can be had without swapping), and the limits of control groups of both
    versions (a container's, a systemd unit's, a batch system's), of which the smallest counts.
    """
    if system == "win32":
        return _windows()
    if system == "darwin":
        return Ram(_of_system("SC_PHYS_PAGES"), None)
    text = sysroot.read("/proc/meminfo") or ""
    there, free = (_meminfo(text, name) for name in ("MemTotal", "MemAvailable"))
    limits = list(_limits(sysroot))
    rooms = [*(room for _, room in limits), *([] if free is None else [free])]
    smallest = min((limit for limit, _ in limits), default=None)
    limited = smallest is not None and there is not None and smallest < there
    return Ram(smallest if limited else there, min(rooms, default=None), limited)


def control_groups(sysroot: Sysroot, controller: str) -> Iterator[str]:
    """The folders of this process's control group and of those around it; in a container it is often the root."""
    for line in (sysroot.read("/proc/self/cgroup") or "").splitlines()[:64]:
        _, _, rest = line.partition(":")
        controllers, _, place = rest.partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        root = f"/sys/fs/cgroup/{controller}" if controllers else "/sys/fs/cgroup"
        parts = [part for part in place.split("/") if part and part != ".."][:32]
        for count in range(len(parts), -1, -1):
            yield "/".join((root, *parts[:count]))


def whole(text: str) -> int | None:
    """A number as the kernel's files have it; None for "max" and what is none."""
    text = text.strip()
    return int(text) if re.fullmatch(r"\d{1,19}", text, re.ASCII) else None


def _limits(sysroot: Sysroot) -> Iterator[tuple[int, int]]:
    """The limit of each group, and what it may still take; what it holds of files is given back when it is needed."""
    for folder in control_groups(sysroot, "memory"):
        for limit, used, cached in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            most = whole(sysroot.read(f"{folder}/{limit}") or "")
            if most is None or most >= UNLIMITED:
                continue
            taken = whole(sysroot.read(f"{folder}/{used}") or "") or 0
            given = re.search(rf"^{cached} (\d{{1,18}})$", sysroot.read(f"{folder}/memory.stat") or "", re.ASCII | re.M)
            yield most, max(0, most - taken + (min(taken, int(given[1])) if given else 0))
            break


def _meminfo(text: str, name: str) -> int | None:
    found = re.search(rf"^{name}:\s+(\d{{1,15}}) kB", text, re.ASCII | re.MULTILINE)
    return int(found[1]) << 10 if found else None


def _of_system(pages: str) -> int | None:
    import os

    try:
        return os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


def _windows() -> Ram:
    """GlobalMemoryStatusEx's answer; its structure is MEMORYSTATUSEX of sysinfoapi.h."""
    import ctypes

    class Status(ctypes.Structure):
        _fields_ = (
            ("length", ctypes.c_ulong),
            ("load", ctypes.c_ulong),
            *((name, ctypes.c_ulonglong) for name in ("total", "free", "a", "b", "c", "d", "e")),
        )

    status = Status()
    status.length = ctypes.sizeof(status)
    windll = getattr(ctypes, "windll", None)
    if windll is None or not windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):
        return Ram(None, None)
    return Ram(int(status.total), int(status.free))
