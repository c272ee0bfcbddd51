"""Bringing files in: how large each is, and its bytes as a stream that takes up again what breaks off.

Nothing is held in memory but a block, and nothing is written but where the stream goes.
"""

from __future__ import annotations

import hashlib
import io
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from bnbenv.envs.lockfile import file_name
from bnbenv.envs.provenance import local_file
from bnbenv.envs.retry import STATUSES, Backoff
from bnbenv.errors import BnbenvError, Failed, SourceUnreachable
from bnbenv.matrix.faults import DROPPED, reason
from bnbenv.matrix.remote import RemoteFile
from bnbenv.redact import redact

if TYPE_CHECKING:
    import requests

TIMEOUT = (10.0, 60.0)  # seconds to connect, and between bytes
AGAIN = Backoff(1.0, 5)
_AT_ONCE = 8
_BLOCK = 1 << 16
_LARGE = 32 << 20  # bytes from which on it is worth a question how much is in a wheel
_STEP = "Check the network, then run it again."

Sessions = Callable[[], "requests.Session"]


@dataclass(frozen=True)
class Piece:
    """One file that is to be brought: an address, or a path on this machine, and what it has to be."""

    place: str
    sha256: str
    size: int = -1

    @property
    def shown(self) -> str:
        return redact(self.place)

    @property
    def path(self) -> Path | None:
        """The file on this machine, None where it is elsewhere."""
        return local_file(self.place)


def sizes(places: Iterable[str], sessions: Sessions) -> dict[str, int]:
    """The bytes of each file. Raises SourceUnreachable, Failed (a local file that is not there)."""
    wanted = list(dict.fromkeys(places))
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return dict(zip(wanted, pool.map(lambda place: _size(place, sessions), wanted), strict=True))


def _size(place: str, sessions: Sessions) -> int:
    path = local_file(place)
    if path is not None:
        try:
            return path.stat().st_size
        except OSError as error:
            message = f"{path} is locked and cannot be read ({(error.strerror or '').lower()})"
            raise Failed("file-gone", message, "Choose again with: bnbenv lock") from None
    import requests

    shown = redact(place)
    try:
        with sessions() as session:
            answer = session.head(place, timeout=TIMEOUT, allow_redirects=True, headers={"Accept-Encoding": "identity"})
            if answer.status_code != 200 or "Content-Length" not in answer.headers:  # some servers know GET alone
                answer = session.get(place, timeout=TIMEOUT, stream=True, headers={"Accept-Encoding": "identity"})
            _check(answer.status_code, shown)
            return int(answer.headers["Content-Length"])
    except requests.RequestException as error:
        raise _away(shown, error) from None
    except (KeyError, ValueError):
        message = f"{shown}: the server does not say how large the file is"
        raise SourceUnreachable("source-unreachable", message, "Use another index or mirror.") from None


def unpacked_sizes(wheels: Mapping[str, int], sessions: Sessions) -> dict[str, int]:
    """About the bytes of what is in each wheel; given are the sizes of the wheels.

    Of large ones the directory is read, which stands at the end; where it cannot be, and of small ones, it is guessed.
    """
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        found = pool.map(lambda one: _unpacked(one[0], one[1], sessions), wheels.items())
        return dict(zip(wheels, found, strict=True))


def _unpacked(place: str, size: int, sessions: Sessions) -> int:
    path = local_file(place)
    if path is None and size < _LARGE:
        return 3 * size
    try:
        if path is not None:
            with zipfile.ZipFile(path) as archive:
                return sum(one.file_size for one in archive.infolist())
        with sessions() as session, zipfile.ZipFile(RemoteFile(session, place, file_name(place))) as archive:
            return sum(one.file_size for one in archive.infolist())
    except (BnbenvError, OSError, zipfile.BadZipFile):
        return 2 * size


def _check(status: int, shown: str) -> None:
    if status in (200, 206):
        return
    if status in (401, 403, 407):
        message = f"{shown} refuses access (HTTP {status})"
        raise SourceUnreachable("access-refused", message, "Check the login (bnbenv.toml, ~/.netrc).")
    raise SourceUnreachable("source-unreachable", f"{shown} answers with HTTP {status}", _STEP)


def _away(shown: str, error: Exception) -> SourceUnreachable:
    return SourceUnreachable("source-unreachable", f"{shown} cannot be reached: {reason(error)}", _STEP)


class Stream(io.RawIOBase):
    """The bytes of a piece, in order. The last of them are given out only if the sha256 is right.

    ``read(n)`` gives n bytes as long as there are as many. Raises SourceUnreachable; Failed ``changed`` where the bytes
    are others than those that were locked.
    """

    def __init__(
        self,
        piece: Piece,
        sessions: Sessions,
        environ: Mapping[str, str],
        told: Callable[[int], None],
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        super().__init__()
        self._piece, self._sessions, self._told, self._sleep = piece, sessions, told, sleep
        once = environ.get("UV_HTTP_RETRIES") == "0"
        self._pauses = iter(() if once else AGAIN.pauses())
        self._digest, self._got, self._buffer = hashlib.sha256(), 0, bytearray()
        self._session: requests.Session | None = None
        self._blocks = self._open()

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        wanted = self._piece.size if size < 0 else size
        while len(self._buffer) < wanted and self._got < self._piece.size:
            self._take(self._next())
        data = bytes(self._buffer[:wanted])
        del self._buffer[:wanted]
        return data

    def close(self) -> None:
        if self._session is not None:
            self._session.close()
        super().close()

    def _take(self, block: bytes) -> None:
        self._got += len(block)
        self._digest.update(block)
        self._buffer += block
        self._told(len(block))
        if self._got > self._piece.size or (
            self._got == self._piece.size and self._digest.hexdigest() != self._piece.sha256
        ):
            message = f"{self._piece.shown} is not the file that was locked: its sha256 is another"
            raise Failed("changed", message, "See who serves it; if the new file is meant, choose again: bnbenv lock")

    def _next(self) -> bytes:
        """The next block, after as many new connections as it takes within the limit."""
        while True:
            fault: Exception | None = None
            try:
                block = next(self._blocks, b"")
                if block:
                    return block
            except Exception as error:
                if not _of_network(error) and not isinstance(error, SourceUnreachable):
                    raise
                fault = error
            pause = next(self._pauses, None)
            if self._piece.path is not None or pause is None or not _may_pass(fault):
                raise self._end(fault)
            self._sleep(pause)
            self._blocks = self._open()

    def _end(self, fault: Exception | None) -> Exception:
        if self._piece.path is not None:
            return Failed("changed", f"{self._piece.shown} is shorter than it was", "Run it again.")
        if isinstance(fault, SourceUnreachable):
            return fault
        if fault is not None:
            return _away(self._piece.shown, fault)
        return SourceUnreachable("source-unreachable", f"{self._piece.shown} ends too early", _STEP)

    def _open(self) -> Any:
        """The blocks from where the last connection ended. What fails does so when the first block is asked for."""
        path = self._piece.path
        if path is not None:
            with path.open("rb") as file:
                while block := file.read(_BLOCK):
                    yield block
            return
        if self._session is None:
            self._session = self._sessions()
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={self._got}-"} if self._got else {})
        with self._session.get(self._piece.place, stream=True, timeout=TIMEOUT, headers=headers) as answer:
            _check(answer.status_code, self._piece.shown)
            skip = self._got
            if answer.status_code == 206:
                skip -= _start(answer.headers.get("Content-Range", ""), self._got)
            for block in answer.raw.stream(_BLOCK, decode_content=False):
                rest = block[skip:] if skip else block
                skip -= len(block) - len(rest)
                if rest:
                    yield rest


def _start(content_range: str, asked: int) -> int:
    """Where a part begins: what a server says of it, which is before the byte that was asked for or at it."""
    first = content_range.removeprefix("bytes ").partition("-")[0]
    found = int(first) if first.isdecimal() else asked
    return min(found, asked)


def _of_network(error: Exception) -> bool:
    import requests

    # Raw bytes that break off raise what is below requests.
    return isinstance(error, requests.RequestException) or type(error).__module__.partition(".")[0] == "urllib3"


def _may_pass(fault: Exception | None) -> bool:
    if fault is None:
        return True  # it ended too early
    if isinstance(fault, SourceUnreachable):
        return any(f"HTTP {status}" in fault.message for status in STATUSES)
    return reason(fault) == DROPPED or "time" in reason(fault)


def blocks(url: str, sessions: Sessions) -> Iterator[bytes]:
    """The bytes of a file whose hash somebody else knows. Raises SourceUnreachable, Failed."""
    import requests

    path, shown = local_file(url), redact(url)
    try:
        if path is not None:
            with path.open("rb") as file:
                yield from iter(lambda: file.read(_BLOCK), b"")
            return
        with sessions() as session, session.get(url, stream=True, timeout=TIMEOUT) as answer:
            _check(answer.status_code, shown)
            yield from answer.iter_content(_BLOCK)
    except requests.RequestException as error:
        raise _away(shown, error) from None
    except FileNotFoundError:
        raise Failed("file-gone", f"there is no {path}") from None


def brought(piece: Piece, sessions: Sessions, environ: Mapping[str, str], told: Callable[[int], None]) -> IO[bytes]:
    """A piece as a stream to read from."""
    return Stream(piece, sessions, environ, told)  # type: ignore[return-value]


def load(piece: Piece, target: Path, sessions: Sessions, environ: Mapping[str, str]) -> None:
    """Write a piece into a new file. Raises as the stream does, OSError."""
    with target.open("xb") as out, Stream(piece, sessions, environ, lambda size: None) as stream:
        while block := stream.read(1 << 20):
            out.write(block)
