"""The platform: system, machine, C library, WSL2, container, Jetson.

What only the running interpreter knows comes in as a ``HostPort``, so that any system's answers can be replayed.
"""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from bnbenv.facts import kernel
from bnbenv.facts.driver import is_wsl
from bnbenv.facts.model import Gpu, Libc, Platform, Python, Unknown
from bnbenv.paths import Sysroot
from bnbenv.process import Command, Runner

_SYSTEMS = {"linux": "linux", "win32": "windows", "darwin": "macos"}
_MACHINES = {"amd64": "x86_64", "x64": "x86_64", "arm64": "aarch64", "armv8": "aarch64"}
_SERVER_KIND = 38  # the first L4T release (JetPack 7) that takes the wheels of servers

# The L4T major of the kernel a Jetson container sees: "5.15.148-tegra". From NVIDIA's Jetson Linux release notes.
_TEGRA_KERNELS = {"4.9": 32, "5.10": 35, "5.15": 36}
# The GPU inside each Jetson: device tree name -> product, compute capability. From NVIDIA's Jetson module data sheets.
_TEGRA_GPUS = {
    "nvidia,tegra210": ("Jetson Nano or TX1", "5.3"),
    "nvidia,tegra186": ("Jetson TX2", "6.2"),
    "nvidia,tegra194": ("Jetson Xavier", "7.2"),
    "nvidia,tegra234": ("Jetson Orin", "8.7"),
}


@dataclass(frozen=True)
class HostPort:
    """``system`` as sys.platform, ``machine`` as the system names it, ``glibc`` such as ``glibc 2.36`` or None."""

    system: str
    machine: str
    glibc: str | None = None
    interpreter: Python | None = None

    @classmethod
    def current(cls) -> HostPort:
        """The running interpreter's own answers."""
        base = getattr(sys, "_base_executable", None) or sys.executable
        version = platform.python_version()
        usual = (
            platform.python_implementation() == "CPython"
            and sys.maxsize > 2**32
            and "t" not in getattr(sys, "abiflags", "")
        )
        return cls(
            system=sys.platform,
            machine=platform.machine(),
            glibc=kernel.glibc(),
            interpreter=Python(os.path.realpath(base), version) if usual else None,
        )


def read_platform(
    environ: Mapping[str, str], sysroot: Sysroot, runner: Runner, port: HostPort
) -> tuple[Platform, tuple[Unknown, ...]]:
    """The platform, and why the C library or the Jetson release is not known."""
    machine = port.machine.lower()
    machine = _MACHINES.get(machine, machine)
    system = _SYSTEMS.get(port.system, port.system)
    if system != "linux":
        reason = f"{system} has no C library that packages ask for"
        return Platform(system, machine), (Unknown("platform.libc", reason),)
    libc, unknown = _libc(sysroot, runner, port)
    jetson, gap = _jetson(sysroot)
    found = Platform("linux", machine, libc, is_wsl(sysroot), container_kind(environ, sysroot), jetson)
    return found, (*unknown, *gap)


def container_kind(environ: Mapping[str, str], sysroot: Sysroot) -> str | None:
    """kubernetes, apptainer, docker, podman, lxc, ... or None outside of containers."""
    if environ.get("KUBERNETES_SERVICE_HOST"):
        return "kubernetes"
    if any(environ.get(name) for name in ("APPTAINER_CONTAINER", "SINGULARITY_CONTAINER", "APPTAINER_NAME")):
        return "apptainer"
    if sysroot.path("/.dockerenv").exists():
        return "docker"
    if sysroot.path("/run/.containerenv").exists():
        return "podman"
    named = environ.get("container", "").strip()
    if named:
        return named if re.fullmatch(r"[a-z0-9-]{1,32}", named) else "container"
    groups = sysroot.read("/proc/1/cgroup") or ""
    marks = {"kubepods": "kubernetes", "docker": "docker", "libpod": "podman", "lxc": "lxc", "containerd": "containerd"}
    return next((kind for mark, kind in marks.items() if mark in groups), None)


def parse_glibc(text: str | None) -> Libc | None:
    """``glibc 2.36`` as confstr gives it."""
    match = re.match(r"(?:glibc|stable)\s+(\d{1,4}\.\d{1,4}(?:\.\d{1,4})?)(?!\d)", text or "", re.ASCII)
    return Libc("glibc", match[1]) if match else None


def parse_musl(text: str) -> Libc | None:
    """What musl's loader says of itself: ``musl libc (x86_64)``, and in the next line ``Version 1.2.5``."""
    match = re.search(r"^musl libc.*\nVersion (\d{1,4}\.\d{1,4}(?:\.\d{1,4})?)(?!\d)", text, re.ASCII | re.MULTILINE)
    return Libc("musl", match[1]) if match else None


def parse_l4t(text: str) -> tuple[int, str] | None:
    """Major and release in /etc/nv_tegra_release, ``(36, "36.4")``.

    ``# R36 (release), REVISION: 4.0, GCID: 37537400, BOARD: generic, EABI: aarch64, DATE: Fri Sep 13 2024``
    """
    match = re.search(r"#\s*R(\d{2})\s*\(release\),\s*REVISION:\s*(\d+(?:\.\d+)*)", text, re.ASCII)
    if match is None:
        return None
    revision = match[2].removesuffix(".0")
    return int(match[1]), f"{match[1]}.{revision}"


def tegra_kernel(text: str) -> int | None:
    """The L4T major of a kernel such as ``5.15.148-tegra``; None for any other kernel."""
    match = re.search(r"\b(\d+\.\d+)\.\d+-tegra\b", text, re.ASCII)
    return _TEGRA_KERNELS.get(match[1]) if match else None


def jetson_gpu(sysroot: Sysroot) -> Gpu | None:
    """The GPU of a Jetson by its device tree, for where NVML does not know it; its memory is the system's."""
    names = (sysroot.read("/proc/device-tree/compatible") or "").split("\0")
    for name in names:
        if name in _TEGRA_GPUS:
            product, capability = _TEGRA_GPUS[name]
            return Gpu(0, "", product, capability, system_memory(sysroot) or 0)
    return None


def system_memory(sysroot: Sysroot) -> int | None:
    """The system's memory in bytes, by ``MemTotal:  131072000 kB`` in /proc/meminfo."""
    match = re.search(r"^MemTotal:\s+(\d{1,15}) kB", sysroot.read("/proc/meminfo") or "", re.ASCII | re.MULTILINE)
    return int(match[1]) * 1024 if match else None


def _libc(sysroot: Sysroot, runner: Runner, port: HostPort) -> tuple[Libc | None, tuple[Unknown, ...]]:
    glibc = parse_glibc(port.glibc)
    if glibc is not None:
        return glibc, ()
    loaders = sorted(str(path) for path in sysroot.path("/lib").glob("ld-musl-*.so.1"))
    if not loaders:
        return None, (Unknown("platform.libc", "neither glibc nor musl names itself"),)
    try:
        finished = runner.run(Command((loaders[0],), timeout=2.0))
    except OSError as error:
        return None, (Unknown("platform.libc", f"musl, but its loader does not start ({error.strerror})"),)
    musl = parse_musl(finished.stderr)
    return musl, () if musl else (Unknown("platform.libc", "musl, but its loader names no version"),)


def _jetson(sysroot: Sysroot) -> tuple[str | None, tuple[Unknown, ...]]:
    """The L4T release where it is older than the server kind; in a container, where the file is not, by the kernel."""
    release = parse_l4t(sysroot.read("/etc/nv_tegra_release") or "")
    if release is not None:
        return (release[1], ()) if release[0] < _SERVER_KIND else (None, ())
    major = tegra_kernel(sysroot.read("/proc/version") or "")
    if major is not None:
        reason = "only its major is known, from the kernel: /etc/nv_tegra_release is not here"
        return str(major), (Unknown("platform.jetson", reason),)
    return None, ()
