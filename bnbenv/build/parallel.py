"""How many compilers may run at once: by the cores and the memory that this process may use."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from typing import NamedTuple

from bnbenv.paths import Sysroot

CUDA_JOB = 3 << 30  # bytes that one run of nvcc can take
UNLIMITED = 1 << 60  # what the first version of control groups writes where there is no limit is larger


class Resources(NamedTuple):
    """``cores`` as a number that control groups may make a fraction of; ``memory`` in bytes, None where unknown."""

    cores: float
    memory: int | None

    @property
    def jobs(self) -> int:
        """Compilers at once: one a core, and no more than the memory has room for; at least one."""
        by_cores = max(1, math.ceil(self.cores))
        return by_cores if self.memory is None else max(1, min(by_cores, self.memory // CUDA_JOB))

    @property
    def gigabytes(self) -> str:
        """The free memory in words."""
        return "an unknown amount of memory" if self.memory is None else f"{self.memory / 2**30:.1f} GB of memory"


def resources(sysroot: Sysroot, cores: int | None = None) -> Resources:
    """What is free now. ``cores`` are those this process may run on, by default as the system says.

    The limits of control groups count (a container's, a systemd unit's, a batch system's), of both versions.
    """
    if cores is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for folder in _groups(sysroot, "cpu") if (quota := _quota(sysroot, folder)) is not None]
    memories = [room for folder in _groups(sysroot, "memory") if (room := _room(sysroot, folder)) is not None]
    found = re.search(r"^MemAvailable:\s+(\d{1,15}) kB", sysroot.read("/proc/meminfo") or "", re.ASCII | re.MULTILINE)
    memories += [int(found[1]) << 10] if found else []
    return Resources(min([float(cores), *quotas]), min(memories, default=None))


def _groups(sysroot: Sysroot, controller: str) -> Iterator[str]:
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


def _quota(sysroot: Sysroot, folder: str) -> float | None:
    """Cores' worth of time that a group may use; None: no limit."""
    text = sysroot.read(f"{folder}/cpu.max")
    if text is not None:
        quota, _, period = text.partition(" ")
    else:
        quota = sysroot.read(f"{folder}/cpu.cfs_quota_us") or ""
        period = sysroot.read(f"{folder}/cpu.cfs_period_us") or ""
    allowed, span = _number(quota), _number(period)
    return allowed / span if allowed and span else None


def _room(sysroot: Sysroot, folder: str) -> int | None:
    """Bytes that a group may still take; what it holds of files is given back when it is needed. None: no limit."""
    for limit, used, cached in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        most = _number(sysroot.read(f"{folder}/{limit}") or "")
        if most is None or most >= UNLIMITED:
            continue
        taken = _number(sysroot.read(f"{folder}/{used}") or "") or 0
        given = re.search(rf"^{cached} (\d{{1,18}})$", sysroot.read(f"{folder}/memory.stat") or "", re.ASCII | re.M)
        return max(0, most - taken + (min(taken, int(given[1])) if given else 0))
    return None


def _number(text: str) -> int | None:
    text = text.strip()
    return int(text) if re.fullmatch(r"\d{1,19}", text, re.ASCII) else None
