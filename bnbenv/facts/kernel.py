"""What files say about the NVIDIA driver, without asking it: kernel module, GPUs, PCI devices, user-space library.

Standard library only and quick to import: ``bnbenv check`` reads these files on its fast path.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from bnbenv.paths import Sysroot

NVML_LIBRARY = "libnvidia-ml.so.1"
WSL_LIBRARIES = "/usr/lib/wsl/lib"

# Where the dynamic loader looks besides its cache, and where distributions keep the driver's libraries.
_LIBRARY_FOLDERS = (
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/lib64",
    "/lib",
    "/run/opengl-driver/lib",
    WSL_LIBRARIES,
)
_VERSION = re.compile(r"[0-9]{2,4}(?:\.[0-9]{1,6}){1,2}")
_CACHED_LIBRARY = re.compile(rb"/[^\x00]{1,400}/libnvidia-ml\.so\.1(?=\x00)")
_NVIDIA, _DISPLAY = "0x10de", "0x03"  # PCI vendor, and the class (03xxxx) of display and 3D controllers


class KernelGpu(NamedTuple):
    """A GPU in the words of the kernel module. ``uuid`` and ``name`` are None until the GPU was used once."""

    bus: str
    name: str | None
    uuid: str | None


class PciGpu(NamedTuple):
    """An NVIDIA display device on the PCI bus: its address and device ID (``0x2330``)."""

    bus: str
    device: str


class NvmlLibrary(NamedTuple):
    """The NVML library the dynamic loader would take; ``version`` is in its file name, None where it is not."""

    path: str
    version: str | None


def glibc() -> str | None:
    """The running interpreter's C library, ``glibc 2.36``; None where it is another one."""
    confstr = getattr(os, "confstr", None)  # not on Windows
    try:
        found = confstr("CS_GNU_LIBC_VERSION") if confstr else None
    except (ValueError, OSError):
        return None
    return str(found) if found else None


def parse_module_version(text: str) -> str | None:
    """The version in /proc/driver/nvidia/version, or None.

    ``NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023``
    """
    for line in text.splitlines():
        if line.startswith("NVRM version:"):
            return next((word for word in line.split() if _VERSION.fullmatch(word)), None)
    return None


def parse_gpu_information(bus: str, text: str) -> KernelGpu | None:
    """One /proc/driver/nvidia/gpus/*/information, None for a GPU the driver was told to leave alone.

    A GPU not used since boot reads ``GPU UUID: GPU-????????-...`` and may read ``Model: Unknown``.
    """
    fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}
    if fields.get("GPU Excluded", "No") == "Yes":
        return None
    name, uuid = fields.get("Model"), fields.get("GPU UUID")
    return KernelGpu(
        bus,
        name if name and name != "Unknown" else None,
        uuid if uuid and "?" not in uuid else None,
    )


def module_version(sysroot: Sysroot) -> str | None:
    """The version of the loaded kernel module, None where none is loaded."""
    text = sysroot.read("/proc/driver/nvidia/version")
    found = parse_module_version(text) if text else None
    if found is None:
        word = (sysroot.read("/sys/module/nvidia/version") or "").strip()
        found = word if _VERSION.fullmatch(word) else None
    return found


def kernel_gpus(sysroot: Sysroot) -> tuple[KernelGpu, ...]:
    """The GPUs the kernel module drives, by bus address."""
    found = []
    for folder in _listing(sysroot, "/proc/driver/nvidia/gpus"):
        text = sysroot.read(f"/proc/driver/nvidia/gpus/{folder}/information")
        gpu = parse_gpu_information(folder, text) if text is not None else None
        if gpu is not None:
            found.append(gpu)
    return tuple(found)


def mig_instances(sysroot: Sysroot) -> dict[str, str]:
    """The MIG compute instances by device minor, ``{"gpu0": "gi1/ci0 gi2/ci0"}``; GPUs without any are left out."""
    root = "/proc/driver/nvidia/capabilities"
    found = {}
    for gpu in _listing(sysroot, root):
        if not gpu.startswith("gpu"):
            continue
        slices = [
            f"{gi}/{ci}"
            for gi in _listing(sysroot, f"{root}/{gpu}/mig")
            if gi.startswith("gi")
            for ci in _listing(sysroot, f"{root}/{gpu}/mig/{gi}")
            if ci.startswith("ci")
        ]
        if slices:
            found[gpu] = " ".join(slices)
    return found


def pci_gpus(sysroot: Sysroot) -> tuple[PciGpu, ...]:
    """NVIDIA's display devices on the PCI bus, driver or none; those handed to a virtual machine are left out."""
    root = "/sys/bus/pci/devices"
    found = []
    for bus in _listing(sysroot, root):
        if (sysroot.read(f"{root}/{bus}/vendor") or "").strip() != _NVIDIA:
            continue
        if not (sysroot.read(f"{root}/{bus}/class") or "").startswith(_DISPLAY):
            continue
        driver = sysroot.path(f"{root}/{bus}/driver")
        if driver.is_symlink() and driver.readlink().name == "vfio-pci":
            continue
        found.append(PciGpu(bus, (sysroot.read(f"{root}/{bus}/device") or "unknown").strip()))
    return tuple(found)


def nvml_library(environ: Mapping[str, str], sysroot: Sysroot) -> NvmlLibrary | None:
    """The libnvidia-ml.so.1 the dynamic loader would take: LD_LIBRARY_PATH, its cache, then the usual folders."""
    folders = [folder for folder in environ.get("LD_LIBRARY_PATH", "").split(":") if folder]
    candidates = [Path(folder) / NVML_LIBRARY for folder in folders]
    candidates += [sysroot.path(path) for path in _cached_libraries(sysroot)]
    candidates += [sysroot.path(folder) / NVML_LIBRARY for folder in _LIBRARY_FOLDERS]
    for candidate in candidates:
        real = _resolve(candidate, sysroot)
        if real is not None and not _is_32_bit(real):
            _, _, suffix = real.name.partition(".so.")
            return NvmlLibrary(str(candidate), suffix if _VERSION.fullmatch(suffix) else None)
    return None


def windows_nvml(environ: Mapping[str, str]) -> Path | None:
    """nvml.dll where drivers put it on Windows, and where nvidia-ml-py looks for it."""
    places = (
        Path(environ.get("WINDIR", "C:/Windows")) / "System32" / "nvml.dll",
        Path(environ.get("ProgramFiles", "C:/Program Files")) / "NVIDIA Corporation" / "NVSMI" / "nvml.dll",
    )
    return next((place for place in places if place.is_file()), None)


def _cached_libraries(sysroot: Sysroot) -> list[str]:
    try:
        data = sysroot.path("/etc/ld.so.cache").read_bytes()
    except OSError:
        return []
    return [match.decode("utf-8", "replace") for match in _CACHED_LIBRARY.findall(data)]


def _resolve(path: Path, sysroot: Sysroot) -> Path | None:
    """Follow links as seen from inside the prefix; None where the end of the chain is no file."""
    try:
        for _ in range(16):
            if not path.is_symlink():
                return path if path.is_file() else None
            target = path.readlink()
            path = sysroot.path(str(target)) if target.is_absolute() else path.parent / target
    except (OSError, ValueError):
        pass
    return None


def _is_32_bit(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return stream.read(5) == b"\x7fELF\x01"
    except OSError:
        return False


def _listing(sysroot: Sysroot, folder: str) -> list[str]:
    try:
        return sorted(entry.name for entry in sysroot.path(folder).iterdir())
    except OSError:
        return []
