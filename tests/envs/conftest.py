"""A package index that runs in a thread: what the tests of sources and of uv ask, with every kind of misbehaviour."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import ssl
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from bnbenv.process import Command, Finished, SystemRunner

USER, PASSWORD = "reader", "pa55-w0rd"
LOGIN = f"{USER}:{PASSWORD}"
TOKEN = "t0ken-in-a-link"


def make_wheel(
    folder: Path, project: str, version: str, requires: tuple[str, ...] = (), more: Mapping[str, str] = {}
) -> Path:
    """A tiny pure-Python wheel that installs; its contents depend on its name alone. ``more`` are files beside."""
    info = f"{project}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {project}\nVersion: {version}\n"
    files = {
        **more,
        f"{project}.py": f"VERSION = '{version}'\n",
        f"{info}/METADATA": metadata + "".join(f"Requires-Dist: {one}\n" for one in requires),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b'=').decode()},"
        f"{len(text)}\n"
        for name, text in files.items()
    )
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{project}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name), text)  # a fixed time stamp: the same bytes each time
    return path


@dataclass
class IndexServer:
    """The server. ``url(kind)`` is the address of an index of a kind:

    ``simple`` PEP 503, ``json`` PEP 691 · ``auth`` wants the login, for its files too, ``token`` a token · ``login-
    in-links`` writes a login and a token into its links · ``links`` a plain page of links · ``drop`` hangs up,
    ``flaky`` the first time only · ``slow`` sends nothing for 30 s · ``trickle`` never ends · ``throttled`` has files
    that come at 1 MB/s · ``garbage`` a login page with status 200 · ``cut`` broken JSON · ``huge`` 25 MB · ``loop``
    redirects to itself · ``status-403`` and the like.

    ``file_faults`` is what happens to the next requests for wheels, one each: ``cut`` half of it, ``stall`` half of it
    and then nothing, ``other`` other bytes, ``short`` half of it as if that were all, or a status (``503``); empty:
    nothing.
    """

    wheels: Path
    scheme: str = "http"
    port: int = 0
    requests: list[tuple[str, bool]] = field(default_factory=list)  # path, and whether a login came with it
    ending: threading.Event = field(default_factory=threading.Event)
    file_faults: Iterator[str] = field(default_factory=lambda: iter(()))

    def url(self, kind: str, login: str = "") -> str:
        return f"{self.scheme}://{login + '@' if login else ''}localhost:{self.port}/{kind}"

    def add(self, project: str, version: str, requires: tuple[str, ...] = ()) -> Path:
        return make_wheel(self.wheels, project, version, requires)


class _Handler(BaseHTTPRequestHandler):
    index: IndexServer  # set on a subclass for each server

    def log_message(self, *words: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.removeprefix("http://index.invalid")  # asked as a proxy
        login = self.headers.get("Authorization", "")
        self.index.requests.append((path, bool(login)))
        kind, _, rest = path.partition("?")[0].strip("/").partition("/")
        wanted = {"auth": LOGIN, "private": LOGIN, "token": f"{TOKEN}:"}.get(kind)
        if wanted and login != "Basic " + base64.b64encode(wanted.encode()).decode():
            return self.answer(401, "text/plain", b"who are you?")
        misbehave = getattr(self, "kind_" + kind.replace("-", "_"), None)
        if misbehave:
            return misbehave(path)
        if kind.startswith("status-"):
            return self.answer(int(kind.removeprefix("status-")), "text/html", b"<h1>no</h1>")
        if kind in ("files", "private"):
            wheel = self.index.wheels / unquote(rest)
            return self.file(wheel.read_bytes()) if wheel.is_file() else self.answer(404)
        self.page(kind, rest.strip("/"))

    def file(self, body: bytes) -> None:
        fault = next(self.index.file_faults, "")
        if fault.isdecimal():
            return self.answer(int(fault))
        if fault in ("other", "short"):
            body = body[::-1] if fault == "other" else body[: len(body) // 2]
        sent = len(body) // 2 if fault in ("cut", "stall") else len(body)
        self.answer(200, "application/zip", body, sent)
        if fault == "stall":
            self.index.ending.wait(30)

    def page(self, kind: str, project: str) -> None:
        wheels = [
            one
            for one in sorted(self.index.wheels.iterdir())
            if kind == "links" or one.name.replace("_", "-").startswith(project + "-")
        ]
        if not wheels:
            return self.answer(404)
        links = {
            wheel.name: (self.link(kind, wheel.name), hashlib.sha256(wheel.read_bytes()).hexdigest())
            for wheel in wheels
        }
        if kind == "json":
            files = [{"filename": name, "url": url, "hashes": {"sha256": sha}} for name, (url, sha) in links.items()]
            body = json.dumps({"meta": {"api-version": "1.1"}, "name": project, "files": files})
            return self.answer(200, "application/vnd.pypi.simple.v1+json", body.encode())
        lines = [f'<a href="{url}#sha256={sha}">{name}</a><br>' for name, (url, sha) in links.items()]
        self.answer(200, "text/html", "\n".join(["<!DOCTYPE html><body>", *lines]).encode())

    def link(self, kind: str, name: str) -> str:
        quoted = name.replace("+", "%2B")
        if kind == "login-in-links":
            return f"{self.index.url('private', LOGIN)}/{quoted}?token={TOKEN}"
        return f"/{ {'auth': 'private', 'throttled': 'slowfile'}.get(kind, 'files') }/{quoted}"

    def kind_drop(self, path: str) -> None:
        self.connection.close()

    def kind_flaky(self, path: str) -> None:
        if [one for one, _ in self.index.requests].count(path) == 1:
            return self.connection.close()
        self.page("simple", path.strip("/").partition("/")[2])

    def kind_slow(self, path: str) -> None:
        self.index.ending.wait(30)

    def kind_trickle(self, path: str) -> None:
        self.send_response(200)
        self.end_headers()
        while not self.index.ending.wait(0.05):
            self.wfile.write(b"<!-- still here -->")

    def kind_slowfile(self, path: str) -> None:
        data = (self.index.wheels / unquote(path.rpartition("/")[2])).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        for begin in range(0, len(data), 1 << 17):
            self.wfile.write(data[begin : begin + (1 << 17)])
            self.index.ending.wait(0.1)

    def kind_garbage(self, path: str) -> None:
        self.answer(200, "text/html", b"<html><a href='/login'>Please log in</a></html>")

    def kind_cut(self, path: str) -> None:
        self.answer(200, "application/vnd.pypi.simple.v1+json", b'{"files": [{"filename": "tor')

    def kind_huge(self, path: str) -> None:
        self.answer(200, "text/html", b" " * (25 << 20))

    def kind_loop(self, path: str) -> None:
        self.send_response(302)
        self.send_header("Location", path)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def answer(self, status: int, content_type: str = "text/plain", body: bytes = b"", sent: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:sent])


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *words: object) -> None:
        pass  # clients that give up are the point of some tests


def _serving(index: IndexServer, context: ssl.SSLContext | None = None) -> Iterator[IndexServer]:
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"index": index}))
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        index.scheme = "https"
    index.port = server.server_address[1]
    index.wheels.mkdir(exist_ok=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield index
    index.ending.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def index(tmp_path: Path) -> Iterator[IndexServer]:
    """A package index on plain HTTP; see IndexServer."""
    yield from _serving(IndexServer(tmp_path / "served"))


@pytest.fixture
def tls_index(tmp_path: Path) -> Iterator[tuple[IndexServer, Path]]:
    """The same on HTTPS, with the certificate that has to be trusted for it."""
    import shutil
    import subprocess

    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is missing, which makes the certificate of the test server")
    cert, key = tmp_path / "ca.pem", tmp_path / "key.pem"
    kind = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    role = ["-addext", "basicConstraints=critical,CA:FALSE"]  # uv takes no authority's certificate for a server's
    command = [openssl, "req", *kind, *names, *role, "-keyout", key, "-out", cert]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    for served in _serving(IndexServer(tmp_path / "served"), context):
        yield served, cert


@pytest.fixture
def wheel_maker() -> Callable[..., Path]:
    """``make_wheel(folder, project, version, requires=(), more={})``."""
    return make_wheel


@dataclass(frozen=True)
class RealUv:
    """The installed uv, with nothing of this machine's configuration of uv and pip, and a cache of its own."""

    binary: str
    folder: Path

    def __call__(self, *words: str, changes: Mapping[str, str | None], cwd: Path | None = None) -> Finished:
        foreign = {name: None for name in os.environ if name.startswith(("UV_", "PIP_"))}
        own = {"UV_CACHE_DIR": str(self.folder / "cache"), "XDG_CONFIG_HOME": str(self.folder / "none")}
        own |= {"UV_HTTP_RETRIES": "0", "UV_PYTHON_DOWNLOADS": "never"}
        command = Command((self.binary, *words), 120, {**foreign, **own, **changes}, str(cwd or self.folder))
        return SystemRunner().run(command)


@pytest.fixture
def real_uv(tmp_path: Path) -> RealUv:
    """Runs the real uv: ``real_uv("pip", "compile", ..., changes=sources.uv_environment())``."""
    from uv import find_uv_bin

    return RealUv(str(find_uv_bin()), tmp_path)


H200 = "uuid=GPU-1 cc=9.0 memory=150754820096 name=NVIDIA H200"


@dataclass(frozen=True)
class Host:
    """The files of a Linux host below a folder, and a stand-in for its NVML library."""

    root: Path
    stub: Any

    def driver(
        self, module: str, library: str | None = None, named: bool = True, gpus: tuple[str, ...] = (H200,)
    ) -> dict[str, str]:
        """Load a kernel module beside a library; returns the environment of programs on that host.

        ``named``: the library's file tells its version, as in driver packages; else only NVML does. ``gpus`` are what
        NVML answers for.
        """
        self.write(
            "/proc/driver/nvidia/version", f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {module}  Thu Jan 1\n"
        )
        library = library or module
        told = "".join(f"gpu {gpu}\n" for gpu in gpus)
        text = f"driver {library}\nnvml 13.{library}\n{told}" + ("" if library == module else "init 18\n")
        environ: dict[str, str] = self.stub.environment(text, file_version=library if named else None)
        return {**environ, "BNBENV_SYSROOT": str(self.root)}

    def gpu(self, bus: str, name: str, uuid: str) -> None:
        self.write(f"/proc/driver/nvidia/gpus/{bus}/information", f"Model: \t\t {name}\nGPU UUID: \t {uuid}\n")

    def write(self, name: str, text: str) -> None:
        path = self.root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def host(tmp_path: Path, nvml_stub: Any) -> Host:
    return Host(tmp_path / "host", nvml_stub)
