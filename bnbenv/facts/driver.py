"""Which state the NVIDIA driver is in, judged on what was seen. Pure, apart from ``Seen.read``.

``mismatch`` (NVML error 18, or a library that differs from the kernel module) is a state of its own: neither "no GPU"
nor "driver OK". libcuda is never compared: the cuda-compat packages put a newer one over an older module legitimately.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bnbenv.facts import kernel
from bnbenv.facts.model import Driver, Unknown
from bnbenv.facts.nvml import DRIVER_NOT_LOADED, LIBRARY_NOT_FOUND, MISMATCH, NvmlAnswer
from bnbenv.facts.smi import SmiAnswer
from bnbenv.paths import Sysroot

_REBOOT = "the driver was upgraded and the former kernel module is still loaded: reboot"
_CONTAINER = (
    "the kernel module is loaded, but the driver's library libnvidia-ml.so.1 is not here: start the container with its "
    "GPUs (docker run --gpus all), or install the driver's libraries"
)
_UNLOADABLE = (
    "libnvidia-ml.so.1 is here and cannot be loaded: it is built for glibc (not musl), or for another processor"
)
_NO_MODULE = (
    "its kernel module is not loaded: see dmesg; this driver may have dropped the GPU, or Secure Boot refused it"
)
_NO_WINDOWS = "the driver of Windows does not answer: update it, then run wsl --shutdown"


@dataclass(frozen=True)
class Seen:
    """What the sources said. ``library_file`` is the driver version in the library's file name, ``pci`` counts GPUs."""

    nvml: NvmlAnswer
    module: str | None = None
    library: bool = False
    library_file: str | None = None
    pci: int = 0
    wsl: bool = False
    system: str = "linux"
    smi: SmiAnswer | None = None

    @classmethod
    def read(cls, environ: Mapping[str, str], sysroot: Sysroot, nvml: NvmlAnswer, system: str = "linux") -> Seen:
        """NVML's answer with what the kernel's files say; ``smi`` is left to the caller."""
        if system != "linux":  # NVML tells all there is to know
            return cls(nvml=nvml, library=nvml.failure is None, system=system)
        library = kernel.nvml_library(environ, sysroot)
        return cls(
            nvml=nvml,
            module=kernel.module_version(sysroot),
            library=library is not None,
            library_file=library.version if library else None,
            pci=len(kernel.pci_gpus(sysroot)),
            wsl=is_wsl(sysroot),
            system=system,
        )

    @property
    def wants_smi(self) -> bool:
        """Whether nvidia-smi may know more: not after an answer, a hang (it would hang as well) or error 18."""
        failure = self.nvml.failure
        return failure is not None and not self.nvml.hung and failure.code != MISMATCH


def is_wsl(sysroot: Sysroot) -> bool:
    """WSL2: Microsoft's kernel (``5.15.167.4-microsoft-standard-WSL2``), or its GPU device."""
    release = sysroot.read("/proc/sys/kernel/osrelease") or ""
    if not release:  # ``Linux version 5.15.167.4-microsoft-standard-WSL2 (...)``
        release = next(iter((sysroot.read("/proc/version") or "").split()[2:3]), "")
    return "microsoft" in release.lower() or sysroot.path("/dev/dxg").exists()


def judge(seen: Seen) -> tuple[Driver, tuple[Unknown, ...]]:
    """The driver, and why what is missing is missing."""
    driver, reason = _judge(seen)
    gaps = tuple(
        Unknown(f"driver.{name}", _gap(seen, driver, name, reason))
        for name in ("version", "kernel_module", "userland", "cuda")
        if getattr(driver, name) is None
    )
    stated = (Unknown("driver", reason),) if driver.state in ("mismatch", "error") else ()
    return driver, stated + gaps


def _judge(seen: Seen) -> tuple[Driver, str]:
    nvml, smi, failure = seen.nvml, seen.smi, seen.nvml.failure
    if failure is None:
        return _answered(seen)
    userland = nvml.userland or seen.library_file
    known = {"version": seen.module or None, "kernel_module": seen.module, "userland": userland}
    if failure.code == MISMATCH:
        return Driver("mismatch", **known, source="nvml"), f"{failure}; {_REBOOT}"
    if smi is not None and smi.mismatch:
        return Driver("mismatch", **known, source="nvidia-smi"), f"{smi.failure}; {_REBOOT}"
    if nvml.hung:
        return Driver("error", **known, source="nvml"), f"{failure}: look at dmesg for Xid messages, and reboot"
    if smi is not None and smi.failure is None:
        known["version"] = smi.driver or seen.module
        return Driver("ok", **known, source="nvidia-smi"), str(failure)
    if seen.module is not None:
        if seen.library_file is not None and seen.library_file != seen.module:
            return Driver("mismatch", **known, source="files"), f"{failure}; {_REBOOT}"
        reason = str(failure)
        if failure.code == LIBRARY_NOT_FOUND:
            reason = f"{_UNLOADABLE} ({failure})" if seen.library else _CONTAINER
        return Driver("error", **known, source="files"), reason
    return _without_module(seen, userland)


def _answered(seen: Seen) -> tuple[Driver, str]:
    nvml = seen.nvml
    driver = Driver("ok", nvml.driver, seen.module, nvml.userland, nvml.cuda_version, "nvml")
    if seen.module and nvml.driver and seen.module != nvml.driver and not seen.wsl:
        reason = f"the kernel module is {seen.module} and NVML says {nvml.driver}; {_REBOOT}"
        return Driver("mismatch", seen.module, seen.module, nvml.driver, nvml.cuda_version, "nvml"), reason
    return driver, "; ".join(str(error) for error in nvml.errors) or "NVML does not tell"


def _without_module(seen: Seen, userland: str | None) -> tuple[Driver, str]:
    """Nothing answers and no kernel module is loaded: no driver, or one that did not start."""
    failure = seen.nvml.failure
    unanswered = failure is not None and failure.code not in (LIBRARY_NOT_FOUND, DRIVER_NOT_LOADED)
    if seen.system == "darwin":
        return Driver("absent"), "NVIDIA makes no driver for macOS"
    if seen.system == "win32" and not unanswered:
        return Driver("absent"), f"no NVIDIA driver ({failure})"
    if seen.library and (seen.pci or seen.wsl):
        reason = f"the driver's library is here, but {_NO_WINDOWS if seen.wsl else _NO_MODULE} ({failure})"
        return Driver("error", userland=userland, source="files"), reason
    if seen.system == "win32":
        return Driver("error", userland=userland, source="nvml"), str(failure)
    if seen.pci:
        count = "an NVIDIA GPU is" if seen.pci == 1 else f"{seen.pci} NVIDIA GPUs are"
        return Driver("absent"), f"{count} on the PCI bus, without NVIDIA's driver: install it"
    if seen.library:
        reason = f"the driver's library is here, but neither a GPU nor a kernel module ({failure})"
        return Driver("absent", userland=userland), reason
    return Driver("absent"), "no NVIDIA driver: neither a kernel module nor libnvidia-ml is here"


def _gap(seen: Seen, driver: Driver, name: str, reason: str) -> str:
    """Why one version is not known."""
    if driver.state == "absent":
        return reason
    if name == "kernel_module":
        if seen.wsl:
            return "WSL2 runs on the driver of Windows, which has no kernel module here"
        if seen.system == "win32":
            return "Windows does not tell a kernel module's version apart from the driver's"
        return "neither /proc/driver/nvidia/version nor /sys/module/nvidia/version is here"
    if name == "userland" and not seen.library:
        return "libnvidia-ml is not here"
    if name == "cuda" and driver.source == "nvidia-smi":
        return "only NVML tells it"
    return reason
