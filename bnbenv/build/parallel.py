"""How many compilers may run at once: by the cores and the memory that this process may use."""

from __future__ import annotations

import math
import os
from typing import NamedTuple

from bnbenv.facts.ram import control_groups, main_memory, whole
from bnbenv.paths import Sysroot

CUDA_JOB = 3 << 30  # bytes that one run of nvcc can take


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
    quotas = [quota for folder in control_groups(sysroot, "cpu") if (quota := _quota(sysroot, folder)) is not None]
    return Resources(min([float(cores), *quotas]), main_memory(sysroot).free)


def _quota(sysroot: Sysroot, folder: str) -> float | None:
    """Cores' worth of time that a group may use; None: no limit."""
    text = sysroot.read(f"{folder}/cpu.max")
    if text is not None:
        quota, _, period = text.partition(" ")
    else:
        quota = sysroot.read(f"{folder}/cpu.cfs_quota_us") or ""
        period = sysroot.read(f"{folder}/cpu.cfs_period_us") or ""
    allowed, span = whole(quota), whole(period)
    return allowed / span if allowed and span else None
