"""A remote file that is read in parts by HTTP range requests, or whole where the server knows no parts.

Servers are not believed: a part has to be the one that was asked for, of a file that is the same in every answer.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from bnbenv.errors import Failed, SourceUnreachable
from bnbenv.matrix.faults import reason

if TYPE_CHECKING:
    import requests

TIMEOUT = (10.0, 60.0)  # seconds to connect, and between bytes
TAIL = 1 << 13  # bytes asked for first: the directory of a small wheel, which stands at its end
READ_LIMIT = 1 << 24  # bytes of one read that was not announced: the directory of torch takes a megabyte
WHOLE_LIMIT = 1 << 28  # bytes of a file that is taken whole where there are no parts, and of all parts of one
TRIES = 4  # times that a part is asked for the rest of, as long as each brings some of it
GAP = 1 << 11  # bytes that are fetched along rather than making two requests of one
_BLOCK = 1 << 18
_NO_SUFFIX = frozenset({400, 405, 416, 501})  # answers of servers that serve parts, though not "the last n bytes"
_SPAN = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", re.ASCII)

Got = Callable[[int], None]  # told of every block that arrives, in bytes; what it raises ends the reading


def nobody(size: int) -> None:
    """Tells nobody of a block."""


class RemoteFile(io.RawIOBase):
    """A remote file; it can be sought, and ``hold`` fetches what is about to be read.

    ``url`` is never shown, since it may hold credentials; ``name`` is. ``fetched`` is the number of bytes that came.
    Raises SourceUnreachable where the server does not answer or ends too early; Failed: ``no-ranges`` where it serves
    neither parts nor a file of at most ``WHOLE_LIMIT`` bytes, ``changed`` where the file became another one,
    ``bad-wheel`` where more is asked for than such a file can need.
    """

    def __init__(
        self,
        session: requests.Session,
        url: str,
        name: str,
        got: Got = nobody,
        timeout: tuple[float, float] = TIMEOUT,
    ) -> None:
        super().__init__()
        self._session, self._url, self._name, self._got, self._timeout = session, url, name, got, timeout
        self._position = 0
        self._parts: list[tuple[int, bytes]] = []  # where each begins, in order; they do not overlap
        self._mark: str | None = None  # what tells this state of the file from others
        self.size = -1
        self.fetched = 0
        self._open()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        if base + offset < 0:
            # Of a file too short for its directory, zipfile looks before the start, and takes an OSError for "no zip".
            kind = OSError if whence == io.SEEK_END else ValueError
            raise kind("position before the start of the file")
        self._position = base + offset
        return self._position

    def read(self, size: int = -1) -> bytes:
        end = self.size if size < 0 else min(self.size, self._position + size)
        start, pieces = self._position, []
        if start >= end:
            return b""
        missing = self._missing(start, end)
        if sum(last - first for first, last in missing) > READ_LIMIT:
            raise self._absurd(end - start)
        self.hold(missing)
        for begin, part in self._parts:
            if begin < end and begin + len(part) > start:
                pieces.append(part[max(0, start - begin) : end - begin])
        self._position = end
        return b"".join(pieces)

    def hold(self, spans: Iterable[tuple[int, int]]) -> None:
        """Fetch what is missing of some spans (start, end), in as few requests as is sensible."""
        wanted: list[tuple[int, int]] = []
        for start, end in sorted(spans):
            if wanted and start <= wanted[-1][1] + GAP:
                wanted[-1] = (wanted[-1][0], max(end, wanted[-1][1]))
            else:
                wanted.append((start, end))
        for span in wanted:
            for start, end in self._missing(max(0, span[0]), min(span[1], self.size)):
                self._parts.append((start, self._fetch(start, end)))
                self._parts.sort(key=lambda part: part[0])

    def held(self) -> int:
        """The number of bytes that need not be fetched any more."""
        return sum(len(part) for _, part in self._parts)

    def sha256(self) -> str:
        """The hash of the whole file, which has to be held."""
        digest = hashlib.sha256()
        for _, part in self._parts:
            digest.update(part)
        return digest.hexdigest()

    def _missing(self, start: int, end: int) -> list[tuple[int, int]]:
        found = []
        for begin, part in self._parts:
            if start >= end or begin >= end:
                break
            if begin > start:
                found.append((start, begin))
            start = max(start, begin + len(part))
        return [*found, (start, end)] if start < end else found

    def _open(self) -> None:
        """Learn the size. A server that knows no parts sends all: then that is taken, and nothing else asked for."""
        import requests

        data = bytearray()
        try:
            if not self._ask(f"bytes=-{TAIL}", data, None, TAIL):
                self._ask("bytes=0-0", data, 0, 1)
                data.clear()
        except requests.RequestException:  # it broke off after the size was told
            data.clear()
        tail = max(0, self.size - TAIL)
        if data:
            self._parts = [(0 if len(data) == self.size else tail, bytes(data))]
        self.hold([(tail, self.size)])

    def _fetch(self, start: int, end: int) -> bytes:
        """A part; where the connection breaks off, the rest of it is asked for."""
        import requests

        if self.fetched + end - start > WHOLE_LIMIT:
            raise self._absurd(end - start)
        data, before, fault = bytearray(), -1, ""
        for _ in range(TRIES):
            if len(data) in (before, end - start):  # the last one brought nothing, or it is there
                break
            before = len(data)
            try:
                self._ask(f"bytes={start + len(data)}-{end - 1}", data, start + len(data), end - start)
            except requests.RequestException as error:
                fault = f" ({reason(error)})"
        if len(data) != end - start:
            raise SourceUnreachable(
                "short-answer", f"the server sent {len(data)} of {end - start} bytes of {self._name}{fault}", _AGAIN
            )
        return bytes(data)

    def _ask(self, span: str, data: bytearray, start: int | None, limit: int) -> bool:
        """One request; what comes is added to ``data``, up to ``limit`` bytes. ``start`` is None for the tail.

        False where the server knows no tails.
        """
        import requests

        headers = {"Range": span, "Accept-Encoding": "identity"}
        try:
            with self._session.get(self._url, headers=headers, timeout=self._timeout, stream=True) as answer:
                if start is None and answer.status_code in _NO_SUFFIX:
                    return False
                if answer.status_code == 200 and self.size < 0:
                    self._whole(answer, data)
                    return True
                self._check(answer, start, start + limit - len(data) if start is not None else None)
                self._take(answer, data, limit)
                return True
        except requests.RequestException as error:
            if self.size >= 0:
                raise
            raise SourceUnreachable(
                "no-answer", f"{self._name} cannot be read: {reason(error)}", "Check the network and try again."
            ) from None

    def _check(self, answer: requests.Response, start: int | None, end: int | None) -> None:
        """Whether an answer is the part that was asked for, of the file that it was at first."""
        status = answer.status_code
        if self.size >= 0 and status in (200, 416):
            raise self._changed()
        if status == 416:
            raise Failed("bad-wheel", f"{self._name} cannot be read: it is empty", "Download the file again.")
        if status >= 400:
            step = {401: _LOGIN, 403: _LOGIN, 404: "Check the address.", 410: "Check the address."}.get(status, _AGAIN)
            raise SourceUnreachable("no-file", f"the server answers {status} for {self._name}", step)
        found = _SPAN.fullmatch(answer.headers.get("Content-Range", ""))
        if status != 206 or not found or answer.headers.get("Content-Encoding", "identity") != "identity":
            raise Failed(
                "no-ranges",
                f"the server of {self._name} does not serve parts of files",
                "Download the file and measure it from the disk.",
            )
        first, last, size = map(int, found.groups())
        mark = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
        if self.size >= 0 and (size != self.size or mark != self._mark):
            raise self._changed()
        if start is None:  # the tail; all of a file that is smaller
            start, end = max(0, size - TAIL), size
        if first != start or not first <= last < min(size, end or size):
            raise SourceUnreachable("other-part", f"the server sends another part of {self._name} than was asked for")
        self.size, self._mark = size, mark

    def _whole(self, answer: requests.Response, data: bytearray) -> None:
        length = answer.headers.get("Content-Length", "")
        encoded = answer.headers.get("Content-Encoding", "identity") != "identity"
        if encoded or (length.isdigit() and int(length) > WHOLE_LIMIT):
            raise self._too_large()
        self._take(answer, data, WHOLE_LIMIT, whole=True)
        if length.isdigit() and len(data) != int(length):
            message = f"the server sent {len(data)} of {length} bytes of {self._name}"
            raise SourceUnreachable("short-answer", message, _AGAIN)
        self.size = len(data)

    def _take(self, answer: requests.Response, data: bytearray, limit: int, whole: bool = False) -> None:
        for block in answer.iter_content(_BLOCK):
            data += block
            self.fetched += len(block)
            self._got(len(block))
            if len(data) > limit:
                if whole:
                    raise self._too_large()
                raise SourceUnreachable("long-answer", f"the server sends more of {self._name} than was asked for")

    def _changed(self) -> Failed:
        return Failed("changed", f"{self._name} was replaced on the server while it was read", _AGAIN)

    def _too_large(self) -> Failed:
        return Failed(
            "no-ranges",
            f"the server of {self._name} does not serve parts of files, and it is larger than {WHOLE_LIMIT >> 20} MiB",
            "Download the file and measure it from the disk.",
        )

    def _absurd(self, size: int) -> Failed:
        message = f"{self._name} cannot be read: it asks for {size} bytes at once, which no such wheel needs"
        return Failed("bad-wheel", message, "Download the file again.")


_AGAIN = "Try again later."
_LOGIN = "Check the address, and whether the server wants a login."
