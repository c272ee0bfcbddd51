"""What was found in a wheel, a folder or a library: packages and their native libraries, as they are shown."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from bnbenv.errors import Failed
from bnbenv.matrix.native import Library, is_library, read_library

_LINKS = {"libamdhip64": "rocm", "amdhip64": "rocm", "libsycl": "xpu", "libze_loader": "xpu"}


class FoundLibrary(msgspec.Struct, frozen=True, kw_only=True):
    """One native library. ``name`` is its path in the package; ``sass`` to ``glibcxx`` are as in the matrix.

    ``backend`` is cuda, cpu, rocm or xpu; ``cuda`` the CUDA release it is for, or its major alone; ``ptx_cuda`` the
    oldest release that reads its PTX. Null: nothing tells.
    """

    name: str
    backend: str
    os: str
    machine: str
    cuda: str | None = None
    sass: tuple[str, ...] = ()
    ptx: tuple[str, ...] = ()
    ptx_cuda: str | None = None
    needed: tuple[str, ...] = ()
    glibc: str | None = None
    glibcxx: str | None = None


class Unreadable(msgspec.Struct, frozen=True):
    """A library that was passed over, and why."""

    name: str
    because: str


class FoundPackage(msgspec.Struct, frozen=True, kw_only=True):
    """One package. ``name`` and ``version`` are null for what has no metadata; ``place`` is where it was read.

    ``arch_list`` is the own list of a torch for NVIDIA, whose ``libraries`` are empty; else null. ``os`` and
    ``machine`` are null where several are in it. ``sha256`` is that of the file that was read, null where only parts
    of it were. ``unreadable`` are libraries that were passed over.
    """

    name: str | None
    version: str | None = None
    place: str
    sha256: str | None = None
    os: str | None = None
    machine: str | None = None
    libc_tag: str | None = None
    pythons: tuple[str, ...] = ()
    requires_python: str | None = None
    requires_dist: tuple[str, ...] = ()
    cuda: str | None = None
    arch_list: tuple[str, ...] | None = None
    libraries: tuple[FoundLibrary, ...] = ()
    unreadable: tuple[Unreadable, ...] = ()


class Gathered:
    """The libraries of one package. One that is damaged, or of a kind that is not read, hides no other."""

    def __init__(self) -> None:
        self.libraries: list[FoundLibrary] = []
        self.unreadable: list[Unreadable] = []
        self.failed: Failed | None = None

    def add(self, data: memoryview, name: str) -> None:
        """Read one more."""
        if not is_library(bytes(data[:4])):  # a linker's script, which is text
            return
        try:
            self.libraries.append(found_library(read_library(data, name)))
        except Failed as error:
            self.failed = error
            self.unreadable.append(Unreadable(name, error.message))

    def fields(self) -> dict[str, Any]:
        """What they say of the package."""
        return {
            "cuda": _one(library.cuda for library in self.libraries),
            "libraries": tuple(sorted(self.libraries, key=lambda library: library.name)),
            "unreadable": tuple(self.unreadable),
        }


def found_library(library: Library) -> FoundLibrary:
    """A library as it is shown; the backend of one with another name is told by what it holds and links."""
    row = library.row
    return FoundLibrary(
        name=row.name,
        backend=row.backend if row.backend != "other" else _backend(row.sass or row.ptx, library.cuda, row.needed),
        os=library.os,
        machine=library.machine,
        cuda=library.cuda,
        sass=row.sass,
        ptx=row.ptx,
        ptx_cuda=library.ptx_cuda,
        needed=row.needed,
        glibc=row.glibc,
        glibcxx=row.glibcxx,
    )


def _backend(code: tuple[str, ...], cuda: str | None, needed: tuple[str, ...]) -> str:
    if code or cuda or any(name.startswith(("libcuda.so", "nvcuda.dll")) for name in needed):
        return "cuda"
    words = " ".join(needed)
    return next((backend for sign, backend in _LINKS.items() if sign in words), "cpu")


def _one(values: Iterable[str | None]) -> str | None:
    """What all that is known agrees on."""
    known = {value for value in values if value}
    return known.pop() if len(known) == 1 else None
