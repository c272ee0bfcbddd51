"""Files on their way into a bundle: what breaks off is taken up again, what is another file is refused."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
import requests

from bnbenv.bundle.fetch import Piece, Stream, sizes
from bnbenv.errors import BnbenvError, Failed, SourceUnreachable

DATA = os.urandom(300_000)
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def place(index: Any) -> str:
    (index.wheels / "x-1.0-py3-none-any.whl").write_bytes(DATA)
    return f"{index.url('files')}/x-1.0-py3-none-any.whl"


def read(piece: Piece, told: Any = lambda size: None, **environ: str) -> bytes:
    with Stream(piece, requests.Session, environ, told, sleep=lambda seconds: None) as stream:
        return b"".join(iter(lambda: stream.read(70_000), b""))


@pytest.mark.parametrize("faults", [(), ("cut",), ("cut", "503", "cut"), ("503", "503", "503")])
def test_it_arrives_whole(place: str, index: Any, faults: tuple[str, ...]) -> None:
    index.file_faults = iter(faults)
    passed: list[int] = []
    assert read(Piece(place, SHA256, len(DATA)), passed.append) == DATA
    assert sum(passed) == len(DATA)


@pytest.mark.parametrize(
    ("faults", "environ", "error", "sentence"),
    [
        (("other",), {}, Failed, "is not the file that was locked"),
        (("short",) * 9, {}, SourceUnreachable, "ends too early"),
        (("cut",), {"UV_HTTP_RETRIES": "0"}, SourceUnreachable, "the connection was dropped"),
        (("404",), {}, SourceUnreachable, "answers with HTTP 404"),
        (("403",), {}, SourceUnreachable, "refuses access"),
    ],
)
def test_what_does_not_arrive_is_told(
    place: str,
    index: Any,
    faults: tuple[str, ...],
    environ: dict[str, str],
    error: type[BnbenvError],
    sentence: str,
) -> None:
    index.file_faults = iter(faults)
    with pytest.raises(error, match=sentence):
        read(Piece(place, SHA256, len(DATA)), **environ)


class Blockwise:
    """A session of a server that breaks off after ``first`` bytes, and goes on from the start of that block."""

    def __init__(self, first: int, block: int) -> None:
        self.first, self.block = first, block
        self.status_code, self.headers, self.raw = 200, {"Content-Range": ""}, self

    def get(self, url: str, headers: dict[str, str], **options: Any) -> Any:
        self.start = int(headers.get("Range", "bytes=0-")[6:-1]) // self.block * self.block
        if self.start:
            self.status_code, self.headers = 206, {"Content-Range": f"bytes {self.start}-{len(DATA) - 1}/{len(DATA)}"}
        return self

    def stream(self, size: int, decode_content: bool) -> Any:
        yield DATA[self.start : None if self.start else self.first]

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *ended: object) -> None:
        pass

    def close(self) -> None:
        pass


def test_a_server_that_goes_on_from_further_back_is_understood() -> None:
    server: Any = Blockwise(100_000, 4096)
    piece = Piece("https://index.invalid/x.whl", SHA256, len(DATA))
    with Stream(piece, lambda: server, {}, lambda size: None, sleep=lambda seconds: None) as stream:
        assert stream.read() == DATA
    assert server.start == 98304


def test_sizes_are_asked_without_loading(place: str, index: Any, tmp_path: Path) -> None:
    local = tmp_path / "own.whl"
    local.write_bytes(b"12345")
    assert sizes([place, str(local), local.as_uri()], requests.Session) == {
        place: len(DATA),
        str(local): 5,
        local.as_uri(): 5,
    }
    local.unlink()
    with pytest.raises(Failed, match="is locked and cannot be read"):
        sizes([str(local)], requests.Session)
    with pytest.raises(SourceUnreachable, match="connection refused"):
        sizes(["http://127.0.0.1:9/x.whl"], requests.Session)
