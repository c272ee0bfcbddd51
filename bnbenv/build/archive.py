"""Unpack a tarball or zip of somebody else's: nothing outside of the folder, nothing but files, and not too much.

Links are made after all files, so that no file is written through one; where they lead is looked at afterwards by
``files.check_links``.
"""

from __future__ import annotations

import errno
import gzip
import os
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, cast

from bnbenv.build.files import DEEPEST, MOST_BYTES, Budget
from bnbenv.errors import UsageError

_ZIP, _GZIP, _BZIP2, _XZ = b"PK\x03\x04", b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00"
_HEADERS = 16 << 20  # bytes of all headers together
_LONGEST = 1000  # bytes of a name, or of what a link says
_MEMORY = 256 << 20  # bytes for unpacking xz; xz -9 takes 65 MB
# What reading damaged data raises: bz2 and gzip an OSError too, one without a number.
_BROKEN = (tarfile.TarError, zipfile.BadZipFile, zlib.error, struct.error, EOFError)
_ALSO_BROKEN = (ValueError, RuntimeError, LookupError, ArithmeticError, NotImplementedError, ImportError)


@dataclass(frozen=True)
class _Entry:
    """One entry: ``kind`` is file, folder, link or hardlink, ``link`` what a link says."""

    name: str
    kind: str
    size: int
    executable: bool = False
    link: str = ""
    content: IO[bytes] | None = None


def unpack(stream: IO[bytes], into: Path, asked: str) -> Path:
    """Unpack an archive into an empty folder. Returns the folder of the tree: the only one in it, or ``into`` itself.

    Raises UsageError (``unreadable-source``: no archive, or cut off; ``unsafe-source``: entries that would lie outside,
    devices, doubled names; ``source-too-large``), OSError (no space).
    """
    budget = Budget(asked)
    links: list[tuple[Path, str]] = []
    try:
        for entry in _entries(stream, asked):
            budget.take(entry.size)
            target = into / _safe_name(entry.name, asked)
            if target == into:
                continue
            if entry.kind == "hardlink":
                budget.take(_linked(entry, into, asked).stat().st_size)
            _place(entry, target, into, links, asked)
        for target, text in links:
            _place_link(target, text, into, asked)
    except FileExistsError as error:
        raise _unsafe(asked, f"{Path(str(error.filename)).name} stands in it twice") from None
    except NotADirectoryError as error:
        raise _unsafe(asked, f"{Path(str(error.filename)).name} lies below a file") from None
    except (OSError, *_BROKEN, *_ALSO_BROKEN) as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        message = f"{asked} is damaged or no archive: {str(error)[:100] or type(error).__name__}"
        step = "Get it again; tar.gz, tar.xz, tar.bz2, tar and zip are known."
        raise UsageError("unreadable-source", message, step) from None
    inside = list(into.iterdir())
    single = len(inside) == 1 and inside[0].is_dir() and not inside[0].is_symlink()
    return inside[0] if single else into


def _place(entry: _Entry, target: Path, into: Path, links: list[tuple[Path, str]], asked: str) -> None:
    if entry.kind == "folder":
        target.mkdir(parents=True, exist_ok=True)
        return
    if entry.kind == "link":
        links.append((target, entry.link))
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if entry.kind == "hardlink":
        source = _linked(entry, into, asked)
        with source.open("rb") as reading, target.open("xb") as writing:
            shutil.copyfileobj(reading, writing)
        target.chmod(source.stat().st_mode & 0o777)
        return
    assert entry.content is not None
    with target.open("xb") as writing:
        shutil.copyfileobj(entry.content, writing, 1 << 20)
    if target.stat().st_size != entry.size:
        raise EOFError(f"{entry.name[:80]} is cut off")
    target.chmod(0o755 if entry.executable else 0o644)


def _linked(entry: _Entry, into: Path, asked: str) -> Path:
    """The file that a hard link means, which came before it."""
    source = into / _safe_name(entry.link, asked)
    if not source.is_file():
        raise _unsafe(asked, f"{entry.name[:80]!r} is a link to what is not in it")
    return source


def _place_link(target: Path, text: str, into: Path, asked: str) -> None:
    """Below a link no link is made: it would come to lie where that one leads."""
    if not 0 < len(os.fsencode(text)) <= _LONGEST:
        raise _unsafe(asked, f"{target.name[:80]!r} is a link to nothing that has a name")
    if any(parent.is_symlink() for parent in target.parents if parent != into and into in parent.parents):
        raise _unsafe(asked, f"{target.name[:80]!r} lies below a link")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.symlink_to(text)


def _safe_name(name: str, asked: str) -> PurePosixPath:
    """A name as a path below the folder. Raises UsageError ``unsafe-source``."""
    path = PurePosixPath(name)
    drive = len(name) > 1 and name[1] == ":"
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or drive:
        raise _unsafe(asked, f"{name[:80]!r} would lie outside of it")
    if len(path.parts) > DEEPEST or len(name) > _LONGEST or any(len(os.fsencode(part)) > 255 for part in path.parts):
        raise _unsafe(asked, f"{name[:80]!r}... lies too deep")
    return path


def _unsafe(asked: str, what: str) -> UsageError:
    step = "No archive of bitsandbytes is like that: get it from where it is published."
    return UsageError("unsafe-source", f"{asked} is not unpacked: {what}", step)


# ---- readers ---------------------------------------------------------------------------------------------------


class _Bounded:
    """A stream that ends where a bomb would begin: tarfile reads a header into memory, however long it says it is."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._left = stream, MOST_BYTES + _HEADERS

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise ValueError(f"it is larger than {MOST_BYTES >> 20} MB")
        return data


def _entries(stream: IO[bytes], asked: str) -> Iterator[_Entry]:
    start = stream.read(6)
    stream.seek(0)
    if start.startswith(_ZIP):
        yield from _zip_entries(stream, asked)
    elif start.startswith(_GZIP):
        yield from _tar_entries(gzip.GzipFile(fileobj=stream), asked)
    elif start.startswith(_BZIP2):
        import bz2  # a Python can have been built without it

        yield from _tar_entries(bz2.BZ2File(stream), asked)
    elif start.startswith(_XZ):
        yield from _tar_entries(_Xz(stream), asked)
    else:
        yield from _tar_entries(stream, asked)


class _Xz:
    """Reads a single xz stream; lzma.LZMAFile knows no limit of memory, and whoever packed it says what it takes."""

    def __init__(self, stream: IO[bytes]) -> None:
        import lzma  # a Python can have been built without it

        self._stream, self._decoder = stream, lzma.LZMADecompressor(memlimit=_MEMORY)
        self._broken = lzma.LZMAError

    def read(self, size: int) -> bytes:
        parts, left = [], size
        while left > 0 and not self._decoder.eof:
            fresh = self._stream.read(1 << 16) if self._decoder.needs_input else b""
            if self._decoder.needs_input and not fresh:
                raise EOFError("it is cut off")
            try:
                parts.append(self._decoder.decompress(fresh, left))
            except self._broken as error:
                raise ValueError(str(error)) from None
            left -= len(parts[-1])
        return b"".join(parts)


def _tar_entries(stream: object, asked: str) -> Iterator[_Entry]:
    bounded = _Bounded(cast(IO[bytes], stream))
    with tarfile.open(fileobj=cast(IO[bytes], bounded), mode="r|") as tar:
        for member in tar:
            yield _tar_entry(tar, member, asked)
            tar.members.clear()  # type: ignore[attr-defined]  # else it keeps them all


def _tar_entry(tar: tarfile.TarFile, member: tarfile.TarInfo, asked: str) -> _Entry:
    if member.isdir():
        return _Entry(member.name, "folder", 0)
    if member.issym():
        return _Entry(member.name, "link", 0, link=member.linkname)
    if member.islnk():
        return _Entry(member.name, "hardlink", 0, link=member.linkname)
    if not member.isreg() or member.issparse() or member.size < 0:
        raise _unsafe(asked, f"{member.name[:80]!r} is neither a file nor a folder nor a link")
    content = tar.extractfile(member)
    return _Entry(member.name, "file", member.size, bool(member.mode & 0o100), content=content)


def _zip_entries(stream: IO[bytes], asked: str) -> Iterator[_Entry]:
    with zipfile.ZipFile(stream) as archive:
        members = archive.infolist()
        budget = Budget(asked)  # before anything is unpacked
        for member in members:
            budget.take(member.file_size)
        for member in members:
            yield _zip_entry(archive, member, asked)


def _zip_entry(archive: zipfile.ZipFile, member: zipfile.ZipInfo, asked: str) -> _Entry:
    if member.is_dir():
        return _Entry(member.filename, "folder", 0)
    if member.flag_bits & 1:
        raise _unsafe(asked, f"{member.filename[:80]!r} is encrypted")
    mode = member.external_attr >> 16
    kind = mode & 0o170000
    if kind == 0o120000:
        if member.file_size > _LONGEST:
            raise _unsafe(asked, f"{member.filename[:80]!r} is a link that is too long")
        return _Entry(member.filename, "link", 0, link=os.fsdecode(archive.read(member)))
    if kind not in (0, 0o100000):
        raise _unsafe(asked, f"{member.filename[:80]!r} is neither a file nor a folder nor a link")
    return _Entry(member.filename, "file", member.file_size, bool(mode & 0o100), content=archive.open(member))
