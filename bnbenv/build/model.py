"""What is asked of a build and what comes out of it. Frozen values; ``bnbenv build --json`` is made of ``Built``."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from bnbenv.matrix.model import BitsandbytesWheel

SCHEMA = "bnbenv.build/1"


class Order(msgspec.Struct, frozen=True):
    """What to compile.

    ``source`` is None for upstream's repository, else a git URL, a folder (a tree or a repository), or a tarball (a
    path or URL; ``#sha256=...`` behind it says what it must be). ``ref`` is a tag, branch or commit; None: the tree as
    it is. ``cuda`` is the toolkit's release (``13.0``); ``archs`` the targets, each once, the lowest first (``sm_80``,
    ``sm_90``): native code for all, and PTX for the last.
    """

    ref: str | None
    cuda: str
    archs: tuple[str, ...]
    source: str | None = None


class Origin(msgspec.Struct, frozen=True):
    """Where a tree is from. ``commit`` is null where it is no commit (a tarball, a folder with changes).

    ``digest`` is the sha256 over the names and bytes of all files that a build reads, whatever they came in.
    ``asked`` is the source as it was given, without credentials.
    """

    kind: Literal["git", "folder", "tarball"]
    asked: str
    ref: str | None
    commit: str | None
    digest: str


class Tree(msgspec.Struct, frozen=True):
    """A source tree of bitsandbytes that was looked at. ``folder`` is a private copy: a build may write into it.

    ``version`` is what it calls itself (``0.50.1``); ``cuda_min`` and ``cuda_end`` the CUDA versions that its
    CMakeLists.txt admits (``11.8`` up to and without ``14.0``), null where it names none.
    """

    folder: str
    version: str
    origin: Origin
    cuda_min: str | None
    cuda_end: str | None


class HostCompiler(msgspec.Struct, frozen=True):
    """A C++ compiler of this machine. ``kind`` is gcc or clang, ``version`` as it says itself (``12.2.0``)."""

    path: str
    kind: Literal["gcc", "clang"]
    version: str


class Toolchain(msgspec.Struct, frozen=True):
    """Everything that compiles. ``cuda`` is the toolkit's release (``13.0``), ``nvcc`` its compiler's version.

    ``root`` is the toolkit's folder, laid out so that nvcc and CMake find all of it; ``origin`` ``packages`` or
    ``system``; ``sass`` the targets it compiles for; ``cmake`` and ``ninja`` are programs.
    """

    cuda: str
    nvcc: str
    root: str
    origin: Literal["packages", "system"]
    sass: tuple[str, ...]
    host: HostCompiler
    cmake: str
    ninja: str


class Built(msgspec.Struct, frozen=True):
    """A wheel that was made, now or earlier (``cached``), as it was read back.

    ``library`` is the native library's file name; ``seconds`` what making it took, then. ``row`` is the wheel as the
    solver judges it.
    """

    wheel: str
    sha256: str
    version: str
    library: str
    sass: tuple[str, ...]
    ptx: tuple[str, ...]
    source: Origin
    toolkit: str
    host_compiler: str
    seconds: float
    cached: bool
    row: BitsandbytesWheel
    log: str | None = None

    def document(self) -> dict[str, Any]:
        """The document of ``bnbenv build``."""
        body: dict[str, Any] = msgspec.to_builtins(self)
        del body["row"]
        return {"schema": SCHEMA, **body}
