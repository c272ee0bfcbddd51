"""What a class of hosts is called. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bnbenv.decode import shown
from bnbenv.facts.model import HostFacts
from bnbenv.matrix.drivers import number

_NAMES = 2  # of products, before the rest is only counted
_SYSTEMS = {"linux": "Linux", "windows": "Windows", "macos": "macOS"}


def title_of(hosts: Sequence[HostFacts], minors: Sequence[str]) -> str:
    """``NVIDIA H200 (sm_90), driver 570.86.10 to 570.133.20, glibc 2.35, Python 3.12``.

    A platform stands first where it is not Linux on x86-64; what differs among the hosts is a range. ``minors`` are
    the Pythons that count.
    """
    first = hosts[0]
    platform = first.platform
    parts = []
    if (platform.os, platform.machine) != ("linux", "x86_64") or platform.wsl or platform.jetson:
        system = f"{shown(_SYSTEMS.get(platform.os, platform.os), 20)} {shown(platform.machine, 20)}"
        more = " in WSL2" if platform.wsl else f" with L4T {shown(platform.jetson, 20)}" if platform.jetson else ""
        parts.append(f"{system}{more}")
    parts.append(_gpus(hosts))
    if first.gpus:
        versions = [facts.driver.version for facts in hosts if facts.driver.version]
        parts.append(f"driver {_range(versions)}" if versions else "driver of unknown version")
    if first.gpus and first.driver.state == "absent":
        parts[-1] = "no driver"
    if platform.libc:
        libcs = [facts.platform.libc.version for facts in hosts if facts.platform.libc]
        parts.append(f"{shown(platform.libc.name, 20)} {_range(libcs)}")
    parts.append(f"Python {' '.join(minors[:8])}" if minors else "no usable Python")
    return ", ".join(parts)


def _gpus(hosts: Sequence[HostFacts]) -> str:
    """By architecture, the highest first, the names of the products."""
    names: dict[tuple[int, int], dict[str, None]] = {}
    for facts in hosts:
        for gpu in facts.gpus:
            names.setdefault(gpu.capability, {})[shown(gpu.name or "GPU", 40)] = None
    if not names:
        return "no GPU"
    return " and ".join(
        f"{_some(sorted(names[pair]))} (sm_{pair[0]}{pair[1]})" for pair in sorted(names, reverse=True)[:4]
    )


def _some(names: Sequence[str]) -> str:
    more = len(names) - _NAMES
    return ", ".join(names[:_NAMES]) + (f" and {more} more" if more > 0 else "")


def _range(versions: Iterable[str]) -> str:
    ordered = sorted({shown(version, 20) for version in versions}, key=number)
    return ordered[0] if len(ordered) == 1 else f"{ordered[0]} to {ordered[-1]}"
