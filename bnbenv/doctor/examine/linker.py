"""Which shared libraries the dynamic linker would find for a native library in a Python process that has torch."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bnbenv.doctor.examine import ldcache
from bnbenv.doctor.examine.disk import TRIPLETS, Disk
from bnbenv.doctor.examine.dlls import resolve_dlls
from bnbenv.doctor.examine.linking import Linker, Search
from bnbenv.doctor.examine.runtimes import find_runtimes
from bnbenv.doctor.examine.startup import Startup
from bnbenv.doctor.model import Cxx, Linked, Runtime, Torch
from bnbenv.facts.model import HostFacts, Unknown
from bnbenv.matrix.drivers import at_least, number
from bnbenv.paths import Sysroot

_LIBSTDCXX = "libstdc++.so.6"


@dataclass(frozen=True)
class Process:
    """The process that will load a library, as far as linking goes.

    ``python`` is its interpreter (null: unknown), ``search`` the folders of its ``sys.path`` in order, ``environ`` its
    environment. What the system has (linker cache, default folders) is looked at below ``sysroot``.
    """

    facts: HostFacts
    environ: Mapping[str, str]
    sysroot: Sysroot
    python: str | None = None
    prefix: str | None = None
    search: tuple[str, ...] = ()
    torch: Torch | None = None


@dataclass(frozen=True)
class Resolved:
    """What a library needs, directly and by what it needs; copies of CUDA libraries; libstdc++; what is not known.

    What makes ``import torch`` itself fail stands in ``linked`` before the rest.
    """

    linked: tuple[Linked, ...] = ()
    runtimes: tuple[Runtime, ...] = ()
    cxx: Cxx | None = None
    unknown: tuple[Unknown, ...] = ()


def resolve(library: Path | None, process: Process) -> Resolved:
    """What is found for a library that is loaded after torch; without one, what the process has anyway.

    Nothing is raised: what cannot be read is unknown, with the reason.
    """
    platform = process.facts.platform
    if platform.os == "windows":
        return _on_windows(library, process)
    if platform.os != "linux" or (platform.libc and platform.libc.name != "glibc"):
        what = f"{platform.libc.name}" if platform.libc and platform.os == "linux" else platform.os
        return Resolved(unknown=(Unknown("linked", f"how {what} finds shared libraries is not simulated"),))
    disk = Disk(process.sysroot, platform.machine, _own(library, process))
    linker = Linker(disk, _search(disk, process))
    startup = Startup(linker, disk, process.search)
    startup.python(process.python, _words(process.environ.get("LD_PRELOAD"), "[ :]"))
    startup.torch(process.torch)
    linked = list({one.soname: one for one in reversed(startup.wrong)}.values())[::-1]
    if library is not None:
        linked += _each_once(linker.load(str(library), startup.caller))
    torch = process.torch.path if process.torch else None
    return Resolved(
        linked=tuple(linked),
        runtimes=find_runtimes(linker, disk, process.search, torch, process.prefix),
        cxx=_cxx(linker),
        unknown=tuple(Unknown(f"linked.{fact}", reason) for fact, reason in startup.unknown),
    )


def _on_windows(library: Path | None, process: Process) -> Resolved:
    if library is None:
        return Resolved()
    torch = process.torch.path if process.torch else None
    linked = resolve_dlls(library, torch, process.python, process.prefix, process.environ, process.sysroot)
    return Resolved(linked=linked)


def _own(library: Path | None, process: Process) -> tuple[str, ...]:
    """The folders that are the environment's and not the system's."""
    own = [*process.search, *([process.prefix] if process.prefix else ())]
    own += [str(library.parent)] if library else []
    own += [process.torch.path] if process.torch else []
    if process.python:
        program = Path(os.path.realpath(process.python))  # a loop of links is none
        base = program.parent.parent
        # Of a system's Python only what is Python's: its libraries are the system's.
        own += [str(program.parent), str(base if str(base) not in ("/", "/usr") else base / "lib" / program.name)]
    return tuple(own)


def _search(disk: Disk, process: Process) -> Search:
    triplet = TRIPLETS.get(disk.machine, "")
    lib64 = "64" if disk.machine == "x86_64" else ""
    libc = process.facts.platform.libc
    cpuinfo = process.sysroot.read("/proc/cpuinfo", 1 << 14) if libc is None or at_least(libc.version, "2.33") else None
    levels = ldcache.hwcaps(cpuinfo or "")  # folders that older releases do not look into
    try:
        with process.sysroot.path(ldcache.PATH).open("rb") as stream:
            cache = ldcache.parse_cache(stream.read(ldcache.LIMIT), disk.machine, levels)
    except OSError:
        cache = None
    defaults = [f"/lib/{triplet}", f"/usr/lib/{triplet}", f"/lib{lib64}", f"/usr/lib{lib64}", "/lib", "/usr/lib"]
    defaults = [folder for folder in dict.fromkeys(defaults) if disk.identity(folder)]
    sure = cache is not None or any(disk.identity(f"{folder}/libc.so.6") for folder in defaults)
    return Search(
        library_path=_words(process.environ.get("LD_LIBRARY_PATH"), "[:;]"),
        cache=cache,
        defaults=tuple(defaults),
        levels=levels,
        sure=sure,
        because="" if sure else "the system's own libraries cannot be looked at",
    )


def _words(value: str | None, separators: str) -> tuple[str, ...]:
    """The entries of a list of paths; an empty one is the current folder, an empty list is none."""
    if not value:
        return ()
    words = re.split(separators, value)
    return tuple(word for word in words if word) if " " in separators else tuple(word or "." for word in words)


def _each_once(needs: list[Linked]) -> list[Linked]:
    """One of each that is found, and all that something is wrong with."""
    first = {one.soname: one for one in reversed(needs)}
    return [one for one in needs if one.answer != "yes" or first[one.soname] is one]


def _cxx(linker: Linker) -> Cxx | None:
    found = linker.loaded(_LIBSTDCXX) or linker.would_find(_LIBSTDCXX)
    if found is None:
        return None
    versions = [name[8:] for name in found.dynamic.defines or () if re.fullmatch(r"GLIBCXX_[0-9]+(?:\.[0-9]+)*", name)]
    return Cxx(path=found.path, glibcxx=max(versions, key=number, default=None))
