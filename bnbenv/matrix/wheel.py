"""A wheel as a zip file, on this disk or behind HTTP range requests, read member by member within limits."""

from __future__ import annotations

import hashlib
import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from bnbenv.errors import Failed, SourceUnreachable

if TYPE_CHECKING:
    import requests

MEMBER_LIMIT = 1 << 29  # bytes of one unpacked member; the largest native library so far is a tenth of it
READ_AHEAD = 1 << 16
TIMEOUT = (10.0, 60.0)  # seconds to connect, and between bytes
_HEADER_ROOM = 1 << 10  # bytes of the header before a member: its name and extra fields
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, struct.error, NotImplementedError, RuntimeError, ValueError)


class RangeFile(io.RawIOBase):
    """A remote file that is read by HTTP range requests; it can be sought.

    ``url`` is never shown, since it may hold credentials; ``name`` is. Raises SourceUnreachable where the server does
    not answer, Failed (``no-ranges``) where it does not serve parts of files.
    """

    def __init__(self, session: requests.Session, url: str, name: str) -> None:
        super().__init__()
        self._session, self._url, self._name = session, url, name
        self._position = 0
        # The directory of a zip file stands at its end: one request gives the size and, mostly, the directory.
        self._held, self.size = self._fetch(f"bytes=-{READ_AHEAD}", READ_AHEAD)
        self._held_from = self.size - len(self._held)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        if base + offset < 0:
            raise ValueError("position before the start of the file")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        if self._position >= self.size:
            return 0
        skipped = self._position - self._held_from
        if not 0 <= skipped < len(self._held):
            self.hold(self._position, len(buffer))
            skipped = 0
        data = self._held[skipped : skipped + len(buffer)]
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def hold(self, start: int, size: int) -> None:
        """Fetch a part in one request, for the reads that follow."""
        size = min(size, self.size - start)
        if start < 0 or size <= 0:
            return
        self._held, _ = self._fetch(f"bytes={start}-{start + size - 1}", size)
        self._held_from = start
        if len(self._held) != size:
            raise SourceUnreachable(
                "short-answer", f"the server sent {len(self._held)} of {size} bytes of {self._name}"
            )

    def _fetch(self, span: str, limit: int) -> tuple[bytes, int]:
        """The bytes of a span, at most ``limit``, and the size of the whole file."""
        import requests

        headers = {"Range": span, "Accept-Encoding": "identity"}
        try:
            with self._session.get(self._url, headers=headers, timeout=TIMEOUT, stream=True) as answer:
                if answer.status_code >= 400 and answer.status_code != 416:
                    raise SourceUnreachable(
                        "no-file", f"the server answers {answer.status_code} for {self._name}", "Try again later."
                    )
                total = answer.headers.get("Content-Range", "").rpartition("/")[2]
                if answer.status_code != 206 or not total.isdigit():
                    raise Failed(
                        "no-ranges",
                        f"the server of {self._name} does not serve parts of files",
                        "Download the file and measure it from the disk.",
                    )
                data = bytearray()
                for block in answer.iter_content(1 << 20):
                    data += block
                    if len(data) > limit:
                        raise SourceUnreachable("long-answer", f"the server sends more of {self._name} than asked for")
                return bytes(data), int(total)
        except requests.RequestException as error:
            raise SourceUnreachable(
                "no-answer", f"{self._name} cannot be read: {type(error).__name__}", "Check the network and try again."
            ) from None


class Wheel:
    """An open wheel. ``filename`` and ``sha256`` identify it, ``size`` is in bytes.

    ``hold`` is told which part of the stream (start, size) is about to be read.
    """

    def __init__(
        self, stream: BinaryIO, filename: str, sha256: str, size: int, hold: Callable[[int, int], None] | None = None
    ) -> None:
        self.filename, self.sha256, self.size = filename, sha256, size
        self._hold = hold
        try:
            self._zip = zipfile.ZipFile(stream)
        except _DAMAGE as error:
            raise self._damaged(error) from None

    def names(self) -> list[str]:
        """The paths of its members."""
        return self._zip.namelist()

    def read(self, name: str, limit: int = MEMBER_LIMIT) -> bytes:
        """The bytes of a member, its checksum verified.

        Raises Failed: ``bad-wheel`` where it is absent, damaged, or unpacks to more than ``limit`` bytes.
        """
        try:
            member = self._zip.getinfo(name)
        except KeyError:
            raise Failed("bad-wheel", f"{self.filename} holds no {name}") from None
        if member.file_size > limit:
            raise self._damaged(f"{name} would unpack to {member.file_size} bytes, the limit is {limit}")
        if self._hold:
            self._hold(member.header_offset, _HEADER_ROOM + min(member.compress_size, limit))
        try:
            # Asked for a number of bytes, zipfile unpacks no more than that; it compares the checksum at the end.
            with self._zip.open(member) as stream:
                data = stream.read(member.file_size + 1)
        except _DAMAGE as error:
            raise self._damaged(error) from None
        if len(data) != member.file_size:
            raise self._damaged(f"{name} ends after {len(data)} of {member.file_size} bytes")
        return data

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
def remote_wheel(session: requests.Session, url: str, filename: str, sha256: str) -> Iterator[Wheel]:
    """A wheel behind a URL, read in parts; ``sha256`` is the index's word for it.

    Raises SourceUnreachable; Failed: ``no-ranges``, ``bad-wheel``.
    """
    with RangeFile(session, url, filename) as remote, io.BufferedReader(remote, READ_AHEAD) as stream:
        yield Wheel(stream, filename, sha256, remote.size, remote.hold)
