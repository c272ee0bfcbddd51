"""From one wheel to one row of the matrix: what its metadata says and what its binaries hold."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from msgspec.structs import replace

from bnbenv.decode import shown
from bnbenv.errors import Failed
from bnbenv.matrix.model import BitsandbytesWheel, Evidence, NativeLibrary, TorchBuild, TorchSource
from bnbenv.matrix.native import read_native
from bnbenv.matrix.rows import is_specifier, is_version
from bnbenv.matrix.wheel import Wheel, local_wheel

TEXT_LIMIT = 4 << 20  # bytes of METADATA or version.py
VERSION_PY = "torch/version.py"
ARCH_LIBRARIES = ("torch/lib/libtorch_python.so", "torch/lib/torch_python.dll")

_NATIVE = re.compile(r"bitsandbytes/(libbitsandbytes_[^/]+\.(?:so|dll|dylib))")
_LEGACY_GLIBC = {"manylinux1": (2, 5), "manylinux2010": (2, 12), "manylinux2014": (2, 17)}
_PEP600 = re.compile(r"manylinux_(\d{1,4})_(\d{1,4})_", re.ASCII)
_MACHINES = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}
_PLATFORM_MARKERS = {
    "linux": {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"},
    "windows": {"sys_platform": "win32", "platform_system": "Windows", "os_name": "nt"},
    "macos": {"sys_platform": "darwin", "platform_system": "Darwin", "os_name": "posix"},
}
_VERSION_FIELD = r"^{name}(?:\s*:[^=\n]*)?\s*=\s*(?:None|'([^']*)'|\"([^\"]*)\")\s*$"
_ARCH_LIST = re.compile(rb"(?:sm|compute)_\d{2,3}[af]?(?: (?:sm|compute)_\d{2,3}[af]?){0,63}\0")


@dataclass(frozen=True)
class WheelName:
    """What a wheel's file name says. ``pythons`` are tags such as ``cp311`` and ``cp313t``; ``libc_tag`` is the
    lowest glibc that one of its manylinux tags asks for (``2.28``), null where none does."""

    project: str
    version: str
    build: tuple[int, str] | tuple[()]
    pythons: tuple[str, ...]
    platform: str
    os: str
    machine: str
    libc_tag: str | None


def wheel_name(filename: str) -> WheelName:
    """Take a file name apart. Raises Failed (``bad-wheel``) for what is no wheel's name."""
    from packaging.utils import parse_wheel_filename

    try:
        project, version, build, tags = parse_wheel_filename(filename)
    except ValueError:  # among them a number of thousands of digits
        raise Failed("bad-wheel", f"{shown(filename)} is no name of a wheel") from None
    platforms = sorted({tag.platform for tag in tags})
    pythons = {tag.interpreter + "t" * tag.abi.endswith("t") for tag in tags}
    system, machine = _system_and_machine(platforms)
    return WheelName(
        project=project,
        version=str(version),
        build=build,
        pythons=tuple(sorted(pythons, key=python_key)),
        platform=".".join(platforms),
        os=system,
        machine=machine,
        libc_tag=_libc_tag(platforms),
    )


def python_key(tag: str) -> tuple[int, ...]:
    """Sorts Python tags by version: ``cp39`` before ``cp310`` before ``cp313`` before ``cp313t``."""
    digits = re.sub("[^0-9]", "", tag)[:6]
    return (int(digits[:1] or 0), int(digits[1:] or 0), int(tag.endswith("t")))


def measure_bitsandbytes(wheel: Wheel) -> BitsandbytesWheel:
    """Read every native library of a bitsandbytes wheel.

    Raises Failed: ``bad-wheel``, ``bad-binary``; SourceUnreachable for a remote wheel.
    """
    name = wheel_name(wheel.filename)
    libraries = [(member, match[1]) for member in sorted(set(wheel.names())) if (match := _NATIVE.fullmatch(member))]
    wheel.fetch([_metadata_name(wheel), *(member for member, _ in libraries)])
    requires_python, requires_dist = requirements_of(wheel)
    if not libraries:
        raise Failed("bad-wheel", f"{wheel.filename} holds no native library where they have always been")
    return BitsandbytesWheel(
        version=name.version,
        filename=wheel.filename,
        sha256=wheel.sha256,
        size=wheel.size,
        os=name.os,
        machine=name.machine,
        libc_tag=name.libc_tag,
        requires_python=requires_python,
        requires_dist=requires_dist,
        libraries=tuple(_library(wheel, member, library) for member, library in libraries),
        evidence=_evidence(wheel),
    )


def measure_torch(wheel: Wheel, source: TorchSource, pythons: Iterable[str] = ()) -> TorchBuild:
    """Read the CUDA version and the architectures of a torch wheel.

    ``pythons`` are the Python tags of all wheels that this one stands for, by default its own. Raises Failed:
    ``bad-wheel``, ``bad-binary``, ``not-cuda`` for a ROCm or XPU build; SourceUnreachable for a remote wheel.
    """
    name = wheel_name(wheel.filename)
    tags = tuple(sorted(set(pythons) or set(name.pythons), key=python_key))
    wheel.fetch([_metadata_name(wheel), VERSION_PY])
    requires_python, requires_dist = requirements_of(wheel)
    text = wheel.read(VERSION_PY, TEXT_LIMIT).decode("utf-8", "replace")
    if version_field(text, "hip") or version_field(text, "xpu"):
        raise Failed("not-cuda", f"{wheel.filename} is built for other GPUs", "Use a CUDA or a CPU build of torch.")
    cuda = version_field(text, "cuda")
    return TorchBuild(
        version=name.version,
        source=source,
        os=name.os,
        machine=name.machine,
        cuda=cuda,
        arch_list=_arch_list(wheel) if cuda else (),
        pythons=tags,
        libc_tag=name.libc_tag,
        requires_python=requires_python,
        requires_dist=requires_dist,
        evidence=_evidence(wheel),
        triton=triton_version(requires_dist, name.os, name.machine, tags),
    )


def measure_local_torch(path: Path) -> TorchBuild:
    """The row of a single torch wheel on this disk (source ``local``), with its path and sha256.

    Raises Failed: ``bad-wheel``, ``bad-binary``, ``not-cuda``; OSError.
    """
    with local_wheel(path) as wheel:
        return replace(measure_torch(wheel, "local"), path=str(path), sha256=wheel.sha256)


def version_field(text: str, name: str) -> str | None:
    """A string out of torch/version.py (``cuda: Optional[str] = '12.8'``), null where it is None or not there."""
    match = re.search(_VERSION_FIELD.format(name=re.escape(name)), text, re.MULTILINE)
    return (match[1] or match[2] or None) if match else None


def arch_list(data: bytes | memoryview, what: str) -> tuple[str, ...]:
    """The architectures a torch was built for, from the C string in its Python library (``sm_80 sm_90``).

    The string need not follow a NUL (in 2.8 to 2.9.1 it does not). Where single names stand elsewhere in the file,
    the list is the one with several. Raises Failed (``bad-binary``) where no single list is found.
    """
    found = {match[0][:-1].decode() for match in _ARCH_LIST.finditer(data)}
    lists = {text for text in found if " " in text} or found
    if len(lists) != 1:
        raise Failed("bad-binary", f"{what} holds {len(lists)} lists of architectures, one was expected")
    return tuple(lists.pop().split())


def triton_version(requires_dist: Iterable[str], system: str, machine: str, pythons: Iterable[str]) -> str | None:
    """The triton that torch asks for on a platform, for any of the Python tags; null where it asks for none.

    Torch pinned one version (``==3.7.1``) through 2.13 and a series (``~=3.8.0``) since; of a series it is the lowest.
    """
    from packaging.requirements import Requirement

    for text in requires_dist:
        try:
            requirement = Requirement(text)
            if requirement.name != "triton":
                continue
            exact = [item.version for item in requirement.specifier if item.operator in ("==", "~=")]
            versions = [version for version in (one.removesuffix(".*") for one in exact) if is_version(version)]
            for tag in pythons if versions else ():
                marker = requirement.marker
                if marker is None or marker.evaluate(_marker_environment(system, machine, tag)):
                    return versions[0]
        except ValueError:  # no requirement, or a condition that cannot be judged
            continue
    return None


def _marker_environment(system: str, machine: str, tag: str) -> dict[str, str | frozenset[str]]:
    major, minor, _ = python_key(tag)
    machines = {("windows", "x86_64"): "AMD64", ("windows", "aarch64"): "ARM64", ("macos", "aarch64"): "arm64"}
    return {
        **_PLATFORM_MARKERS[system],
        "platform_machine": machines.get((system, machine), machine),
        "python_version": f"{major}.{minor}",
        "python_full_version": f"{major}.{minor}.0",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "extra": "",
    }


def _library(wheel: Wheel, member: str, name: str) -> NativeLibrary:
    row = read_native(wheel.read(member), name)
    if row.backend == "cuda" and not row.sass and not row.ptx:  # unknown is not "none"
        message = f"{name} in {wheel.filename} holds no GPU code that this bnbenv can read"
        raise Failed("bad-binary", message, "Look for a newer bnbenv.")
    return row


def _arch_list(wheel: Wheel) -> tuple[str, ...]:
    members = set(wheel.names())
    for library in ARCH_LIBRARIES:
        if library in members:
            return arch_list(wheel.read(library), f"{library} in {wheel.filename}")
    raise Failed("bad-wheel", f"{wheel.filename} is a CUDA build and holds none of {', '.join(ARCH_LIBRARIES)}")


def _metadata_name(wheel: Wheel) -> str:
    name = next((name for name in wheel.names() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name)), None)
    if name is None:
        raise Failed("bad-wheel", f"{wheel.filename} holds no METADATA")
    return name


def requirements_of(wheel: Wheel) -> tuple[str | None, tuple[str, ...]]:
    """Requires-Python and Requires-Dist of a wheel's METADATA. Raises Failed: ``bad-wheel``, ``bad-hash``."""
    from packaging.metadata import parse_email

    text = wheel.read(_metadata_name(wheel), TEXT_LIMIT)
    if wheel.metadata_sha256 and hashlib.sha256(text).hexdigest() != wheel.metadata_sha256:
        message = f"the METADATA in {wheel.filename} is not the one that the index promises"
        raise Failed("bad-hash", message, "Try again later.")
    raw, _ = parse_email(text)
    # Some wheels repeat a requirement.
    python = raw.get("requires_python")
    # As installers do: what is no specifier asks for nothing.
    return python if python and is_specifier(python) else None, tuple(dict.fromkeys(raw.get("requires_dist", ())))


def _evidence(wheel: Wheel) -> Evidence:
    """Of a wheel that was read in parts the hash is the index's word; what was read has held its checksums."""
    today = datetime.now(timezone.utc).date().isoformat()
    how = "" if wheel.checked else " (the index's word; read in parts)"
    return Evidence("measured", f"{wheel.filename} sha256:{wheel.sha256}{how}", today)


def _system_and_machine(platforms: list[str]) -> tuple[str, str]:
    first = platforms[0]
    if first == "any":
        # Only bitsandbytes through 0.42 has such wheels; they hold Linux x86-64 binaries.
        return "linux", "x86_64"
    system = {"win": "windows", "mac": "macos"}.get(first[:3], "linux")
    machine = next((name for suffix, name in _MACHINES.items() if first.endswith(suffix)), first)
    return system, machine


def _libc_tag(platforms: list[str]) -> str | None:
    versions = []
    for platform in platforms:
        match = _PEP600.match(platform)
        version = (int(match[1]), int(match[2])) if match else _LEGACY_GLIBC.get(platform.partition("_")[0])
        if version:
            versions.append(version)
    return ".".join(map(str, min(versions))) if versions else None
