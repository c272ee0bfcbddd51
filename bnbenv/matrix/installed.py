"""torch and bitsandbytes as they lie in a site-packages folder, measured where they are; nothing is imported."""

from __future__ import annotations

import hashlib
import mmap
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import IO

from bnbenv.decode import shown
from bnbenv.errors import Failed
from bnbenv.matrix.measure import TEXT_LIMIT, arch_list, python_key, triton_version, version_field
from bnbenv.matrix.model import BitsandbytesWheel, Evidence, NativeLibrary, TorchBuild
from bnbenv.matrix.native import platform_of, read_native
from bnbenv.matrix.rows import is_specifier, is_version

_PTH_LINES = 1000
_LIBRARIES = ("libtorch_python.so", "torch_python.dll", "libtorch_python.dylib")
_NATIVE = re.compile(r"libbitsandbytes_[^/]+\.(?:so|dll|dylib)")
_EXTENSION = re.compile(r"_C\.(?:cpython-|cp)(3\d{1,2}t?)-[\w.-]+")
_PYTHON_FOLDER = re.compile(r"python(3)\.(\d{1,2}t?)")
_VERSION = re.compile(r"^__version__\s*(?::[^=\n]*)?=\s*['\"]([^'\"\n]{1,200})['\"]", re.MULTILINE)


@dataclass(frozen=True)
class Distribution:
    """What an installed package's metadata says; builds made by hand or by other tools may have none."""

    version: str | None = None
    requires_python: str | None = None
    requires_dist: tuple[str, ...] = ()


def read_installed_torch(site_packages: Path) -> TorchBuild | None:
    """The torch in a site-packages (or dist-packages) folder, as a row; None where there is none.

    One that was built in a source tree and linked to by a ``.pth`` file counts as in it.
    Its version and CUDA are from ``torch/version.py``, the architectures from its Python library, ``requires_dist``
    from its metadata where it has any, ``triton`` what is installed beside it, else what it asks for. ``pythons`` is
    the one tag of that folder. ``path`` is the folder torch, ``sha256`` that of the measured file, ``libc_tag`` null:
    it is there already. Raises Failed: ``not-cuda`` for a ROCm or XPU build, ``bad-torch`` for one that cannot be read,
    ``bad-binary``; OSError.
    """
    folder = _package(site_packages, "torch", "version.py")
    text = _text(folder / "version.py")
    if text is None:
        return None
    if any(version_field(text, name) for name in ("hip", "rocm", "xpu")):
        raise Failed("not-cuda", f"the torch in {site_packages} is built for other GPUs than NVIDIA's")
    version, cuda = version_field(text, "__version__"), version_field(text, "cuda")
    if version is None or not is_version(version):
        raise Failed("bad-torch", f"{folder / 'version.py'} names no version (found {shown(version)})")
    known = distribution(site_packages, ("torch", "pytorch"))
    tag = python_tag(site_packages, folder)
    library = _torch_library(site_packages, folder, cuda)
    with mapped(library) as data:
        system, machine = platform_of(memoryview(data), library.name)
        archs = arch_list(memoryview(data), str(library)) if cuda else ()
        digest = sha256(data)
    beside = distribution(site_packages, ("triton", "pytorch_triton", "triton_windows")).version
    return TorchBuild(
        version=version,
        source="existing",
        os=system,
        machine=machine,
        cuda=cuda,
        arch_list=archs,
        pythons=(tag,),
        requires_python=known.requires_python,
        requires_dist=known.requires_dist,
        evidence=_evidence(library, digest),
        triton=beside or triton_version(known.requires_dist, system, machine, (tag,)),
        path=str(folder),
        sha256=digest,
    )


def read_installed_bitsandbytes(site_packages: Path) -> BitsandbytesWheel | None:
    """The bitsandbytes in a site-packages folder, as a row; None where there is none.

    It need not come from a wheel: ``filename`` is its folder, ``size`` the bytes of its native libraries, ``sha256``
    a digest of their names and contents. Raises Failed: ``bad-bitsandbytes`` where its version cannot be told,
    ``bad-binary``; OSError.
    """
    folder = _package(site_packages, "bitsandbytes", "__init__.py")
    text = _text(folder / "__init__.py")
    if text is None:
        return None
    known = distribution(site_packages, ("bitsandbytes",))
    version = known.version or source_version(text)
    if version is None or not is_version(version):
        raise Failed("bad-bitsandbytes", f"neither {folder} nor metadata beside it says which version that is")
    rows: list[NativeLibrary] = []
    platforms, digest, size = set(), hashlib.sha256(), 0
    for path in sorted(folder.iterdir()):
        if _NATIVE.fullmatch(path.name):
            with mapped(path) as data:
                rows.append(read_native(memoryview(data), path.name))
                platforms.add(platform_of(memoryview(data), path.name))
                digest.update(f"{path.name}\0{sha256(data)}\n".encode())
                size += len(data)
    if len(platforms) != 1:
        because = "holds libraries for several platforms" if platforms else "holds no native library"
        raise Failed("bad-bitsandbytes", f"{folder} {because}", "Install bitsandbytes again.")
    ((system, machine),) = platforms
    return BitsandbytesWheel(
        version=version,
        filename=str(folder),
        sha256=digest.hexdigest(),
        size=size,
        os=system,
        machine=machine,
        libc_tag=None,
        requires_python=known.requires_python,
        requires_dist=known.requires_dist,
        libraries=tuple(rows),
        evidence=_evidence(folder, digest.hexdigest()),
    )


def source_version(text: str) -> str | None:
    """What a package's ``__init__.py`` says that its version is; None where it says nothing."""
    found = _VERSION.search(text)
    return found[1] if found else None


def _package(site_packages: Path, name: str, marker: str) -> Path:
    """Where a package lies: in the folder itself, or in a source tree that a ``.pth`` file there adds to the path."""
    own = site_packages / name
    if (own / marker).is_file():
        return own
    for entry in sorted(one for one in _names(site_packages) if one.endswith(".pth")):
        for line in (_text(site_packages / entry) or "").splitlines()[:_PTH_LINES]:
            added = line.strip()
            if added and not added.startswith(("#", "import ", "import\t")) and "\0" not in added:
                other = site_packages / added / name
                if (other / marker).is_file():
                    return other
    return own


def distribution(site_packages: Path, names: tuple[str, ...]) -> Distribution:
    """The metadata of a package by one of its names, with ``_`` for ``-``; all is null where it has none."""
    for entry in sorted(_names(site_packages)):
        stem, _, kind = entry.rpartition(".")
        if kind not in ("dist-info", "egg-info") or stem.partition("-")[0].lower() not in names:
            continue
        text = _text(site_packages / entry / ("METADATA" if kind == "dist-info" else "PKG-INFO"))
        if text is not None:
            return parse_metadata(text)
    return Distribution()


def parse_metadata(text: str) -> Distribution:
    """What METADATA or PKG-INFO says; what is no version or no specifier is left out, as installers do."""
    from packaging.metadata import parse_email

    raw, _ = parse_email(text)
    version, python = raw.get("version"), raw.get("requires_python")
    return Distribution(
        version=version if version and is_version(version) else None,
        requires_python=python if python and is_specifier(python) else None,
        requires_dist=tuple(dict.fromkeys(raw.get("requires_dist", ()))),
    )


def python_tag(site_packages: Path, torch: Path) -> str:
    """The Python that a site-packages folder is for, as in the names of wheels: ``cp311``, ``cp313t``.

    Told by torch's own extension module, else by the folder's path. Raises Failed (``bad-torch``) by neither.
    """
    tags = {f"cp{match[1]}" for name in _names(torch) if (match := _EXTENSION.fullmatch(name))}
    if not tags:
        tags = {f"cp{m[1]}{m[2]}" for part in site_packages.parts if (m := _PYTHON_FOLDER.fullmatch(part))}
    if not tags:
        raise Failed("bad-torch", f"nothing in {torch} says for which Python it is", "Install torch again.")
    return max(tags, key=python_key)


def _torch_library(site_packages: Path, folder: Path, cuda: str | None) -> Path:
    """The library to measure; of a CPU build the extension module may stand in for it."""
    # conda keeps libraries in the prefix, where torch/lib may or may not link to them.
    prefix = site_packages.parent.parent
    places = (folder / "lib", prefix, prefix / "Library" / "bin")
    candidates = [place / name for place in places for name in _LIBRARIES]
    if cuda is None:
        candidates += [folder / name for name in sorted(_names(folder)) if _EXTENSION.fullmatch(name)]
    found = next((path for path in candidates if path.is_file()), None)
    if found is None:
        raise Failed("bad-torch", f"{folder} holds none of {', '.join(_LIBRARIES)}", "Install torch again.")
    return found


@contextmanager
def mapped(path: Path) -> Iterator[mmap.mmap]:
    """A file's bytes without reading all of them.

    Raises OSError, Failed (``bad-binary``) for an empty one and for what is no file: a pipe would never open.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise Failed("bad-binary", f"{path} is no file", "Install or download it again.")
    with path.open("rb") as stream:
        if not os.fstat(stream.fileno()).st_size:
            raise Failed("bad-binary", f"{path} is empty", "Install or download it again.")
        with mapped_stream(stream) as data:
            yield data


@contextmanager
def mapped_stream(stream: IO[bytes]) -> Iterator[mmap.mmap]:
    """The bytes of an open file that is not empty. Raises OSError."""
    data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        yield data
    finally:
        with suppress(BufferError):  # a view of it is still held, by an error for instance: it closes with that
            data.close()


def sha256(data: mmap.mmap) -> str:
    """The digest of a file's bytes."""
    digest = hashlib.sha256()
    for start in range(0, len(data), 1 << 20):
        digest.update(data[start : start + (1 << 20)])
    return digest.hexdigest()


def _evidence(path: Path, digest: str) -> Evidence:
    today = datetime.now(timezone.utc).date().isoformat()
    return Evidence("measured", f"{path} sha256:{digest}", today)


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _text(path: Path) -> str | None:
    """A small text file, None where there is none."""
    try:
        with path.open("rb") as stream:
            return stream.read(TEXT_LIMIT).decode("utf-8", "replace")
    except (FileNotFoundError, NotADirectoryError):
        return None
