"""The torch that an import takes, read where it lies. One that is damaged says so; it is never an error."""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path

from bnbenv.doctor.examine.files import head, names, text
from bnbenv.doctor.examine.layout import Layout
from bnbenv.doctor.model import Torch
from bnbenv.errors import BnbenvError
from bnbenv.matrix.installed import mapped
from bnbenv.matrix.measure import arch_list, version_field
from bnbenv.matrix.rows import is_version

LARGEST = 1 << 16  # bytes of version.py
WINDOW = 1024  # bytes around each name of an architecture that are searched for the list

_EXTENSION = re.compile(r"_C\.(?:cpython-|cp)(3)(\d{1,2})t?-[\w.-]+")
_PYTHON_LIBRARIES = ("libtorch_python.so", "torch_python.dll", "libtorch_python.dylib")
# What every torch since 1.5 has in its folder lib, by system; then what one for CUDA has beside it.
_CORE = {
    ".so": ("libtorch_python.so", "libtorch_cpu.so", "libc10.so", "libtorch.so"),
    ".dll": ("torch_python.dll", "torch_cpu.dll", "c10.dll"),
    ".dylib": ("libtorch_python.dylib", "libtorch_cpu.dylib", "libc10.dylib"),
}
_CUDA = {".so": ("libtorch_cuda.so", "libc10_cuda.so"), ".dll": ("torch_cuda.dll", "c10_cuda.dll"), ".dylib": ()}


def read_torch(folder: Path, layout: Layout | None = None) -> Torch:
    """The torch in a folder ``torch``; nothing is raised.

    ``fault`` says what is damaged: no ``__init__.py``, no version, a library that is missing, empty or cut off, an
    extension module for another Python.
    """
    if not os.access(folder, os.R_OK | os.X_OK):
        return Torch(path=str(folder), fault="this user may not look into it")
    if not (folder / "__init__.py").is_file():
        return Torch(path=str(folder), fault="it has no __init__.py: a folder that is left of another torch")
    content = text(folder / "version.py", LARGEST)
    if content is None:
        return Torch(path=str(folder), fault="its version.py is missing or cannot be read")
    version = version_field(content, "__version__")
    cuda, hip = version_field(content, "cuda"), version_field(content, "hip") or version_field(content, "rocm")
    xpu = version_field(content, "xpu")
    if version is None or not is_version(version):
        return Torch(path=str(folder), cuda=cuda, hip=hip, xpu=xpu, fault="its version.py names no version")
    fault = _fault(folder, cuda, layout)
    archs, said = _archs(folder, layout) if cuda and not fault else ((), None)
    said = fault or said
    return Torch(path=str(folder), version=version, cuda=cuda, hip=hip, xpu=xpu, arch_list=archs, fault=said)


def _fault(folder: Path, cuda: str | None, layout: Layout | None) -> str | None:
    """What is damaged in a torch, if anything is."""
    there = names(folder)
    tags = [f"{match[1]}.{match[2]}" for name in there if (match := _EXTENSION.fullmatch(name))]
    if layout is not None and layout.minor and tags and layout.minor not in tags:
        return f"it is built for Python {', '.join(sorted(tags))}, and this is Python {layout.minor}"
    if not tags and not any(name.startswith("_C.") for name in there):
        return "its extension module torch/_C is missing"
    library = folder / "lib"
    own = set(names(library))
    # conda and Debian keep libraries in folders of the system's kind.
    elsewhere = (layout is not None and layout.kind == "conda") or folder.is_relative_to("/usr/lib")
    system = next((one for one, expected in _CORE.items() if any(name in own for name in expected)), None)
    if system is None:
        return None if elsewhere else "its libraries are missing: nothing of it is in its folder lib"
    for name in (*_CORE[system], *(_CUDA[system] if cuda else ())):
        if name not in own and not elsewhere:
            return f"its library {name} is missing"
        fault = _damage(library / name) if name in own else None
        if fault is not None:
            return fault
    return None


def _damage(path: Path) -> str | None:
    """A library that is empty, cut off, or none, by its header. A link that leads nowhere is missing."""
    try:
        begin, size = head(path, 64).ljust(64, b"\0"), path.stat().st_size
    except OSError as error:
        return f"{path.name} cannot be read ({error.strerror})"
    if not size:
        return f"{path.name} is empty"
    if path.suffix == ".so":
        if begin[:5] != b"\x7fELF\x02":
            return f"{path.name} is no native library"
        start, each, count = struct.unpack_from("<Q", begin, 40)[0], *struct.unpack_from("<HH", begin, 58)
        if start + each * count > size:
            return f"{path.name} is cut off: {size} bytes, its own header speaks of {start + each * count}"
    elif path.suffix == ".dll" and begin[:2] != b"MZ":
        return f"{path.name} is no native library"
    return None


def _archs(folder: Path, layout: Layout | None) -> tuple[tuple[str, ...], str | None]:
    """The architectures that torch.cuda.get_arch_list() gives, or none and why they cannot be told."""
    places = [folder / "lib"]
    if layout is not None:  # conda keeps libraries in the prefix
        places += [layout.prefix / "lib", layout.prefix / "Library" / "bin"]
    library = next((path for place in places for name in _PYTHON_LIBRARIES if (path := place / name).is_file()), None)
    if library is None:
        return (), None
    try:
        with mapped(library) as data:
            # A regular expression over 30 MB takes four times as long as looking for the word first.
            parts, at, end = [], data.find(b"sm_"), 0
            while at >= 0:
                parts.append(data[max(end, at - 64) : at + WINDOW])
                end = at + WINDOW
                at = data.find(b"sm_", end)
            return arch_list(b"".join(parts), library.name), None
    except (BnbenvError, OSError, ValueError):
        return (), None
