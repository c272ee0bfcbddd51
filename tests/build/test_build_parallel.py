"""How many compilers run at once, by what a machine, a container and a batch system say of themselves."""

from __future__ import annotations

from pathlib import Path

import pytest

from bnbenv.build.parallel import resources
from bnbenv.paths import Sysroot

GB = 1 << 30
MEMINFO = "MemTotal:       65536000 kB\nMemAvailable:   {kb} kB\n"


def system(root: Path, files: dict[str, str]) -> Sysroot:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Sysroot(root)


def meminfo(gigabytes: float) -> dict[str, str]:
    return {"proc/meminfo": MEMINFO.format(kb=int(gigabytes * 2**20))}


CASES = {
    "cores": (meminfo(64), 8),
    "memory": (meminfo(10), 3),
    "little memory": (meminfo(1), 1),
    "nothing known": ({}, 8),
    "a container, of which the root is its own": (
        {**meminfo(64), "proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "250000 100000\n"},
        3,
    ),
    "a unit, limited by its parent": (
        {
            **meminfo(64),
            "proc/self/cgroup": "0::/user.slice/run.scope\n",
            "sys/fs/cgroup/user.slice/memory.max": f"{8 * GB}\n",
            "sys/fs/cgroup/user.slice/memory.current": f"{4 * GB}\n",
            "sys/fs/cgroup/user.slice/memory.stat": f"anon 1\ninactive_file {2 * GB}\n",
            "sys/fs/cgroup/user.slice/run.scope/memory.max": "max\n",
        },
        2,
    ),
    "the first version": (
        {
            **meminfo(64),
            "proc/self/cgroup": "4:memory:/job\n2:cpu,cpuacct:/job\n",
            "sys/fs/cgroup/memory/job/memory.limit_in_bytes": f"{13 * GB}\n",
            "sys/fs/cgroup/memory/job/memory.usage_in_bytes": f"{GB // 2}\n",
            "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us": "600000\n",
            "sys/fs/cgroup/cpu/job/cpu.cfs_period_us": "100000\n",
        },
        4,
    ),
    "the first version, without limits": (
        {
            **meminfo(64),
            "proc/self/cgroup": "4:memory:/\n2:cpu,cpuacct:/\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
        8,
    ),
    "nonsense": (
        {
            "proc/meminfo": "MemAvailable: lots kB\n",
            "proc/self/cgroup": "\0:::\n0::../../..\n",
            "sys/fs/cgroup/cpu.max": "much little\n",
        },
        8,
    ),
}


@pytest.mark.parametrize("files, jobs", CASES.values(), ids=CASES)
def test_jobs(tmp_path: Path, files: dict[str, str], jobs: int) -> None:
    assert resources(system(tmp_path, files), cores=8).jobs == jobs
