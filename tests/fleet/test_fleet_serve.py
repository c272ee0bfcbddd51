"""How bundles leave the desk: real clients at a real server, and a folder that others can damage."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import socket
import struct
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from bnbenv.bundle.archive import Writer, written_beside
from bnbenv.bundle.manifest import File, Manifest
from bnbenv.errors import Failed, InputError
from bnbenv.fleet.model import Content
from bnbenv.fleet.serve import CLIENTS, outgoing, part, put_shared, read_address, serving

CONFIG = b'[envs.bnb]\ntorch = "*"\n'
SIZE = 3 << 20


@pytest.fixture
def bundle(tmp_path: Path) -> Callable[..., Content]:
    """``bundle("one", config=...)``: a bundle with nothing to install in it, and some megabytes."""

    def make(name: str, config: bytes = CONFIG) -> Content:
        texts = {"bnbenv.toml": config, "files/torch-1.0-py3-none-any.whl": os.urandom(SIZE)}
        files = tuple(File(path, len(data), hashlib.sha256(data).hexdigest()) for path, data in texts.items())
        path = tmp_path / f"{name}.tar"
        with written_beside(path) as stream:
            writer = Writer(stream, Manifest("0.1.0", "0.13.9", True, (), files))
            for file in files:
                writer.add(file, io.BytesIO(texts[file.path]))
            writer.close()
        data = path.read_bytes()
        return Content("a" * 12, str(path), hashlib.sha256(data).hexdigest(), len(data), {})

    return make


def loaded(url: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """What urllib gets, as Ansible's get_url does."""
    request = urllib.request.Request(url, headers={name.replace("_", "-"): value for name, value in headers.items()})
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read()


def test_it_serves_twenty_while_one_hangs_and_one_goes_away(bundle: Callable[..., Content], tmp_path: Path) -> None:
    one, two = bundle("one"), bundle("two")
    with serving([one, two], "127.0.0.1") as delivery:
        assert delivery.how == "http"
        place, parts = delivery.place, urlsplit(delivery.place)
        silent = socket.create_connection((parts.hostname or "", parts.port or 0))
        silent.sendall(b"GET /")
        stuck = socket.create_connection((parts.hostname or "", parts.port or 0))
        stuck.sendall(f"GET {parts.path}/{one.sha256}.tar HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        stuck.recv(100)  # and nothing more, while the server sends megabytes
        for _ in range(3):
            gone = socket.create_connection((parts.hostname or "", parts.port or 0))
            gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
            gone.sendall(f"GET {parts.path}/{one.sha256}.tar HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            gone.recv(100)
            gone.close()
        with ThreadPoolExecutor(20) as pool:
            asked = [(one, two)[number % 2] for number in range(20)]
            found = list(pool.map(lambda content: loaded(f"{place}/{content.sha256}.tar"), asked))
        for content, (status, headers, data) in zip(asked, found, strict=True):
            assert (status, headers["Content-Length"]) == (200, str(content.size))
            assert hashlib.sha256(data).hexdigest() == content.sha256
        if shutil.which("curl"):  # which takes up what broke off
            half = tmp_path / "half.tar"
            half.write_bytes(Path(one.path).read_bytes()[: SIZE // 2])
            words = ["curl", "-sSf", "--noproxy", "*", "-C", "-", "-o", str(half), f"{place}/{one.sha256}.tar"]
            subprocess.run(words, check=True, timeout=30)
            assert half.read_bytes() == Path(one.path).read_bytes()
        before = time.monotonic()
    assert time.monotonic() - before < 5
    for left in (silent, stuck):  # both connections are ended
        left.settimeout(5)
        with contextlib.suppress(ConnectionError):
            while left.recv(1 << 20):
                pass
        left.close()
    with pytest.raises(OSError):
        socket.create_connection((parts.hostname or "", parts.port or 0), timeout=5)


def test_many_silent_clients_leave_the_desk_files_to_open(bundle: Callable[..., Content]) -> None:
    one = bundle("one")
    with serving([one], "127.0.0.1") as delivery, contextlib.ExitStack() as stack:
        parts = urlsplit(delivery.place)
        place = (parts.hostname or "", parts.port or 0)
        for _ in range(CLIENTS):
            stack.enter_context(socket.create_connection(place, timeout=30))
        with socket.create_connection(place, timeout=30) as more:
            assert more.recv(1) == b""  # not kept
        stack.close()
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError):
                assert loaded(f"{delivery.place}/{one.sha256}.tar")[0] == 200
                break
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_it_gives_out_nothing_else_and_parts_as_they_are_asked_for(bundle: Callable[..., Content]) -> None:
    one, two = bundle("one"), bundle("two")
    data = Path(one.path).read_bytes()
    with serving([one], "127.0.0.1") as first, serving([one], "127.0.0.1:0") as second:
        place = first.place
        assert first.place.rpartition("/")[2] != second.place.rpartition("/")[2]
        root = place.rpartition("/")[0]
        for url in (
            *(root, f"{root}/", place, f"{place}/", f"{root}/{one.sha256}.tar", f"{place}x/{one.sha256}.tar"),
            *(f"{place}/{two.sha256}.tar", f"{place}/one.tar", f"{place}/../{one.sha256}.tar", f"{place}/%2e%2e/a"),
            *(f"{place}/{one.sha256}.tar/", f"{place}/{one.sha256.upper()}.tar", f"{root}/%FF/{one.sha256}.tar"),
        ):
            assert loaded(url)[::2] == (404, b""), url
        url = f"{place}/{one.sha256}.tar"
        status, headers, got = loaded(url, Range="bytes=1000-1999")
        assert (status, got, headers["Content-Range"]) == (206, data[1000:2000], f"bytes 1000-1999/{len(data)}")
        assert loaded(url, Range="bytes=-10")[::2] == (206, data[-10:])
        assert loaded(url, Range=f"bytes={len(data)}-")[0] == 416
        assert loaded(url, Range="bytes=5-", If_Range='"another"')[::2] == (200, data)
        asked = urllib.request.Request(url, method="HEAD")
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(asked, timeout=30) as answer:
            assert (answer.headers["Content-Length"], answer.read()) == (str(one.size), b"")
        for method in ("POST", "PUT", "DELETE"):
            with pytest.raises(urllib.error.HTTPError) as error:
                urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
                    urllib.request.Request(url, b"x", method=method), timeout=30
                )
            assert error.value.code == 501
        Path(one.path).unlink()
        assert loaded(url)[0] == 404


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", (0, 10)),
        ("bytes=0-3", (0, 4)),
        ("bytes=4-", (4, 6)),
        ("bytes=4-99", (4, 6)),
        ("bytes=-3", (7, 3)),
        ("bytes=-99", (0, 10)),
        ("bytes=10-", None),
        ("bytes=-0", None),
        ("bytes=5-4", (0, 10)),
        ("bytes=0-1,3-4", (0, 10)),
        ("bytes=-", (0, 10)),
        ("pages=1-2", (0, 10)),
        (f"bytes={'9' * 30}-", (0, 10)),
    ],
)
def test_ranges(header: str, expected: tuple[int, int] | None) -> None:
    assert part(header, 10) == expected


def test_addresses(bundle: Callable[..., Content]) -> None:
    assert [read_address(text) for text in ("", "10.0.0.5", "10.0.0.5:80", ":80", "desk.lab", "[::1]:8", "::1")] == [
        *(("", 0), ("10.0.0.5", 0), ("10.0.0.5", 80), ("", 80), ("desk.lab", 0), ("::1", 8), ("::1", 0))
    ]
    for text in ("10.0.0.5:99999", "http://desk", "a b", "[::1", "desk:port"):
        with pytest.raises(InputError):
            read_address(text)
    assert outgoing(["127.0.0.1", "127.0.0.2"]) == "127.0.0.1"
    own = outgoing()
    assert outgoing(["127.0.0.1", own]) == outgoing(["127.0.0.1", "no.such.host.invalid"]) == own != "127.0.0.1"
    one = bundle("one")
    with pytest.raises(Failed, match="bundles cannot be served on 192"), serving([one], "192.0.2.7"):
        pass
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(Failed, match="address already in use"), serving([one], address):
            pass
    secret = bundle("secret", b'[sources]\nindexes = ["https://me:pass-word@host/simple"]\n')
    with pytest.raises(Failed, match="with a login in an address"), serving([secret], "127.0.0.1"):
        pass
    with pytest.raises(KeyboardInterrupt), serving([one], "127.0.0.1") as delivery:  # Ctrl-C in the midst
        raise KeyboardInterrupt
    assert not [thread for thread in threading.enumerate() if "serve_forever" in thread.name]
    with pytest.raises(OSError):
        loaded(f"{delivery.place}/{one.sha256}.tar")


def test_a_shared_folder_has_each_bundle_once_and_whole(bundle: Callable[..., Content], tmp_path: Path) -> None:
    one, folder = bundle("one"), tmp_path / "shared"
    with pytest.raises(Failed, match="is no folder here"):
        put_shared(one, folder)
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work")
    Path(one.path).chmod(0o644)
    target = put_shared(one, folder)
    assert target.stat().st_mode & 0o777 == 0o644, "as people have it at the desk: other users read it on the hosts"
    assert target == folder / f"{one.sha256}.tar" and target.read_bytes() == Path(one.path).read_bytes()
    before = target.stat().st_mtime_ns
    assert put_shared(one, folder).stat().st_mtime_ns == before
    for damage in (b"", target.read_bytes()[:-1] + b"x"):
        target.write_bytes(damage)
        assert put_shared(one, folder).read_bytes() == Path(one.path).read_bytes()
    target.unlink()
    os.mkfifo(target)  # who opens it waits for somebody to write into it
    putting = threading.Thread(target=put_shared, args=(one, folder), daemon=True)
    putting.start()
    putting.join(60)
    assert target.is_file() and target.read_bytes() == Path(one.path).read_bytes()
    huge = Content("a" * 12, one.path, "0" * 64, 1 << 60, {})
    with pytest.raises(Failed, match="the bundle takes") as error:
        put_shared(huge, folder)
    assert error.value.code == "no-space"
    changed = Content("a" * 12, one.path, "0" * 64, one.size, {})
    with pytest.raises(Failed, match="was damaged or changed"):
        put_shared(changed, folder)
    assert sorted(path.name for path in folder.iterdir()) == sorted([target.name, "thesis.tex"])
