"""Sources behind addresses: real git against a local server, tarballs, logins, and what is done when nobody answers."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from bnbenv.build.ports import Ports
from bnbenv.build.source import fetch, offered
from bnbenv.errors import BnbenvError
from bnbenv.process import Command, Finished, SystemRunner

LOGIN = "somebody:s3cret-w0rd"


@dataclass
class Server:
    """Serves a folder: ``/smart/...`` by git's own backend, ``/login/...`` too for who logs in, else plain files."""

    root: Path
    asked: list[str] = field(default_factory=list)
    port: int = 0

    def url(self, path: str, login: str = "") -> str:
        return f"http://{login}{'@' if login else ''}127.0.0.1:{self.port}/{path}"


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            server.asked.append(self.path)
            kind, _, rest = self.path.lstrip("/").partition("/")
            wanted = "Basic " + base64.b64encode(LOGIN.encode()).decode()
            if kind == "login" and self.headers.get("Authorization") != wanted:
                self._answer(401, b"", {"WWW-Authenticate": "Basic realm=x"})
            elif kind in ("smart", "login"):
                self._backend(rest)
            elif kind.isdigit():
                self._answer(int(kind), b"")
            else:
                path = server.root / self.path.partition("?")[0].lstrip("/")
                self._answer(200, path.read_bytes()) if path.is_file() else self._answer(404, b"")

        do_POST = do_GET

        def _backend(self, rest: str) -> None:
            path, _, query = rest.partition("?")
            environ = {
                **os.environ,
                "GIT_PROJECT_ROOT": str(server.root),
                "GIT_HTTP_EXPORT_ALL": "1",
                "PATH_INFO": f"/{path}",
                "QUERY_STRING": query,
                "REQUEST_METHOD": self.command,
                "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
                "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            }
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            done = subprocess.run(["git", "http-backend"], input=body, env=environ, check=True, stdout=subprocess.PIPE)
            head, _, content = done.stdout.partition(b"\r\n\r\n")
            fields = dict(line.split(": ", 1) for line in head.decode().splitlines())
            self._answer(int(fields.pop("Status", "200")[:3]), content, fields)

        def _answer(self, status: int, content: bytes, fields: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, text in (fields or {}).items():
                self.send_header(name, text)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None: ...

    return Handler


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, source_tree: Callable[..., Path], git: Callable[..., str]
) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("served")
    work = source_tree(root / "work", "0.50.1")
    git(work, "init", "-q")
    git(work, "add", "-A")
    git(work, "commit", "-qm", "all")
    git(work, "tag", "0.50.1")
    git(work, "clone", "-q", "--bare", ".", str(root / "bnb.git"))
    git(root / "bnb.git", "update-server-info")
    git(work, "archive", "--prefix=bnb/", "-o", str(root / "bnb.tar.gz"), "0.50.1")
    served = Server(root)
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler(served)) as http:
        served.port = http.server_address[1]
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield served
        http.shutdown()


@pytest.fixture
def own(bare_ports: Callable[..., Ports]) -> Ports:
    """Ports on whose way to the server no proxy stands, and no git configuration of this machine."""
    ports = bare_ports()
    return replace(
        ports, runner=Changed({"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "no_proxy": "*"})
    )


@dataclass
class Changed:
    """Runs programs for real in an environment with changes, and keeps what was run."""

    environ: dict[str, str]
    ran: list[Command] = field(default_factory=list)

    def run(self, command: Command) -> Finished:
        self.ran.append(command)
        return SystemRunner().run(replace(command, env={**self.environ, **command.env}))


class NoGit:
    """A machine without git."""

    def run(self, command: Command) -> Finished:
        raise FileNotFoundError(2, "No such file or directory", command.argv[0])


class Silent:
    """A server that says nothing until the time is over."""

    def run(self, command: Command) -> Finished:
        return Finished(command, -15, "", "", True, command.timeout)


def _everything(ports: Ports) -> str:
    """All that was written below the folder of builds."""
    files = [path for path in ports.home.rglob("*") if path.is_file()]
    return "".join(f"{path}\n{path.read_bytes().decode('latin-1')}" for path in files)


@pytest.mark.parametrize("path", ["smart/bnb.git", "bnb.git"])
def test_a_tag_over_http(server: Server, own: Ports, told: Any, path: str) -> None:
    """By git's own protocol, and from files behind a plain web server, which can give no single commit."""
    tree = fetch(server.url(path), "0.50.1", own, "")
    assert (tree.version, tree.origin.ref, tree.origin.asked) == ("0.50.1", "0.50.1", server.url(path))
    assert list(offered(server.url(path), own, "")) == ["0.50.1"]
    assert any("is not encrypted" in line for line in told.lines)
    server.asked.clear()
    again = fetch(server.url(path), "v0.50.1", own, "")
    assert again.origin == tree.origin
    assert all("info/refs" in one or "HEAD" in one or "upload-pack" in one for one in server.asked), "fetched only once"


def test_a_login_is_used_and_never_shown(server: Server, own: Ports, told: Any) -> None:
    assert fetch(server.url("login/bnb.git", LOGIN), "0.50.1", own, "").origin.asked == server.url("login/bnb.git")
    assert isinstance(own.runner, Changed)
    with pytest.raises(BnbenvError) as caught:
        fetch(server.url("login/bnb.git", "somebody:wr0ng-s3cret"), "0.50.1", own, "")
    error = caught.value
    assert (error.code, int(error.exit)) == ("access-refused", 7)
    shown = f"{error.message}{error.next_step}{error.detail}{told}{_everything(own)}"
    words = " ".join(word for command in own.runner.ran for word in command.argv)
    assert not {text for text in ("s3cret", "wr0ng") if text in shown or text in words}


@pytest.mark.parametrize(
    ("path", "code", "exit_code"),
    [
        ("login/bnb.git", "access-refused", 7),
        ("smart/nothing.git", "not-a-repository", 2),
        ("nothing.git", "not-a-repository", 2),
        ("503/bnb.git", "source-unreachable", 7),
        ("work/CMakeLists.txt", "not-a-repository", 2),
    ],
)
def test_what_is_no_repository(server: Server, own: Ports, path: str, code: str, exit_code: int) -> None:
    with pytest.raises(BnbenvError) as caught:
        fetch(server.url(path), "0.50.1", own, "")
    assert (caught.value.code, int(caught.value.exit)) == (code, exit_code), caught.value.detail


def test_a_tarball_behind_an_address(server: Server, own: Ports) -> None:
    content = (server.root / "bnb.tar.gz").read_bytes()
    url = f"{server.url('bnb.tar.gz', LOGIN)}#sha256={hashlib.sha256(content).hexdigest()}"
    tree = fetch(url, None, own, "")
    assert (tree.version, tree.origin.kind) == ("0.50.1", "tarball")
    assert tree.origin.digest == fetch(server.url("smart/bnb.git"), None, own, "").origin.digest
    server.asked.clear()
    assert fetch(url, None, replace(own, offline="BNBENV_OFFLINE"), "").origin == tree.origin
    assert server.asked == []
    assert "s3cret" not in _everything(own) + repr(tree)
    kept = next((own.home / "sources" / "tarballs").iterdir())
    kept.write_bytes(content[:-1])
    assert fetch(url, None, own, "").origin == tree.origin, "a damaged one is got anew"
    with (server.root / "large.tar.gz").open("wb") as stream:
        stream.truncate((128 << 20) + 1)
    for path, sha256, code in (
        ("large.tar.gz", "1" * 64, "source-too-large"),
        ("bnb.tar.gz", "0" * 64, "source-changed"),
        ("none.tar.gz", "1" * 64, "no-such-source"),
        ("401/x.tar.gz", "1" * 64, "access-refused"),
        ("500/x.tar.gz", "1" * 64, "source-unreachable"),
    ):
        with pytest.raises(BnbenvError) as caught:
            fetch(f"{server.url(path)}#sha256={sha256}", None, own, "")
        assert caught.value.code == code


def test_without_a_network(server: Server, own: Ports, told: Any) -> None:
    """What was fetched before is taken, and that is said; a branch only where the network is switched off."""
    url = server.url("smart/bnb.git")
    commit = fetch(url, "0.50.1", own, "").origin.commit
    fetch(url, "main", own, "")
    off = replace(own, offline="BNBENV_OFFLINE")
    server.asked.clear()
    told.lines.clear()
    asked = ["0.50.1", "v0.50.1", "main", commit, str(commit)[:8], None]
    # None: of upstream, the newest release that is here.
    found = [fetch(url if ref else None, ref, off, url).origin.commit for ref in asked]
    assert found == [commit] * len(asked)
    assert server.asked == []
    assert "as it was fetched before, since the network is off (BNBENV_OFFLINE)" in told.lines[0]
    assert offered(url, off, "") == {"0.50.1": commit}
    for source, ref in ((url, "0.50.0"), (server.url("bnb.git"), "0.50.1")):
        with pytest.raises(BnbenvError) as caught:
            fetch(source, ref, off, "")
        assert (caught.value.code, int(caught.value.exit)) == ("offline", 7)


def test_a_repository_that_does_not_answer(
    tmp_path: Path, server: Server, own: Ports, told: Any, git: Callable[..., str]
) -> None:
    """Of it, a tag that was fetched before stands; a branch may have moved."""
    url = server.url("smart/moved.git")
    shutil.copytree(server.root / "bnb.git", server.root / "moved.git")
    tree = fetch(url, "0.50.1", own, "")
    fetch(url, "main", own, "")
    shutil.rmtree(server.root / "moved.git")
    for ports, code in (
        (replace(own, runner=NoGit()), "no-git"),
        (replace(own, runner=Silent()), "source-unreachable"),
    ):
        assert fetch(url, "0.50.1", ports, "").origin == tree.origin
        assert "as it was fetched before" in told.lines[-1]
        assert offered(url, ports, "") == {"0.50.1": tree.origin.commit}
        for ref in ("main", None):  # nor is it known which release is the newest
            with pytest.raises(BnbenvError) as caught:
                fetch(url if ref else None, ref, ports, url)
            assert caught.value.code == code
            assert caught.value.next_step
    shutil.copytree(server.root / "bnb.git", server.root / "moved.git")
    next((own.home / "sources").glob("*/*.tar")).write_bytes(b"damaged")
    assert fetch(url, "0.50.1", own, "").origin == tree.origin, "a damaged one is fetched anew"


def test_nothing_of_the_surroundings_counts(
    tmp_path: Path, server: Server, own: Ports, git: Callable[..., str]
) -> None:
    """In a git hook GIT_DIR is set, and a user's configuration may have hooks, filters and templates."""
    other = tmp_path / "other"
    other.mkdir()
    git(other, "init", "-q")
    hooks, config = tmp_path / "hooks", tmp_path / "gitconfig"
    hooks.mkdir()
    for name in ("reference-transaction", "post-checkout", "post-index-change"):
        (hooks / name).write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
        (hooks / name).chmod(0o755)
    config.write_text(
        f'[core]\nhooksPath = {hooks}\nautocrlf = true\nfsmonitor = "touch {tmp_path}/ran"\n'
        f'attributesFile = {tmp_path}/attributes\n[init]\ntemplateDir = {hooks}\n[filter "x"]\nsmudge = rev\n'
    )
    (tmp_path / "attributes").write_text("* filter=x\n")
    (tmp_path / "xdg" / "git").mkdir(parents=True)
    (tmp_path / "xdg" / "git" / "attributes").write_text("* text eol=crlf\n")
    foreign = {
        "XDG_CONFIG_HOME": str(tmp_path / "xdg"),
        "GIT_DIR": str(other / ".git"),
        "GIT_INDEX_FILE": str(tmp_path / "index"),
        "GIT_TRACE": "1",
    }
    plain = fetch(server.url("smart/bnb.git"), "0.50.1", own, "")
    shutil.rmtree(own.home)
    strange = replace(
        own, environ={**own.environ, **foreign}, runner=Changed({"GIT_CONFIG_GLOBAL": str(config), **foreign})
    )
    assert fetch(server.url("smart/bnb.git"), "0.50.1", strange, "").origin == plain.origin
    folder = fetch(str(server.root / "work"), None, strange, "")
    assert (folder.origin.digest, folder.origin.commit) == (plain.origin.digest, plain.origin.commit)
    assert not (tmp_path / "ran").exists()


def test_certificates_are_those_of_the_package_sources(tmp_path: Path, server: Server, own: Ports) -> None:
    """git does not look at SSL_CERT_FILE, which a company's proxy makes everybody set."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is missing")
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    words = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    command = ["openssl", *words.split(), "-keyout", key, "-out", cert]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    content = (server.root / "bnb.tar.gz").read_bytes()
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler(server)) as http:
        http.socket = context.wrap_socket(http.socket, server_side=True)
        threading.Thread(target=http.serve_forever, daemon=True).start()
        base = f"https://127.0.0.1:{http.server_address[1]}"
        for source in (f"{base}/smart/bnb.git", f"{base}/bnb.tar.gz#sha256={hashlib.sha256(content).hexdigest()}"):
            with pytest.raises(BnbenvError) as caught:
                fetch(source, None, own, "")
            assert (caught.value.code, "not trusted" in caught.value.message) == ("source-unreachable", True)
            others = {name: text for name, text in own.environ.items() if name != "GIT_SSL_CAINFO"}
            trusting = replace(own, environ={**others, "SSL_CERT_FILE": str(cert)})
            assert fetch(source, None, trusting, "").version == "0.50.1"
        http.shutdown()


def test_ssh_is_the_users_own_and_asks_nothing(tmp_path: Path, server: Server, own: Ports) -> None:
    """Here "ssh" is a program that runs what it is given on this machine."""
    ssh, config = tmp_path / "ssh", tmp_path / "gitconfig"
    ssh.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/said\nfor last; do :; done\nexec sh -c "$last"\n')
    ssh.chmod(0o755)
    config.write_text(f"[core]\nsshCommand = {ssh} -i work.key\n")
    ports = replace(own, runner=Changed({"GIT_CONFIG_GLOBAL": str(config), "GIT_CONFIG_NOSYSTEM": "1"}))
    tree = fetch(f"somebody@host.example:{server.root}/bnb.git", "0.50.1", ports, "")
    assert (tree.version, tree.origin.asked) == ("0.50.1", f"somebody@host.example:{server.root}/bnb.git")
    said = (tmp_path / "said").read_text().splitlines()
    assert said and all(line.startswith("-i work.key -oBatchMode=yes") for line in said)


def test_a_kill_leaves_nothing_half(tmp_path: Path, server: Server, own: Ports) -> None:
    """Whatever runs of git end a fetch: nothing is taken for fetched, and the next one is whole."""

    class Killed(Exception):
        """Stands for the end of the process."""

    @dataclass
    class Ends:
        after: int

        def run(self, command: Command) -> Finished:
            done = own.runner.run(command)
            self.after -= 1
            if self.after == 0:
                raise Killed
            return done

    url, number = server.url("smart/bnb.git"), 0
    while True:
        number += 1
        try:
            tree = fetch(url, "0.50.1", replace(own, runner=Ends(number)), "")
            break
        except Killed:
            assert not list(own.home.glob("sources/*/*.tar"))
            assert not list(own.home.glob("work/tree-*"))
    assert number == 7, "it was ended at each of the six runs"
    assert tree.version == "0.50.1"
