"""Wheels whose libraries may be larger than memory: unpacked to a temporary file, read from afar piece by piece."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO

from bnbenv.matrix.installed import mapped_stream
from bnbenv.matrix.remote import READ_LIMIT, RemoteFile
from bnbenv.matrix.wheel import DAMAGE, Wheel

LARGEST = 4 << 30  # bytes of one library
LARGEST_WHEEL = 16 << 30  # bytes of all libraries of a wheel, unpacked
_IN_MEMORY = 32 << 20
_BOMB = 200  # a library that unpacks to more times its packed size holds nothing: real ones stay below 20
_PIECES = (1 << 18, 1 << 23)  # bytes that are fetched at a time: at first, and at most


class StreamedFile(RemoteFile):
    """A remote file that is read mostly in order: only the last piece that came is kept.

    ``RemoteFile`` keeps all, and so refuses to fetch much. Pieces grow as long as each follows the one before.
    ``limit`` is the most of one read, in bytes; what reads members raises it once the directory is read, of which each
    entry takes ten times its size in memory.
    """

    limit = READ_LIMIT

    _piece = _PIECES[0]
    _held_to = -1

    def read(self, size: int = -1) -> bytes:
        start = self.tell()
        end = self.size if size < 0 else min(self.size, start + size)
        if end - start > self.limit:
            raise self._absurd(end - start)
        missing = self._missing(start, end)
        if missing:
            self._piece = min(self._piece * 2, _PIECES[1]) if missing[0][0] == self._held_to else _PIECES[0]
            self._parts, self.fetched = [], 0
            self._held_to = min(self.size, max(end, start + self._piece))
            self.hold([(start, self._held_to)])
        return super().read(size)


class FatWheel(Wheel):
    """A wheel whose libraries may be larger than memory, and in all larger than those of bitsandbytes and torch."""

    _left = LARGEST_WHEEL

    @contextmanager
    def unpacked(self, name: str) -> Iterator[memoryview]:
        """The bytes of a member while the body runs; large ones lie in a temporary file.

        Raises Failed (``bad-wheel``) for a member that is damaged, too large, or holds far less than it unpacks to;
        OSError where the disk is full.
        """
        size, packed = self._member(name).file_size, self._member(name).compress_size
        self._left -= size
        if size > LARGEST or self._left < 0:
            raise self._damaged(f"{name} would unpack to {size} bytes")
        if size > _IN_MEMORY and size > _BOMB * packed:
            raise self._damaged(f"{name} would unpack to {size} bytes from {packed}")
        if size <= _IN_MEMORY:
            small = io.BytesIO()
            self._unpack(name, small)
            yield memoryview(small.getvalue())
            return
        with tempfile.TemporaryFile() as large:
            self._unpack(name, large)
            large.flush()
            with mapped_stream(large) as data:
                yield memoryview(data)

    def in_order(self, names: Iterable[str]) -> list[str]:
        """Members in the order in which they lie in the file."""
        return sorted(names, key=lambda name: self._member(name).header_offset)

    def _unpack(self, name: str, target: IO[bytes]) -> None:
        """Write a member, its checksum verified; zipfile unpacks no more than the size it is said to have."""
        member = self._member(name)
        try:
            with self._zip.open(member) as stream:
                while block := stream.read(1 << 20):
                    target.write(block)
        except DAMAGE as error:
            raise self._damaged(error) from None
        if target.tell() != member.file_size:
            raise self._damaged(f"{name} ends after {target.tell()} of {member.file_size} bytes")
