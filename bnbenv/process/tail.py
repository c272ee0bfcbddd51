"""The last output of a command, of both streams in the order in which it came."""

from __future__ import annotations

from _thread import allocate_lock  # what threading.Lock is
from collections import deque
from typing import NamedTuple

LIMIT = 256 * 1024  # bytes of each stream
PIECE = 4096  # bytes up to which small writes are joined: a progress bar makes thousands of them


class _Chunk(NamedTuple):
    number: int
    data: bytearray


class Tail:
    """Keeps the last ``limit`` bytes of each stream, so that a flood on one does not push the other's error out.

    Threads may add at once.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._lock = allocate_lock()
        self._streams: dict[int, deque[_Chunk]] = {}
        self._sizes: dict[int, int] = {}
        self._number = 0
        self._last = -1  # the stream that wrote last

    def add(self, stream: int, data: bytes) -> None:
        kept = data[-self._limit :]
        with self._lock:
            chunks = self._streams.setdefault(stream, deque())
            if self._last == stream and chunks and len(chunks[-1].data) + len(kept) <= PIECE:
                chunks[-1].data.extend(kept)
            else:
                self._number += 1
                chunks.append(_Chunk(self._number, bytearray(kept)))
            self._last = stream
            size = self._sizes.get(stream, 0) + len(kept)
            while size - len(chunks[0].data) >= self._limit:
                size -= len(chunks.popleft().data)
            self._sizes[stream] = size

    def bytes(self) -> bytes:
        """All that is kept, in the order in which it came."""
        with self._lock:
            chunks = sorted(chunk for stream in self._streams.values() for chunk in stream)
            return b"".join(bytes(chunk.data) for chunk in chunks)
