"""What a wheel, a folder or a single library holds, of whichever project: packages, and the code in their libraries.

Of torch only its Python library is read, which names the architectures of all others. Memory is bounded whatever the
size of a library: large ones are mapped, those in a wheel are unpacked to a temporary file first.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast
from urllib.parse import unquote, urlsplit, urlunsplit

import msgspec

from bnbenv.errors import Failed, InputError
from bnbenv.matrix.fatwheel import LARGEST_WHEEL, FatWheel, StreamedFile
from bnbenv.matrix.found import FoundPackage, Gathered, found_library
from bnbenv.matrix.installed import mapped, parse_metadata, read_installed_bitsandbytes, read_installed_torch
from bnbenv.matrix.measure import (
    ARCH_LIBRARIES,
    TEXT_LIMIT,
    VERSION_PY,
    measure_bitsandbytes,
    measure_torch,
    version_field,
    wheel_name,
)
from bnbenv.matrix.model import BitsandbytesWheel, TorchBuild
from bnbenv.matrix.native import Library, cuda_of, is_library, read_library
from bnbenv.matrix.remote import WHOLE_LIMIT

if TYPE_CHECKING:
    import requests

MOST_LIBRARIES = 2000
MOST_ENTRIES = 200_000  # files and folders that are looked at below one that is given

_SUFFIX = re.compile(r"\.(?:so(?:\.[0-9]+)*|dll|pyd|dylib)$")
_METADATA = re.compile(r"[^/]+\.dist-info/METADATA")

Told = Callable[[str], None]  # is told of what is being read


def read_file(path: Path, told: Told) -> FoundPackage:
    """A wheel or a library on this disk.

    Raises InputError for another file; Failed: ``bad-wheel``, ``bad-binary``; OSError.
    """
    with path.open("rb") as stream:
        magic = stream.read(4)
        if magic[:2] == b"PK" or path.suffix == ".whl":
            if path.stat().st_size > LARGEST_WHEEL:
                raise InputError(str(path), "", f"it is larger than {LARGEST_WHEEL >> 30} GiB, which no wheel is")
            told(f"reading {path.name}")
            digest = _digest(stream)
            return _read_wheel(FatWheel(stream, path.name, digest, stream.tell()), str(path), digest, told)
    if not is_library(magic):
        raise InputError(
            str(path), "", "it is no wheel, and no library of Linux, Windows or macOS" if magic else "it is empty"
        )
    with mapped(path) as data:
        found = found_library(read_library(memoryview(data), path.name))
    return FoundPackage(
        name=None, place=str(path), os=found.os, machine=found.machine, cuda=found.cuda, libraries=(found,)
    )


def read_folder(folder: Path, told: Told) -> tuple[FoundPackage, ...]:
    """What lies in an environment (its prefix or its site-packages), or in the folder of one package.

    Of an environment torch and bitsandbytes are read; of a package all its libraries. Raises InputError where there is
    nothing to be read; Failed as the readers do; OSError.
    """
    for known in ("torch", "bitsandbytes"):
        marker = folder / ("version.py" if known == "torch" else "__init__.py")
        if folder.name == known and marker.is_file():
            return _installed(folder.parent, (known,), told)
    places = [folder, *sorted(folder.glob("lib/python3*/*-packages")), folder / "Lib" / "site-packages"]
    for place in places:
        packages = _installed(place, ("torch", "bitsandbytes"), told)
        if packages:
            return packages
    if any(place.is_dir() for place in places[1:]):
        raise InputError(str(folder), "", "this environment holds neither torch nor bitsandbytes")
    gathered = Gathered()
    for path in _library_files(folder):
        told(f"reading {path.name}")
        with mapped(path) as data:
            gathered.add(memoryview(data), path.relative_to(folder).as_posix())
    if not gathered.libraries:
        raise gathered.failed or InputError(
            str(folder), "", "there is no native library in this folder, and no environment"
        )
    platforms = {(library.os, library.machine) for library in gathered.libraries}
    system, machine = platforms.pop() if len(platforms) == 1 else (None, None)
    return (FoundPackage(name=None, place=str(folder), os=system, machine=machine, **gathered.fields()),)


def _installed(site: Path, names: tuple[str, ...], told: Told) -> tuple[FoundPackage, ...]:
    packages = []
    if "torch" in names:
        told(f"reading torch in {site}")
        packages += _installed_torch(site)
    if "bitsandbytes" in names:
        told(f"reading bitsandbytes in {site}")
        row = read_installed_bitsandbytes(site)
        packages += [_of_bitsandbytes(row, row.filename, None)] if row else []
    return tuple(packages)


def _installed_torch(site: Path) -> list[FoundPackage]:
    try:
        build = read_installed_torch(site)
    except Failed as error:
        if error.code != "not-cuda":
            raise
        folder = site / "torch"
        with mapped(folder / "lib" / "libtorch_python.so") as data:
            text = (folder / "version.py").read_text("utf-8", "replace")
            return [_for_others(text, memoryview(data), str(folder), None)]
    return [_of_torch(build, build.path or str(site), None)] if build else []


def _for_others(version_py: str, data: memoryview, place: str, sha256: str | None) -> FoundPackage:
    """A torch for the GPUs of others than NVIDIA, which its version.py says; its Python library stands for all."""
    library = found_library(read_library(data, "lib/libtorch_python.so"))
    backend = "xpu" if version_field(version_py, "xpu") else "rocm"
    return FoundPackage(
        name="torch",
        version=version_field(version_py, "__version__"),
        place=place,
        sha256=sha256,
        os=library.os,
        machine=library.machine,
        libraries=(msgspec.structs.replace(library, backend=backend),),
    )


def _library_files(folder: Path) -> Iterator[Path]:
    """The libraries below a folder, each once; what is linked to from inside is read where it lies."""
    seen: set[str] = set()
    entries = 0
    for parent, folders, files in os.walk(folder):
        folders.sort()
        entries += len(folders) + len(files)
        if entries > MOST_ENTRIES:
            raise InputError(
                str(folder), "", f"more than {MOST_ENTRIES} files lie in it: name the folder of one package"
            )
        for name in sorted(files):
            path = Path(parent, name)
            real = os.path.realpath(path)
            if _SUFFIX.search(name) and real not in seen and path.is_file() and path.stat().st_size:
                seen.add(real)
                if len(seen) > MOST_LIBRARIES:
                    raise InputError(
                        str(folder), "", f"more than {MOST_LIBRARIES} libraries lie in it: name a smaller one"
                    )
                yield path


def read_url(session: requests.Session, url: str, told: Told) -> FoundPackage:
    """A wheel behind an address, of which only the parts are fetched that say something.

    Raises InputError for an address that names no wheel; SourceUnreachable; Failed as the readers do.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        raise InputError("the address", "", "this is no usable address") from None
    filename = unquote(parts.path.rpartition("/")[2])
    shown = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
    if not filename.endswith(".whl"):
        raise InputError(shown, "", "expected the address of a wheel (.whl)")
    wheel_name(filename)
    came = 0

    def got(size: int) -> None:
        nonlocal came
        came += size
        told(f"reading {filename}, {came >> 20} MB so far")

    with StreamedFile(session, url, filename, got) as remote:
        wheel = FatWheel(cast(BinaryIO, remote), filename, "", remote.size)
        remote.limit = WHOLE_LIMIT
        return _read_wheel(wheel, shown, None, told)


def _read_wheel(wheel: FatWheel, place: str, sha256: str | None, told: Told) -> FoundPackage:
    """A wheel of any project. Raises Failed: ``bad-wheel``, ``bad-binary``; or as a remote file does."""
    name = wheel_name(wheel.filename)
    if name.project == "torch":
        try:
            return _of_torch(measure_torch(wheel, "local"), place, sha256)
        except Failed as error:
            if error.code != "not-cuda":
                raise
            text = wheel.read(VERSION_PY, TEXT_LIMIT).decode("utf-8", "replace")
            with wheel.unpacked(ARCH_LIBRARIES[0]) as data:
                return _for_others(text, data, place, sha256)
    if name.project == "bitsandbytes":
        return _of_bitsandbytes(measure_bitsandbytes(wheel), place, sha256, name.pythons)
    metadata = next((member for member in wheel.names() if _METADATA.fullmatch(member)), None)
    if metadata is None:
        raise Failed("bad-wheel", f"{wheel.filename} holds no METADATA")
    known = parse_metadata(wheel.read(metadata, TEXT_LIMIT).decode("utf-8", "replace"))
    members = wheel.in_order(member for member in wheel.names() if _SUFFIX.search(member))
    if len(members) > MOST_LIBRARIES:
        raise Failed("bad-wheel", f"{wheel.filename} holds {len(members)} libraries, the limit is {MOST_LIBRARIES}")
    gathered = Gathered()
    for member in members:
        told(f"reading {member.rpartition('/')[2]} in {wheel.filename}")
        with wheel.unpacked(member) as data:
            gathered.add(data, member)
    if gathered.failed and not gathered.libraries:
        raise gathered.failed
    return FoundPackage(
        name=name.project,
        version=name.version,
        place=place,
        sha256=sha256,
        os=name.os if name.platform != "any" else None,
        machine=name.machine if name.platform != "any" else None,
        libc_tag=name.libc_tag,
        pythons=name.pythons,
        requires_python=known.requires_python,
        requires_dist=known.requires_dist,
        **gathered.fields(),
    )


def _of_torch(build: TorchBuild, place: str, sha256: str | None) -> FoundPackage:
    return FoundPackage(
        name="torch",
        version=build.version,
        place=place,
        sha256=sha256,
        os=build.os,
        machine=build.machine,
        libc_tag=build.libc_tag,
        pythons=build.pythons,
        requires_python=build.requires_python,
        requires_dist=build.requires_dist,
        cuda=build.cuda,
        arch_list=build.arch_list,
    )


def _of_bitsandbytes(
    row: BitsandbytesWheel, place: str, sha256: str | None, pythons: tuple[str, ...] = ()
) -> FoundPackage:
    libraries = tuple(
        # The solver judges these by the release in their name, and so does this.
        found_library(Library(one, row.os, row.machine, cuda_of(one.name), cuda_of(one.name)))
        for one in row.libraries
    )
    return FoundPackage(
        name="bitsandbytes",
        version=row.version,
        place=place,
        sha256=sha256,
        os=row.os,
        machine=row.machine,
        libc_tag=row.libc_tag,
        pythons=pythons,
        requires_python=row.requires_python,
        requires_dist=row.requires_dist,
        libraries=libraries,
    )


def _digest(stream: BinaryIO) -> str:
    digest = hashlib.sha256()
    stream.seek(0)
    while block := stream.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()
