"""A wheel as a zip file, on this disk or behind HTTP range requests, read member by member within limits."""

from __future__ import annotations

import hashlib
import itertools
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from bnbenv.errors import Failed
from bnbenv.matrix.remote import TIMEOUT, Got, RemoteFile, nobody

if TYPE_CHECKING:
    import requests

MEMBER_LIMIT = 1 << 29  # bytes of one unpacked member; the largest native library so far is a tenth of it
UNPACK_LIMIT = 1 << 30  # bytes of all members that are read of a wheel; a fifth of it is what they have
WORTH = 1.3  # a wheel is taken whole, and its hash checked, where its parts would be hardly less
# Of other ways zipfile unpacks all that it has read, however little was asked for: a kilobyte of bzip2 is a gigabyte.
_PACKED = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
_HEADER_ROOM = 1 << 10  # bytes of the header before a member: its name and extra fields
# What zipfile raises for what is no sound zip file.
DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, struct.error, NotImplementedError, RuntimeError, ValueError)


class Wheel:
    """An open wheel. ``filename`` and ``sha256`` identify it, ``size`` is in bytes.

    ``checked`` says whether its bytes were held against ``sha256``; of one that is read in parts that is the index's
    word. ``metadata_sha256`` is the index's word for its METADATA, where it gives one (PEP 658).
    """

    def __init__(
        self,
        stream: BinaryIO,
        filename: str,
        sha256: str,
        size: int,
        remote: RemoteFile | None = None,
        metadata_sha256: str | None = None,
    ) -> None:
        self.filename, self.sha256, self.size = filename, sha256, size
        self.metadata_sha256 = metadata_sha256
        self.checked = remote is None
        self._remote, self._unpacked = remote, 0
        try:
            self._zip = zipfile.ZipFile(stream)
        except DAMAGE as error:
            raise self._damaged(error) from None
        self._check_whole()

    def names(self) -> list[str]:
        """The paths of its members."""
        return self._zip.namelist()

    def fetch(self, names: Iterable[str]) -> None:
        """Load members that are about to be read, in few requests; nothing for a wheel on this disk.

        Where they are nearly all of the wheel, it is loaded whole, so that its sha256 can be checked.
        Raises SourceUnreachable; Failed: ``bad-hash``, ``changed``, ``bad-wheel``.
        """
        if self._remote is None or self.checked:
            return
        starts = sorted({member.header_offset for member in self._zip.infolist()} | {self._zip.start_dir})
        following = dict(itertools.pairwise(starts))
        spans = []
        for name in names:
            member = self._member(name)
            start = member.header_offset
            # The header before a member may be longer than the directory's word for it; the next one is the limit.
            end = min(following.get(start, self.size), start + _HEADER_ROOM + member.compress_size)
            spans.append((start, end))
        self._remote.hold([(0, self.size)] if self._hardly_less(spans) else spans)
        self._check_whole()

    def read(self, name: str, limit: int = MEMBER_LIMIT) -> bytes:
        """The bytes of a member, its checksum verified.

        Raises Failed: ``bad-wheel`` where it is absent, damaged, or unpacks to more than ``limit`` bytes.
        """
        member = self._member(name)
        if member.file_size > limit:
            raise self._damaged(f"{name} would unpack to {member.file_size} bytes, the limit is {limit}")
        self._unpacked += member.file_size
        if self._unpacked > UNPACK_LIMIT:
            raise self._damaged(f"what is read of it would unpack to more than {UNPACK_LIMIT} bytes")
        self.fetch([name])
        try:
            # Asked for a number of bytes, zipfile inflates no more than that; it compares the checksum at the end.
            with self._zip.open(member) as stream:
                data = stream.read(member.file_size + 1)
        except DAMAGE as error:
            raise self._damaged(error) from None
        if len(data) != member.file_size:
            raise self._damaged(f"{name} ends after {len(data)} of {member.file_size} bytes")
        return data

    def _member(self, name: str) -> zipfile.ZipInfo:
        try:
            member = self._zip.getinfo(name)
        except KeyError:
            raise Failed("bad-wheel", f"{self.filename} holds no {name}") from None
        if not 0 <= member.header_offset < self._zip.start_dir:  # no file has such a place
            raise self._damaged(f"its directory says that {name} lies at {member.header_offset}")
        if member.compress_type not in _PACKED:
            raise self._damaged(f"{name} is packed as members of wheels are not (method {member.compress_type})")
        return member

    def _hardly_less(self, spans: list[tuple[int, int]]) -> bool:
        remote = self._remote
        parts = sum(max(0, end - start) for start, end in spans) + (remote.held() if remote else 0)
        return self.size <= WORTH * parts

    def _check_whole(self) -> None:
        remote = self._remote
        if remote is None or self.checked or remote.held() < self.size:
            return
        if remote.sha256() != self.sha256:
            raise Failed("bad-hash", f"{self.filename} is not the file that the index promises", "Try again.")
        self.checked = True

    def _damaged(self, because: object) -> Failed:
        return Failed("bad-wheel", f"{self.filename} cannot be read: {because}", "Download the file again.")


@contextmanager
def local_wheel(path: Path) -> Iterator[Wheel]:
    """A wheel on this disk, with its sha256 computed. Raises Failed (``bad-wheel``), OSError."""
    with path.open("rb") as stream:
        digest = hashlib.sha256()
        while block := stream.read(1 << 20):
            digest.update(block)
        yield Wheel(stream, path.name, digest.hexdigest(), stream.tell())


@contextmanager
def remote_wheel(
    session: requests.Session,
    url: str,
    filename: str,
    sha256: str,
    metadata_sha256: str | None = None,
    got: Got = nobody,
    timeout: tuple[float, float] = TIMEOUT,
) -> Iterator[Wheel]:
    """A wheel behind a URL, read in parts; ``sha256`` and ``metadata_sha256`` are the index's word for it.

    ``got`` is told of every block that arrives. Raises SourceUnreachable; Failed: ``no-ranges``, ``changed``,
    ``bad-wheel``, ``bad-hash``.
    """
    with RemoteFile(session, url, filename, got, timeout) as remote:
        yield Wheel(cast(BinaryIO, remote), filename, sha256, remote.size, remote, metadata_sha256)
