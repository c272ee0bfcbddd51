"""Which shared libraries the dynamic linker would find for a native library in a Python process that has torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bnbenv.doctor.model import Cxx, Linked, Runtime, Torch
from bnbenv.facts.model import HostFacts, Unknown
from bnbenv.paths import Sysroot


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
    """What a library needs, directly and by what it needs; copies of CUDA libraries; libstdc++; what is not known."""

    linked: tuple[Linked, ...] = ()
    runtimes: tuple[Runtime, ...] = ()
    cxx: Cxx | None = None
    unknown: tuple[Unknown, ...] = ()


def resolve(library: Path | None, process: Process) -> Resolved:
    """What is found for a library that is loaded after torch; without one, what the process has anyway.

    Nothing is raised: what cannot be read is unknown, with the reason.
    """
    return Resolved()


def libcudarts(environ: Mapping[str, str], sysroot: Sysroot) -> tuple[str, ...]:
    """The copies of libcudart where bitsandbytes through 0.40 looks for them, in its order."""
    return ()
