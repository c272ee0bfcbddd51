"""How bundles leave the desk besides by Ansible's own copy: an HTTP server for the time of a rollout, a shared folder.

The server gives out the bundles that it was told of and nothing else, below a path that nobody can guess. Whoever loads
one compares it with the sha256 that came over Ansible's own connection.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import re
import secrets
import shutil
import socket
import socketserver
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from bnbenv.bundle.archive import file_sha256, sweep, written_beside
from bnbenv.bundle.use import config_of, open_bundle
from bnbenv.errors import Failed, InputError
from bnbenv.fleet.model import Content, Delivery
from bnbenv.progress import shown_size
from bnbenv.redact import redact

SILENCE = 60.0  # seconds that a client may keep silent
CLIENTS = 400  # connections at a time; each has two open files, and a process often has 1024
_ASKED = 3  # hosts whose routes are looked for: each name that nobody knows may take seconds
SPARE = 16 << 20  # bytes that are to stay free in a shared folder
_NOBODY = ("192.0.2.1", "2001:db8::1")  # addresses of examples, which nobody has (RFC 5737, RFC 3849)
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")


@contextlib.contextmanager
def serving(contents: Iterable[Content], address: str = "", towards: Sequence[str] = ()) -> Iterator[Delivery]:
    """The bundles can be loaded over HTTP while the body runs, from ``<sha256>.tar`` below the delivery's place.

    ``address`` is ``HOST``, ``HOST:PORT`` or ``:PORT`` of this machine; empty: a free port of the address that this
    machine has towards the hosts ``towards`` (none is known by name: towards the world). Raises InputError, Failed
    (``no-address``, ``private``).
    """
    bundles = {content.sha256: Path(content.path) for content in contents}
    for path in bundles.values():
        _check_public(path)
    name, port = read_address(address)
    name = name or outgoing(towards)
    server = _listen(name, port, bundles)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        shown = f"[{name}]" if ":" in name else name
        yield Delivery("http", f"http://{shown}:{server.server_address[1]}/{server.secret}")
    finally:
        server.stop()


def _check_public(path: Path) -> None:
    """Raises Failed where the bnbenv.toml of a bundle holds a login: HTTP has no secrets."""
    with open_bundle(path, "the bundle") as reader:
        config = config_of(reader) or ""
    if redact(config) != config:
        message = "the bundle holds bnbenv.toml with a login in an address, and HTTP would send it in the clear"
        raise Failed("private", message, "Use --content copy, or put the login into ~/.netrc on the hosts.")


def read_address(text: str) -> tuple[str, int]:
    """Host and port; an empty host and port 0 where they are not named. Raises InputError. Pure."""
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\[\]:/\s]*))(?::([0-9]{1,5}))?", text)
    bare = re.fullmatch(r"[0-9A-Fa-f]*:[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*", text)
    if bare:
        return text, 0
    if found is None or int(found[3] or 0) > 65535:
        expected = f'expected an address of this machine such as "10.0.0.5" or "10.0.0.5:8080", found "{text[:60]}"'
        raise InputError("--content", "http", expected)
    return found[1] or found[2], int(found[3] or 0)


def outgoing(towards: Sequence[str] = ()) -> str:
    """The address of this machine that packets to some hosts would carry. None is sent. Raises Failed.

    A head node has one for its cluster and another for the world. Names that only ssh knows lead nowhere, and the world
    it is. In a closed network there may be no route to that: there the machine's own name tells.
    """
    near = [list(_sources(name)) for name in towards[:_ASKED]]
    for found in (one for sources in near for one in sources if _is_reached(one)):
        return found
    if near and all(near):  # all of them are this very machine
        return near[0][0]
    for name in (*_NOBODY, socket.gethostname()):
        for found in filter(_is_reached, _sources(name)):
            return found
    message = "no address of this machine is known that hosts can reach: it has no route to them"
    raise Failed("no-address", message, "Name one: --content http:ADDRESS, or use --content copy")


def _sources(name: str) -> Iterator[str]:
    """The addresses that packets to a name would come from: connecting a UDP socket has the kernel look for the route,
    and nothing else."""
    with contextlib.suppress(OSError, UnicodeError):  # the latter: a name that no name can be
        for family, kind, _, _, place in socket.getaddrinfo(name, 9, type=socket.SOCK_DGRAM):
            with contextlib.suppress(OSError), socket.socket(family, kind) as asked:
                asked.connect(place)
                yield str(asked.getsockname()[0])


def _is_reached(address: str) -> bool:
    """A link-local one is said of one interface alone, and on loopback nobody else reaches this machine."""
    return not address.startswith(("fe80:", "127.")) and address != "::1"


def _listen(name: str, port: int, bundles: Mapping[str, Path]) -> _Server:
    try:
        family = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)[0][0]
        return _Server(name, port, family, bundles)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        what = f"{name} port {port}" if port else name
        message = f"bundles cannot be served on {what} ({reason.lower()})"
        raise Failed("no-address", message, "Name an address of this machine: --content http:ADDRESS[:PORT]") from None


class _Server(socketserver.ThreadingTCPServer):
    """A thread a client, so that one that hangs keeps nobody waiting."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = os.name != "nt"
    request_queue_size = 128

    def __init__(self, name: str, port: int, family: int, bundles: Mapping[str, Path]) -> None:
        self.address_family = family
        self.secret = secrets.token_urlsafe(24)
        self.bundles = bundles
        self._open: set[Any] = set()
        super().__init__((name, port), _Handler)

    def verify_request(self, request: Any, client_address: Any) -> bool:
        return len(self._open) < CLIENTS

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away; the one that loads tells what it lacks."""

    def stop(self) -> None:
        """No connection is left open."""
        self.shutdown()
        self.server_close()
        for request in list(self._open):
            with contextlib.suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    server_version = "bnbenv"
    sys_version = ""
    timeout = SILENCE

    def log_message(self, *words: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        sha256 = self._wanted()
        path = self.server.bundles.get(sha256) if sha256 else None
        try:
            stream = path.open("rb") if path else None
        except OSError:
            stream = None
        if stream is None:
            self._head(404, {"Content-Length": "0"})
            return
        with stream:
            size = os.fstat(stream.fileno()).st_size
            span = part(self.headers.get("Range", ""), size) if self._unchanged(f'"{sha256}"') else (0, size)
            if span is None:
                self._head(416, {"Content-Length": "0", "Content-Range": f"bytes */{size}"})
                return
            first, length = span
            headers = {"Content-Type": "application/x-tar", "Content-Length": str(length), "ETag": f'"{sha256}"'}
            if length < size:
                headers["Content-Range"] = f"bytes {first}-{first + length - 1}/{size}"
            self._head(206 if length < size else 200, {**headers, "Accept-Ranges": "bytes"})
            if body and length:
                self.wfile.flush()
                self.connection.sendfile(stream, first, length)

    def _wanted(self) -> str:
        """The sha256 that is asked for; empty where the path is another."""
        secret, _, name = self.path.removeprefix("/").partition("/")
        known = hmac.compare_digest(secret.encode(), self.server.secret.encode())
        found = re.fullmatch(r"([0-9a-f]{64})\.tar", name)
        return found[1] if known and found else ""

    def _unchanged(self, tag: str) -> bool:
        """Whether a range may be given: RFC 9110 has it ignored where the client holds a part of something else."""
        return self.headers.get("If-Range", tag) == tag

    def _head(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


def part(header: str, size: int) -> tuple[int, int] | None:
    """First byte and length of what a Range header asks for; None: it begins after the end. Pure.

    What is no single range of bytes asks for all, as RFC 9110 (14.2) has it.
    """
    found = _RANGE.fullmatch(header.strip())
    if not found or found.groups() == ("", "") or (found[1] and found[2] and int(found[2]) < int(found[1])):
        return 0, size
    if not found[1]:  # the last so many
        length = min(int(found[2]), size)
        return (size - length, length) if length else None
    first = int(found[1])
    if first >= size:
        return None
    last = min(int(found[2] or size - 1), size - 1)
    return first, last - first + 1


def put_shared(content: Content, folder: Path) -> Path:
    """Have a bundle in a folder that hosts see, as ``<sha256>.tar``; returns its path there.

    One that is there is compared with its sha256, and replaced where it is damaged. Nothing else there is touched.
    Raises Failed (``no-folder``, ``no-space``, ``cannot-write``).
    """
    target = folder / f"{content.sha256}.tar"
    if not folder.is_dir():
        raise Failed("no-folder", f"{folder} is no folder here", "Mount it, or name another one: --content shared:DIR")
    try:
        if _is(target, content):
            return target
        sweep(target)
        free = shutil.disk_usage(folder).free
        if free < content.size + SPARE:
            message = f"the bundle takes {shown_size(content.size)}, and {shown_size(free)} are free in {folder}"
            raise Failed("no-space", message, "Free some space there: bundles that no rollout uses can be deleted.")
        source = Path(content.path)
        with source.open("rb") as stream, written_beside(target, source.stat().st_mode & 0o777) as out:
            shutil.copyfileobj(stream, out, 1 << 20)
            if file_sha256(out) != content.sha256:
                raise Failed("changed", f"{source} was damaged or changed", "Run it again: it is then made anew.")
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise Failed("cannot-write", f"{folder} cannot be written ({reason})", "See who may write into it.") from None
    return target


def _is(path: Path, content: Content) -> bool:
    if not path.is_file():  # what somebody put there in its place may be a pipe, which nobody writes into
        return False
    with path.open("rb") as stream:
        return os.fstat(stream.fileno()).st_size == content.size and file_sha256(stream) == content.sha256
