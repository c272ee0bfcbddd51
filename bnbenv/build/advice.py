"""What to install where something to compile with is missing, in the words of this distribution. Pure.

Package names as NVIDIA's Linux installation guide has them (``cuda-toolkit-12-8`` for apt, dnf and zypper), and
anaconda.org for the labels of NVIDIA's conda channel (``nvidia/label/cuda-12.8.0``, one for each release since 11.3.0).
"""

from __future__ import annotations

import re
from pathlib import PurePath

_COMPILERS = {
    "apt": "sudo apt-get install g++",
    "dnf": "sudo dnf install gcc-c++",
    "zypper": "sudo zypper install gcc-c++",
    "pacman": "sudo pacman -S gcc",
    "apk": "sudo apk add g++",
}
_VERSIONED = {
    "apt": "sudo apt-get install g++-{}",
    "zypper": "sudo zypper install gcc{}-c++",
}
_FAMILIES = {
    "apt": ("debian", "ubuntu"),
    "dnf": ("fedora", "rhel", "centos", "amzn", "rocky", "almalinux"),
    "zypper": ("suse", "opensuse", "sles", "opensuse-leap", "opensuse-tumbleweed"),
    "pacman": ("arch",),
    "apk": ("alpine",),
}
# Packages of a toolkit that hold what may be missing in it: file -> the name for apt, the name for dnf and zypper.
_PARTS = {
    "cublas": ("libcublas-dev-{}", "libcublas-devel-{}"),
    "cusparse": ("libcusparse-dev-{}", "libcusparse-devel-{}"),
    "nvjitlink": ("libnvjitlink-dev-{}", "libnvjitlink-devel-{}"),
    "cudart": ("cuda-cudart-dev-{}", "cuda-cudart-devel-{}"),
    "cuda_runtime": ("cuda-cudart-dev-{}", "cuda-cudart-devel-{}"),
    "cub/": ("cuda-cccl-{}", "cuda-cccl-{}"),
}


def package_manager(os_release: str) -> str:
    """``apt``, ``dnf``, ``zypper``, ``pacman`` or ``apk`` by the text of /etc/os-release; empty where it is another."""
    fields = dict(re.findall(r"^(ID|ID_LIKE)=[\"']?([^\"'\n]*)", os_release, re.M))
    names = [*fields.get("ID", "").split(), *fields.get("ID_LIKE", "").split()]
    return next((manager for name in names for manager, known in _FAMILIES.items() if name in known), "")


def install_compiler(os_release: str) -> str:
    """The command that installs this distribution's C++ compiler."""
    return _COMPILERS.get(package_manager(os_release), "g++ (its package is often called gcc-c++)")


def install_compiler_of(os_release: str, oldest: int, newest: int | None) -> str:
    """A sentence on how to get a g++ of one of these major versions."""
    if newest is None:
        return f"Install a newer one: {install_compiler(os_release)}"
    which = f"one of version {oldest} to {newest} beside it"
    command = _VERSIONED.get(package_manager(os_release))
    if command is None:
        return f"Install {which}, and name it: NVCC_CCBIN=/path/to/g++-{newest}"
    return f"Install {which}, which is then found: {command.format(newest)}"


def install_toolkit(os_release: str, cuda: str) -> str:
    """A sentence on how to get the whole toolkit of a CUDA release (``12.8``)."""
    commands = {"apt": "sudo apt-get install", "dnf": "sudo dnf install", "zypper": "sudo zypper install"}
    conda = f"conda install -c nvidia/label/cuda-{cuda}.0 cuda-toolkit"
    command = commands.get(package_manager(os_release))
    if command is None:
        return f"Install that toolkit, and set CUDA_HOME to its folder; with conda: {conda}"
    package = f"cuda-toolkit-{cuda.replace('.', '-')}"
    return f"Install it from NVIDIA's package repository: {command} {package}; or with conda: {conda}"


def complete_toolkit(os_release: str, cuda: str, root: PurePath, missing: tuple[str, ...]) -> str:
    """A sentence on how to get what a toolkit lacks; ``missing`` are names of files."""
    manager = package_manager(os_release)
    kinds = {"apt": (0, "sudo apt-get install"), "dnf": (1, "sudo dnf install"), "zypper": (1, "sudo zypper install")}
    found = {part: names for part, names in _PARTS.items() for file in missing if part in file.lower()}
    # Only NVIDIA's own packages lie there; conda's and Debian's toolkits have others.
    if manager not in kinds or not found or root.parent.name != "local":
        return install_toolkit(os_release, cuda)
    which, command = kinds[manager]
    packages = dict.fromkeys(names[which].format(cuda.replace(".", "-")) for names in found.values())
    return f"Install what it lacks from NVIDIA's package repository: {command} {' '.join(packages)}"
