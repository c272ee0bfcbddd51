"""The native libraries of an installed bitsandbytes, each as it is; one that cannot be read says why."""

from __future__ import annotations

import os
import re
from pathlib import Path

from bnbenv.doctor.examine.files import head
from bnbenv.doctor.model import Bitsandbytes, LibraryFile
from bnbenv.errors import Failed
from bnbenv.facts.model import Platform
from bnbenv.matrix.installed import mapped, source_version
from bnbenv.matrix.native import Library, backend_of, library_cuda, read_library

_NATIVE = re.compile(r"libbitsandbytes_[^/]+\.(?:so|dll|dylib)")
_TEXT_LIMIT = 1 << 20
_NAMES = {"linux": "Linux", "windows": "Windows", "macos": "macOS"}


def read_bitsandbytes(folder: Path, version: str | None = None, platform: Platform | None = None) -> Bitsandbytes:
    """The package in a folder ``bitsandbytes``; ``version`` is what its metadata says.

    A library for another system or machine than ``platform`` has that as its fault. Nothing is raised: ``fault`` of the
    package or of one of its libraries says what cannot be read.
    """
    try:
        names = sorted(os.listdir(folder))
        own = source_version(head(folder / "__init__.py", _TEXT_LIMIT).decode("utf-8", "replace"))
    except OSError as error:
        reason = f"{error.filename or folder} cannot be read: {error.strerror or error}"
        return Bitsandbytes(path=str(folder), version=version, fault=reason)
    libraries = tuple(_read(folder / name, platform) for name in names if _NATIVE.fullmatch(name))
    fault = None if libraries else "it holds no native library"
    return Bitsandbytes(path=str(folder), version=version, own_version=own, libraries=libraries, fault=fault)


def _read(path: Path, platform: Platform | None) -> LibraryFile:
    named = LibraryFile(name=path.name, path=str(path), backend=backend_of(path.name), cuda=library_cuda(path.name))
    try:
        with mapped(path) as data:
            found = read_library(memoryview(data), path.name)
    except Failed as error:
        return _faulty(named, error.message)
    except (OSError, ValueError) as error:
        return _faulty(named, f"{path.name} cannot be read: {getattr(error, 'strerror', None) or error}")
    row = found.row
    return LibraryFile(
        name=named.name,
        path=named.path,
        backend=named.backend,
        cuda=named.cuda,
        sass=row.sass,
        ptx=row.ptx,
        glibc=row.glibc,
        glibcxx=row.glibcxx,
        fault=_foreign(found, platform),
    )


def _faulty(library: LibraryFile, fault: str) -> LibraryFile:
    return LibraryFile(name=library.name, path=library.path, backend=library.backend, cuda=library.cuda, fault=fault)


def _foreign(found: Library, platform: Platform | None) -> str | None:
    if platform is None or (found.os == platform.os and found.machine in (platform.machine, "any")):
        return None
    return f"{found.row.name} is for {_NAMES.get(found.os, found.os)} {found.machine}"
