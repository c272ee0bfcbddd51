"""What a host is, as one typed frozen value; the JSON of ``bnbenv facts`` is exactly this.

Known and unknown: a missing fact has an entry in ``unknown`` that says why. Unknown is never treated as no.
"""

from __future__ import annotations

import codecs
import re
from functools import lru_cache
from typing import Literal

import msgspec

from bnbenv.decode import convert, shown
from bnbenv.errors import InputError

SCHEMA = "bnbenv.facts/1"

DriverState = Literal["ok", "absent", "mismatch", "error"]

_MACHINES = {"amd64": "x86_64", "x64": "x86_64", "arm64": "aarch64", "armv8": "aarch64"}
_SYSTEMS = {"darwin": "macos", "win32": "windows", "cygwin": "windows"}


class Libc(msgspec.Struct, frozen=True):
    """The C library: ``glibc`` or ``musl``, and its version such as ``2.36``."""

    name: str
    version: str


class Platform(msgspec.Struct, frozen=True):
    """``os`` is linux, windows or macos; ``machine`` is normalized (x86_64, aarch64).

    ``container`` names the kind of container, ``jetson`` the L4T release such as ``36.4`` (null on JetPack 7 and
    later, which is the server kind), ``libc`` is null where there is none or it is unknown.
    """

    os: str
    machine: str
    libc: Libc | None = None
    wsl: bool = False
    container: str | None = None
    jetson: str | None = None


class Driver(msgspec.Struct, frozen=True):
    """The NVIDIA driver. ``mismatch``: kernel module and user-space library differ, a reboot is required.

    ``cuda`` is the highest CUDA version the driver supports by its own word, ``source`` where the state was read.
    """

    state: DriverState
    version: str | None = None
    kernel_module: str | None = None
    userland: str | None = None
    cuda: str | None = None
    source: str | None = None


class MigSlice(msgspec.Struct, frozen=True):
    """One MIG device: its own UUID (what CUDA_VISIBLE_DEVICES takes), name, and memory in bytes."""

    uuid: str
    name: str | None = None
    memory_total: int | None = None


class Mig(msgspec.Struct, frozen=True):
    """MIG mode of a GPU (``enabled`` or ``disabled``) and its slices."""

    mode: str = "enabled"
    devices: tuple[MigSlice, ...] = ()


@lru_cache(maxsize=256)
def _pair(text: str) -> tuple[int, int]:
    major, minor = text.split(".")
    return int(major), int(minor)


class Gpu(msgspec.Struct, frozen=True):
    """One GPU. ``compute_capability`` is ``9.0`` and the like, ``memory_total`` is in bytes.

    A UUID or name that is not known is empty, a memory that is not known 0; ``unknown`` then says why.
    """

    index: int
    uuid: str
    name: str
    compute_capability: str
    memory_total: int
    mig: Mig | str | bool | None = None

    @property
    def capability(self) -> tuple[int, int]:
        return _pair(self.compute_capability)

    @property
    def arch(self) -> str:
        """The SASS name of the compute capability: ``sm_90``."""
        major, minor = self.capability
        return f"sm_{major}{minor}"


class Python(msgspec.Struct, frozen=True):
    """A CPython interpreter on the host, with its full version."""

    path: str
    version: str


class Toolkit(msgspec.Struct, frozen=True):
    """A CUDA toolkit on the host; ``nvcc`` is its compiler's version, null where there is no nvcc."""

    path: str
    nvcc: str | None = None


class Unknown(msgspec.Struct, frozen=True):
    """A fact that could not be had, and why."""

    fact: str
    reason: str


class HostFacts(msgspec.Struct, frozen=True):
    """Everything the solver and the user may want to know about a host."""

    platform: Platform
    driver: Driver
    gpus: tuple[Gpu, ...]
    pythons: tuple[Python, ...] = ()
    toolkits: tuple[Toolkit, ...] = ()
    environment: dict[str, str | None] = {}
    unknown: tuple[Unknown, ...] = ()
    schema: str = SCHEMA


def decode_facts(data: bytes | str, file: str) -> HostFacts:
    """Read a facts document strictly; ``file`` is how errors call it.

    Machine and system names are normalized. Unknown fields are ignored. Raises InputError with the path of what is
    missing or wrong, such as ``gpus[0].compute_capability``.
    """
    step = "Record facts with: bnbenv facts --json"
    try:
        data = _without_mark(data)
        try:
            facts = msgspec.json.decode(data, type=HostFacts)
        except msgspec.ValidationError:
            facts = convert(msgspec.json.decode(data), HostFacts, file)  # says where, which costs more
    except RecursionError:
        raise InputError(file, "", "no JSON document that can be read: nested too deeply", step) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        said = str(error).removeprefix("JSON is malformed: ")
        raise InputError(file, "", f"no JSON document: {said[:1].lower()}{said[1:]}", step) from None
    return checked(facts, file)


def checked(facts: HostFacts, file: str) -> HostFacts:
    """Facts that came in another document, read as strictly. Raises InputError, as ``decode_facts``."""
    if facts.schema != SCHEMA:
        raise InputError(file, "schema", f'expected "{SCHEMA}", found "{shown(facts.schema)}"')
    _check_values(facts, file)
    platform = facts.platform
    machine, system = platform.machine.lower(), platform.os.lower()
    platform = msgspec.structs.replace(
        platform, machine=_MACHINES.get(machine, machine), os=_SYSTEMS.get(system, system)
    )
    return msgspec.structs.replace(facts, platform=platform)


def _without_mark(data: bytes | str) -> bytes | str:
    """Windows PowerShell writes what is redirected into a file as UTF-16 with a byte order mark."""
    if isinstance(data, bytes) and data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16")
    return data.removeprefix(codecs.BOM_UTF8) if isinstance(data, bytes) else data


def encode_facts(facts: HostFacts) -> str:
    """The JSON document of ``bnbenv facts --json``, with ``schema`` first."""
    document = msgspec.to_builtins(facts)
    ordered = {"schema": document.pop("schema"), **document}
    return msgspec.json.format(msgspec.json.encode(ordered), indent=2).decode()


def _check_values(facts: HostFacts, file: str) -> None:
    """What types cannot say: versions are numbers with dots, indices are not repeated."""
    seen: set[int] = set()
    for position, gpu in enumerate(facts.gpus):
        where = f"gpus[{position}]"
        if not re.fullmatch(r"[0-9]{1,3}\.[0-9]{1,3}", gpu.compute_capability):
            found = shown(gpu.compute_capability)
            raise InputError(file, f"{where}.compute_capability", f'expected "9.0" or the like, found "{found}"')
        if gpu.index < 0 or gpu.index in seen:
            what = "stands twice" if gpu.index in seen else "is negative"
            raise InputError(file, f"{where}.index", f"index {gpu.index} {what}")
        if gpu.memory_total < 0:
            raise InputError(file, f"{where}.memory_total", f"expected bytes, found {gpu.memory_total}")
        seen.add(gpu.index)
    dotted = {
        "platform.libc.version": facts.platform.libc.version if facts.platform.libc else None,
        "driver.version": facts.driver.version,
        "driver.cuda": facts.driver.cuda,
        **{f"pythons[{i}].version": python.version for i, python in enumerate(facts.pythons)},
    }
    for where, value in dotted.items():
        if value is not None and (not re.match("[0-9]", value) or re.search("[0-9]{10}", value)):
            raise InputError(file, where, f'expected a version number, found "{shown(value)}"')
