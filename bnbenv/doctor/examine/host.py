"""Conditions of the machine that explain why no GPU is seen: containers, WSL2, clusters, modules, hidden devices.

Each is a code and one sentence of evidence. Only what is so is told; what cannot be looked at is told nowhere.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from bnbenv.doctor.examine.ports import Ports
from bnbenv.facts import kernel
from bnbenv.facts.host import system_memory
from bnbenv.facts.model import HostFacts
from bnbenv.paths import Sysroot

Condition = tuple[str, str]

_LIBRARIES = ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib")
_HIDDEN = frozenset({"", "-1", "none", "void", "NoDevFiles"})
_SECURE_BOOT = "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
_SWITCHED = re.compile(r"\b(A100|A800|H100|H200|H800|H20|B200|B300)\b(?!.*PCIe)", re.IGNORECASE)
_SWITCHES = 2  # GPUs from which on an NVSwitch machine has a fabric


def conditions(facts: HostFacts, environ: Mapping[str, str], ports: Ports) -> dict[str, str]:
    """The conditions of a host; ``environ`` is that of a program of the environment.

    ``container``, ``container-without-gpu``, ``container-without-libcuda``, ``container-compute-not-asked`` ·
    ``cuda-compat``, ``cuda-compat-used``, ``cuda-compat-older`` · ``wsl``, ``wsl-no-dxg``, ``wsl-libcuda-missing``,
    ``wsl-not-searched``, ``wsl-linux-driver`` · ``login-node``, ``job-without-gpu`` · ``devices-hidden``,
    ``devices-unmatched``, ``devices-no-permission``, ``device-files-missing`` · ``uvm-missing`` · ``nouveau`` ·
    ``module-not-loaded``, ``module-not-built``, ``secure-boot`` · ``no-driver-installed`` ·
    ``fabric-manager-not-running`` · ``jetson`` · ``amd-gpu`` · ``memory-total``, ``memory-available`` (bytes).
    Where the facts are recorded ones, of another machine, this one's files say nothing about it.
    """
    root = ports.sysroot
    found: list[Condition] = list(_hidden(facts, environ))
    elsewhere = bool(ports.environ.get("BNBENV_FACTS")) and root == Sysroot()
    if not elsewhere:
        found += _memory(root)
    if facts.platform.os == "linux" and not elsewhere:
        found += _container(facts, environ, root)
        found += _wsl(facts, environ, root)
        found += _compat(facts, environ, root)
        if not facts.platform.wsl:
            found += _devices(facts, root)
            found += _modules(facts, root)
            found += _fabric(facts, root)
        found += _cluster(facts, environ, root)
        found += _amd(root)
    if facts.platform.jetson:
        found.append(("jetson", f"a Jetson with L4T {facts.platform.jetson}: the wheels of servers do not fit it"))
    return dict(found)


def _memory(root: Sysroot) -> Iterator[Condition]:
    total = system_memory(root)
    free = re.search(r"^MemAvailable:\s+(\d{1,15}) kB", root.read("/proc/meminfo") or "", re.ASCII | re.MULTILINE)
    if total:
        yield "memory-total", str(total)
    if free:
        yield "memory-available", str(int(free[1]) * 1024)


def _hidden(facts: HostFacts, environ: Mapping[str, str]) -> Iterator[Condition]:
    """Variables that hide GPUs, and those that name one that is not here."""
    for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"):
        value = environ.get(name)
        if value is None:
            continue
        words = [word.strip() for word in value.rstrip(", ").split(",")]
        if words[0] in _HIDDEN:  # CUDA stops at the first that it does not know
            yield "devices-hidden", f'{name} is "{value}", which hides every GPU'
        elif name == "CUDA_VISIBLE_DEVICES" and facts.gpus:
            wrong = next((word for word in words if not _names_a_gpu(word, facts)), None)
            if wrong is not None:
                left = "no GPU is left" if wrong == words[0] else f"it and what follows it are left out of {value}"
                yield "devices-unmatched", f'{name} names "{wrong}", and there is no such GPU here: {left}'


def _names_a_gpu(word: str, facts: HostFacts) -> bool:
    if word.isdecimal():
        return int(word) < len(facts.gpus)
    uuids = [gpu.uuid for gpu in facts.gpus]
    for gpu in facts.gpus:
        uuids += [part.uuid for part in getattr(gpu.mig, "devices", ())]
    if not any(uuids) or word.startswith("MIG-GPU-"):  # they are not known; the form of drivers before 470
        return True
    return len(word) > len("GPU-") and any(uuid.lower().startswith(word.lower()) for uuid in uuids if uuid)


def _container(facts: HostFacts, environ: Mapping[str, str], root: Sysroot) -> Iterator[Condition]:
    kind = facts.platform.container
    if kind is None:
        return
    yield "container", f"this is a container ({kind})"
    devices = _devices_of(root)
    module = kernel.module_version(root)
    if not devices and not facts.platform.wsl and facts.driver.state != "ok":
        seen = "no /dev/nvidia* here"
        rest = f", while the host has driver {module}" if module else " and no /proc/driver/nvidia"
        yield "container-without-gpu", f"{seen}{rest}: the container was started without GPUs"
    elif devices and _library(root, "libcuda.so.1", environ) is None:
        yield (
            "container-without-libcuda",
            "/dev/nvidia* is here and libcuda.so.1 is not: the driver's files are missing",
        )
    asked = environ.get("NVIDIA_DRIVER_CAPABILITIES")
    if asked is not None and not {"all", "compute"} & set(asked.split(",")):
        yield (
            "container-compute-not-asked",
            f'NVIDIA_DRIVER_CAPABILITIES is "{asked}": without compute there is no CUDA',
        )


def _wsl(facts: HostFacts, environ: Mapping[str, str], root: Sysroot) -> Iterator[Condition]:
    if not facts.platform.wsl:
        return
    yield "wsl", "this is Linux inside Windows (WSL2), which uses the driver of Windows"
    if not root.path("/dev/dxg").exists():
        yield "wsl-no-dxg", "/dev/dxg is missing: WSL 1, or a kernel without GPU support"
    library = Path(kernel.WSL_LIBRARIES)
    if not root.path(f"{library}/libcuda.so.1").exists():
        yield "wsl-libcuda-missing", f"{library}/libcuda.so.1 is missing: the driver of Windows brings none"
    elif not _searched(root, environ, str(library)):
        yield "wsl-not-searched", f"{library} is neither in LD_LIBRARY_PATH nor among the folders of the dynamic linker"
    own = [
        f"{folder}/{name}" for folder in _LIBRARIES for name in _names(root, folder) if _LINUX_DRIVER.fullmatch(name)
    ]
    if own:
        yield "wsl-linux-driver", f"{own[0]}: a driver for Linux is installed inside WSL and hides that of Windows"


_LINUX_DRIVER = re.compile(r"lib(?:cuda|nvidia-ml)\.so\.\d{3}\.[0-9.]+")


def _searched(root: Sysroot, environ: Mapping[str, str], folder: str) -> bool:
    """Whether the dynamic linker looks in a folder: by LD_LIBRARY_PATH, its cache, or its configuration."""
    if folder in (part.rstrip("/") for part in environ.get("LD_LIBRARY_PATH", "").split(":")):
        return True
    if folder in (root.read("/etc/ld.so.conf") or ""):
        return True
    if any(folder in (root.read(f"/etc/ld.so.conf.d/{name}") or "") for name in _names(root, "/etc/ld.so.conf.d")):
        return True
    try:
        return folder.encode() in root.path("/etc/ld.so.cache").read_bytes()
    except OSError:
        return False


def _compat(facts: HostFacts, environ: Mapping[str, str], root: Sysroot) -> Iterator[Condition]:
    """The libcuda of NVIDIA's images, meant to be newer than the driver; where it is older, it must not be used."""
    found = [
        (_searched(root, environ, folder), folder, match[1])
        for folder in ("/usr/local/cuda/compat", "/usr/local/cuda/compat/lib.real", "/usr/local/cuda/compat/lib")
        for name in _names(root, folder)
        if (match := re.fullmatch(r"libcuda\.so\.(\d{3}(?:\.\d{1,4}){1,2})", name))
    ]
    if not found:
        return
    used, folder, version = max(found, key=lambda one: one[0])
    driver = facts.driver.kernel_module or facts.driver.version
    yield "cuda-compat", f"{folder} holds libcuda of driver {version}"
    if used:
        yield "cuda-compat-used", f"the dynamic linker takes libcuda from {folder}, that of driver {version}"
    if used and driver and _numbers(version) < _numbers(driver):
        because = f"{folder} holds libcuda of driver {version}, older than the driver {driver}, and hides it"
        yield "cuda-compat-older", because


def _devices(facts: HostFacts, root: Sysroot) -> Iterator[Condition]:
    """Device files that are missing or closed to this user."""
    devices = _devices_of(root)
    module = kernel.module_version(root)
    if module and not devices and facts.platform.container is None and not facts.platform.jetson:
        yield "device-files-missing", f"the driver {module} is loaded and there is no /dev/nvidia0"
    if devices and not root.path("/dev/nvidia-uvm").exists():
        yield "uvm-missing", f"/dev/{devices[0]} is here and /dev/nvidia-uvm is not: CUDA cannot start without it"
    closed = [name for name in devices if not os.access(root.path(f"/dev/{name}"), os.R_OK | os.W_OK)]
    if closed:
        yield "devices-no-permission", f"/dev/{closed[0]} is closed to this user"


def _modules(facts: HostFacts, root: Sysroot) -> Iterator[Condition]:
    """Which kernel module drives the GPUs, and why NVIDIA's does not."""
    gpus = kernel.pci_gpus(root)
    if root.path("/sys/module/nouveau").exists() and gpus:
        yield "nouveau", "the kernel module nouveau drives the GPUs: CUDA needs NVIDIA's"
    if not gpus or kernel.module_version(root) or facts.platform.container is not None:
        return
    release = (root.read("/proc/sys/kernel/osrelease") or "").strip()
    installed = _library(root, "libcuda.so.1", {}) or _library(root, "libnvidia-ml.so.1", {})
    if installed is None:
        yield "no-driver-installed", f"{len(gpus)} NVIDIA device(s) on the PCI bus, and no driver is installed"
        return
    yield "module-not-loaded", f"{installed} is installed and the kernel module nvidia is not loaded"
    if release and _names(root, "/lib/modules") and not _has_module(root, release):
        yield "module-not-built", f"there is no module nvidia for the kernel that runs, {release}"
    state = root.path(f"/sys/firmware/efi/efivars/{_SECURE_BOOT}")
    try:
        if state.read_bytes()[4:5] == b"\x01":
            yield "secure-boot", "Secure Boot is on: the kernel loads only modules that are signed with a key it knows"
    except OSError:
        return


def _has_module(root: Sysroot, release: str) -> bool:
    """Whether the kernel has a module nvidia; its index names each, wherever it lies."""
    for name in ("modules.dep", "modules.order"):
        text = root.read(f"/lib/modules/{release}/{name}", limit=8 << 20)
        if text is not None and re.search(r"(?:^|/)nvidia(?:-current)?\.ko", text, re.MULTILINE):
            return True
    folders = ("updates/dkms", "extra", "kernel/drivers/video", "kernel/nvidia", "extramodules")
    names = (name for folder in folders for name in _names(root, f"/lib/modules/{release}/{folder}"))
    return any(re.match(r"nvidia(-current)?\.ko", name) for name in names)


def _fabric(facts: HostFacts, root: Sysroot) -> Iterator[Condition]:
    """Machines with NVSwitches need the fabric manager; without it CUDA answers 802, system not yet initialized."""
    switches = [name for name in _names(root, "/dev") if re.fullmatch(r"nvidia-nvswitch\d+", name)]
    switches += _names(root, "/proc/driver/nvidia-nvswitch/devices")
    if not switches or facts.platform.container is not None or len(facts.gpus) < _SWITCHES:
        return
    if not any(_SWITCHED.search(gpu.name) for gpu in facts.gpus):
        return
    if not any(root.path(f"{run}/nvidia-fabricmanager/nv-fabricmanager.pid").exists() for run in ("/run", "/var/run")):
        yield "fabric-manager-not-running", f"{len(switches)} NVSwitches are here and nvidia-fabricmanager does not run"


def _cluster(facts: HostFacts, environ: Mapping[str, str], root: Sysroot) -> Iterator[Condition]:
    """A node where jobs are submitted, and which has no GPU of its own."""
    if facts.gpus or facts.driver.state == "ok" or kernel.pci_gpus(root):
        return
    schedulers = {
        "SLURM_JOB_ID": ("/etc/slurm", "SLURM"),
        "PBS_JOBID": ("/etc/pbs.conf", "PBS"),
        "LSB_JOBID": ("/etc/lsf.conf", "LSF"),
    }
    for job, (sign, name) in schedulers.items():
        if root.path(sign).exists() or (name == "SLURM" and environ.get("SLURM_CONF")):
            if environ.get(job):
                yield "job-without-gpu", f"this is a job of {name} on a node where it was given no GPU"
            else:
                yield "login-node", f"this is a node of a {name} cluster without a GPU, outside of any job"
            return


def _amd(root: Sysroot) -> Iterator[Condition]:
    if root.path("/dev/kfd").exists():
        yield "amd-gpu", "/dev/kfd: a GPU of AMD is here"


def _devices_of(root: Sysroot) -> list[str]:
    return [name for name in _names(root, "/dev") if re.fullmatch(r"nvidia\d+", name)]


def _library(root: Sysroot, name: str, environ: Mapping[str, str]) -> str | None:
    """Where a library of the driver lies, in the folders in which drivers and container runtimes put it."""
    folders = [folder for folder in environ.get("LD_LIBRARY_PATH", "").split(":") if folder.startswith("/")]
    for folder in (
        *folders,
        *_LIBRARIES,
        "/lib64",
        "/lib/x86_64-linux-gnu",
        "/usr/local/nvidia/lib64",
        "/run/opengl-driver/lib",
    ):
        if os.path.lexists(root.path(f"{folder}/{name}")):
            return f"{folder}/{name}"
    return None


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d{1,9}", version)]


def _names(root: Sysroot, folder: str) -> list[str]:
    try:
        return sorted(os.listdir(root.path(folder)))
    except OSError:
        return []
