"""Models by name: folders, the hub's cache on this disk, and a hub that speaks as the real one does."""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from bnbenv.errors import BnbenvError, InputError, SourceUnreachable, UsageError
from bnbenv.models.hub import open_model, weights_folder
from bnbenv.models.model import CheckpointError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONFIG = json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}).encode()
TOKEN = "hf_token0123456789token"
SHARDS = tuple(f"model-{number:05}-of-00012.safetensors" for number in range(1, 13))
LARGE = 1 << 20  # bytes of weights of one file


def weights(*names: str, padding: int = 0) -> bytes:
    """A safetensors file with a tensor for each name, and spaces at the end of its header."""
    size = LARGE // len(names)
    header = {
        name: {"dtype": "U8", "shape": [size], "data_offsets": [size * place, size * (place + 1)]}
        for place, name in enumerate(names)
    }
    text = json.dumps(header).encode() + b" " * padding
    return len(text).to_bytes(8, "little") + text + bytes(size * len(names))


class Server:
    """A hub with one model: small files lie there, large ones elsewhere (another host name), by Range requests."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {"config.json": CONFIG, "model.safetensors": weights("a", "b")}
        self.error: tuple[int, str, str] | None = None  # status, X-Error-Code, X-Error-Message of every answer
        self.needs_token = False
        self.fault: Callable[[Any, str, bytes], bool] = lambda handler, name, content: False
        self.requests: list[tuple[str, str, str | None, str | None]] = []  # host, path, token, range
        self.sent = 0
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                host = self.headers["Host"].partition(":")[0]
                token, span = self.headers.get("Authorization"), self.headers.get("Range")
                hub.requests.append((host, self.path, token, span))
                hub.answer(self, host, self.path, token, span)

            do_HEAD = do_GET

            def log_message(self, *_: object) -> None: ...

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                """Of a client that has what it wants and goes."""

        self._server = Quiet(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, handler: Any, host: str, path: str, token: str | None, span: str | None) -> None:
        head = {"X-Repo-Commit": COMMIT, "ETag": '"5"'}
        if self.error:
            status, code, message = self.error
            self.send(handler, status, {"X-Error-Code": code, "X-Error-Message": message}, b"no")
        elif self.needs_token and host == "127.0.0.1" and token != f"Bearer {TOKEN}":
            self.send(handler, 401, {"X-Error-Code": "GatedRepo"}, b"")
        elif path.startswith("/api/models/owner/name/revision/"):
            files = [{"rfilename": name} for name in self.files]
            listing = {"id": "owner/name", "sha": COMMIT, "siblings": files}
            self.send(handler, 200, {}, json.dumps(listing).encode())
        elif path.startswith("/api/models/owner/name/tree/"):
            sizes = {name: len(content) for name, content in self.files.items()}
            tree = [{"type": "file", "path": name, "size": size, "oid": "5"} for name, size in sizes.items()]
            self.send(handler, 200, {}, json.dumps(tree).encode())
        elif found := re.fullmatch(r"/owner/name/resolve/(main|v1|[0-9a-f]{40})/([\w.-]+)", path):
            name = found[2]
            if name not in self.files:
                self.send(handler, 404, {"X-Error-Code": "EntryNotFound"} | head, b"Entry not found")
            elif name.endswith(".safetensors"):
                where = f"http://localhost:{self.port}/elsewhere/{name}?signed=1"
                linked = {"X-Linked-Size": str(len(self.files[name])), "X-Linked-Etag": f'"{"e" * 64}"'}
                self.send(handler, 302, {"Location": where} | linked | head, b"")
            else:
                self.send(handler, 307, {"Location": f"/api/resolve-cache/{name}"}, b"")
        elif found := re.match(r"/(?:elsewhere|api/resolve-cache)/([\w.-]+)", path):
            self.part(handler, found[1], self.files[found[1]], span)
        else:
            self.send(handler, 401, {"X-Error-Code": "RepoNotFound"}, b"")

    def part(self, handler: Any, name: str, content: bytes, span: str | None) -> None:
        if self.fault(handler, name, content):
            return
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", span or "")
        if not found:
            self.send(handler, 200, {"ETag": '"5"', "X-Repo-Commit": COMMIT}, content)
        elif int(found[1]) >= len(content):
            self.send(handler, 416, {"Content-Range": f"bytes */{len(content)}"}, b"")
        else:
            part = content[int(found[1]) : int(found[2]) + 1]
            told = f"bytes {found[1]}-{int(found[1]) + len(part) - 1}/{len(content)}"
            self.send(handler, 206, {"Content-Range": told, "ETag": '"5"', "X-Repo-Commit": COMMIT}, part)

    def send(self, handler: Any, status: int, headers: dict[str, str], body: bytes) -> None:
        handler.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            handler.send_header(name, value)
        handler.end_headers()
        if handler.command == "GET":
            handler.wfile.write(body)
            self.sent += len(body)


@pytest.fixture
def hub() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def environ(hub: Server, tmp_path: Path) -> dict[str, str]:
    return {"HF_ENDPOINT": f"http://127.0.0.1:{hub.port}/", "HF_HOME": str(tmp_path / "home"), "UV_NO_CONFIG": "1"}


def refused(environ: dict[str, str], name: str = "owner/name", **more: Any) -> BnbenvError:
    with pytest.raises(BnbenvError) as caught:
        open_model(name, environ, **more)
    assert caught.value.next_step
    return caught.value


def cached(environ: dict[str, str], ref: str = "main", **files: bytes) -> Path:
    """What huggingface_hub leaves of a model that it loaded, with its links."""
    model = Path(environ["HF_HOME"]) / "hub" / "models--owner--name"
    snapshot = model / "snapshots" / COMMIT
    for folder in (snapshot, model / "blobs", (model / "refs" / ref).parent):
        folder.mkdir(parents=True, exist_ok=True)
    (model / "refs" / ref).write_text(COMMIT)
    for number, (name, content) in enumerate({"config__json": CONFIG, **files}.items()):
        (model / "blobs" / str(number)).write_bytes(content)
        link = snapshot / name.replace("__", ".")
        link.unlink(missing_ok=True)
        link.symlink_to(f"../../blobs/{number}")
    return snapshot


# -- over the network


def test_headers_alone_are_loaded_and_the_token_stays_with_the_hub(hub: Server, environ: dict[str, str]) -> None:
    hub.needs_token = True
    found = open_model("owner/name", {**environ, "HF_TOKEN": TOKEN + "\n"})
    assert found.tensors is not None and [one.name for one in found.tensors] == ["a", "b"]
    assert (found.source, found.config.architecture) == ("owner/name", "LlamaForCausalLM")
    assert dict(found.files) == {"model.safetensors": len(hub.files["model.safetensors"])}
    assert hub.sent < LARGE // 4
    tokens = {
        host: {token for where, _, token, _ in hub.requests if where == host} for host in ("127.0.0.1", "localhost")
    }
    assert tokens == {"127.0.0.1": {f"Bearer {TOKEN}"}, "localhost": {None}}


def test_the_login_of_a_mirror(hub: Server, environ: dict[str, str]) -> None:
    address = environ["HF_ENDPOINT"].replace("//", "//me:hunter2planted@")
    assert open_model("owner/name", {**environ, "HF_ENDPOINT": address}).tensors is not None
    logins = {(host, token) for host, _, token, _ in hub.requests}
    assert logins == {("127.0.0.1", "Basic bWU6aHVudGVyMnBsYW50ZWQ="), ("localhost", None)}
    hub.error = (500, "", "")
    error = refused({**environ, "HF_ENDPOINT": address})
    assert error.exit == 7 and "hunter2" not in error.message + error.next_step


def test_the_state_is_the_same_for_all_files(hub: Server, environ: dict[str, str]) -> None:
    open_model("owner/name", environ, "v1")
    asked = [path for _, path, _, _ in hub.requests if "/resolve/" in path]
    assert asked == [f"/owner/name/resolve/{state}" for state in ("v1/config.json", f"{COMMIT}/model.safetensors")]


def test_shards_are_read_at_the_same_time(hub: Server, environ: dict[str, str]) -> None:
    del hub.files["model.safetensors"]
    hub.files |= {shard: weights(shard[6:11]) for shard in SHARDS}
    where = {shard[6:11]: shard for shard in SHARDS}
    hub.files["model.safetensors.index.json"] = json.dumps({"weight_map": where}).encode()
    busy, most = [], []
    lock = threading.Lock()

    def slowly(handler: Any, name: str, content: bytes) -> bool:
        if name in SHARDS:
            with lock:
                busy.append(name)
                most.append(len(busy))
            time.sleep(0.05)
            with lock:
                busy.remove(name)
        return False

    hub.fault = slowly
    found = open_model("owner/name", environ)
    assert found.tensors is not None and [one.file for one in found.tensors] == list(SHARDS)
    assert max(most) > 1
    del hub.files[SHARDS[3]]
    error = refused(environ)
    assert error.code == "missing-shards" and SHARDS[3] in error.message


def test_a_long_header_takes_a_second_request(hub: Server, environ: dict[str, str]) -> None:
    hub.files["model.safetensors"] = weights("a", padding=150_000)
    assert open_model("owner/name", environ).tensors is not None
    spans = [span for host, _, _, span in hub.requests if host == "localhost"]
    assert spans[0] == "bytes=0-99999" and spans[1] is not None and spans[1].startswith("bytes=100000-")


def test_a_file_that_is_replaced_between_two_requests(hub: Server, environ: dict[str, str]) -> None:
    hub.files["model.safetensors"] = weights("a", "b", padding=300_000)

    def grow(handler: Any, name: str, content: bytes) -> bool:
        hub.files[name] = content + b" "
        return False

    hub.fault = grow
    error = refused(environ)
    assert error.exit == 7 and "replaced while it was read" in error.message


def test_a_server_that_knows_no_parts(hub: Server, environ: dict[str, str]) -> None:
    hub.files["model.safetensors"] = weights("a", padding=150_000)

    def whole(handler: Any, name: str, content: bytes) -> bool:
        hub.send(handler, 200, {}, content)
        return True

    hub.fault = whole
    found = open_model("owner/name", environ)
    assert found.tensors is not None and found.bytes == len(hub.files["model.safetensors"])


@pytest.mark.parametrize(
    ("error", "token", "code", "said"),
    [
        ((401, "GatedRepo", ""), None, "gated-model", "Accept them on the model's page"),
        ((403, "GatedRepo", ""), TOKEN, "gated-model", "Accept them on the model's page"),
        ((401, "RepoNotFound", ""), None, "no-such-model", "Check the name"),
        ((404, "RepoNotFound", ""), TOKEN, "no-such-model", "Check the name"),
        ((401, "", "Invalid credentials in Authorization header"), TOKEN, "bad-token", "hf auth login"),
        ((404, "RevisionNotFound", ""), None, "no-revision", "Check the name"),
        ((403, "", "Access to this resource is disabled."), None, "disabled-model", "another model"),
        ((403, "", "Forbidden"), TOKEN, "denied", "HF_TOKEN"),
        ((418, "", ""), None, "no-answer", "folder"),
    ],
    ids=lambda value: str(value)[:24] if isinstance(value, tuple) else "",
)
def test_a_hub_that_refuses(
    error: tuple[int, str, str], token: str | None, code: str, said: str, hub: Server, environ: dict[str, str]
) -> None:
    hub.error = error
    found = refused({**environ, **({"HF_TOKEN": token} if token else {})})
    assert found.code == code and said in found.next_step
    assert found.exit == (7 if code == "no-answer" else 1)
    assert TOKEN not in found.message + found.next_step


@pytest.mark.parametrize(
    ("files", "code", "said"),
    [
        ({"config.json": CONFIG, "pytorch_model.bin": b""}, "pickled-weights", "pytorch_model.bin"),
        ({"config.json": CONFIG, "model.fp16.safetensors": b""}, "variant-only", "fp16"),
        ({"model-Q4_K_M.gguf": b"GGUF"}, "gguf", "GGUF files only"),
        ({"adapter_config.json": b'{"base_model_name_or_path": "owner/base"}'}, "adapter", "PEFT adapter"),
        ({"README.md": b""}, "no-config", "no config.json"),
        ({"config.json": CONFIG, "model.safetensors": b"version https://git-lfs"}, "lfs-pointer", "Git LFS"),
        ({"config.json": CONFIG, "model.safetensors": b""}, "empty-file", "is empty"),
        ({"config.json": CONFIG, "model.safetensors": weights("a")[:-9]}, "truncated-safetensors", "truncated"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_model_without_weights_that_can_be_read(
    files: dict[str, bytes], code: str, said: str, hub: Server, environ: dict[str, str]
) -> None:
    hub.files = files
    found = refused(environ)
    assert found.code == code and said in found.message


def test_a_configuration_alone_and_one_that_is_none(hub: Server, environ: dict[str, str]) -> None:
    del hub.files["model.safetensors"]
    assert open_model("owner/name", environ).tensors is None
    hub.files["config.json"] = b"{"
    with pytest.raises(InputError, match=r"owner/name/config\.json"):
        open_model("owner/name", environ)


def test_faults_that_pass_are_waited_for(hub: Server, environ: dict[str, str]) -> None:
    faults = [lambda handler: hub.send(handler, 503, {}, b""), lambda handler: handler.connection.close()]

    def twice(handler: Any, name: str, content: bytes) -> bool:
        if not faults:
            return False
        handler.close_connection = True
        faults.pop()(handler)
        return True

    hub.fault = twice
    assert open_model("owner/name", environ).tensors is not None


def cut_off(handler: Any, name: str, content: bytes) -> bool:
    """The answer is announced, and ends early; each time."""
    handler.close_connection = True
    handler.send_response(206)
    handler.send_header("Content-Range", f"bytes 0-{len(content) - 1}/{len(content)}")
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content[:5])
    return True


def another_part(handler: Any, name: str, content: bytes) -> bool:
    handler.send_response(206)
    handler.send_header("Content-Range", f"bytes 7-8/{len(content)}")
    handler.send_header("Content-Length", "2")
    handler.end_headers()
    handler.wfile.write(b"xx")
    return True


def less_than_it_says(handler: Any, name: str, content: bytes) -> bool:
    handler.send_response(206)
    handler.send_header("Content-Range", f"bytes 0-{len(content) - 1}/{len(content)}")
    handler.send_header("Content-Length", "5")
    handler.end_headers()
    handler.wfile.write(content[:5])
    return True


def garbage(handler: Any, name: str, content: bytes) -> bool:
    handler.close_connection = True
    handler.wfile.write(b"\0\1\2\3 this is not HTTP\r\n\r\n")
    return True


def test_a_hub_that_sends_a_byte_now_and_then(hub: Server, environ: dict[str, str]) -> None:
    ended = threading.Event()

    def drip(handler: Any, name: str, content: bytes) -> bool:
        handler.close_connection = True
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        for place in range(len(content)):
            handler.wfile.write(content[place : place + 1])
            if ended.wait(0.05):
                break
        return True

    hub.fault = drip
    begun = time.monotonic()
    error = refused(environ, limit=0.6)
    ended.set()
    assert error.exit == 7
    assert time.monotonic() - begun < 30


@pytest.mark.parametrize("fault", [cut_off, another_part, less_than_it_says, garbage])
def test_a_server_that_does_not_answer_as_a_hub(
    fault: Callable[[Any, str, bytes], bool], hub: Server, environ: dict[str, str]
) -> None:
    hub.fault = fault
    assert refused(environ).exit == 7


def test_what_comes_with_a_redirect_is_not_read(hub: Server, environ: dict[str, str]) -> None:
    sent = 0

    def flood(handler: Any, name: str, content: bytes) -> bool:
        nonlocal sent
        handler.send_response(302)
        handler.send_header("Location", f"http://localhost:{hub.port}/nowhere")
        handler.send_header("Content-Length", str(1 << 50))
        handler.end_headers()
        while sent < 1 << 30:
            sent += handler.wfile.write(bytes(1 << 20))
        return True

    hub.fault = flood
    with pytest.raises(CheckpointError, match="no model"):
        open_model("owner/name", environ, limit=30)
    assert sent < 1 << 28


def test_a_hub_that_is_not_there(environ: dict[str, str]) -> None:
    error = refused({**environ, "HF_ENDPOINT": "http://127.0.0.1:9"})
    assert error.exit == 7 and "connection refused" in error.message and "folder" in error.next_step


# -- the cache, folders and settings


def test_the_cache_comes_before_the_hub(hub: Server, environ: dict[str, str]) -> None:
    snapshot = cached(environ, model__safetensors=weights("cached"))
    found = open_model("owner/name", environ)
    assert found.tensors is not None and found.tensors[0].name == "cached" and found.source == "owner/name"
    assert weights_folder("owner/name", environ) == snapshot
    assert weights_folder("owner/name", environ, COMMIT) == snapshot
    assert not hub.requests
    assert open_model("owner/name", environ, "v1").tensors != found.tensors  # of which the cache knows nothing


def test_a_cache_that_was_filled_in_part(hub: Server, environ: dict[str, str]) -> None:
    cached(environ)
    assert open_model("owner/name", environ).tensors is not None and hub.requests
    for variable in ("HF_HUB_OFFLINE", "BNBENV_OFFLINE", "TRANSFORMERS_OFFLINE"):
        assert open_model("owner/name", {**environ, variable: "1"}).tensors is None
    assert open_model("owner/name", {**environ, "HF_ENDPOINT": "http://127.0.0.1:9"}).tensors is None
    with pytest.raises(CheckpointError) as caught:
        weights_folder("owner/name", environ)
    assert caught.value.next_step == "Download them: hf download owner/name"
    cached(environ, "v1", model__safetensors__index__json=b'{"weight_map": {"a": "b.safetensors"}}')
    with pytest.raises(CheckpointError) as caught:
        weights_folder("owner/name", environ, "v1")
    assert caught.value.code == "missing-shards" and caught.value.next_step.endswith("owner/name --revision v1")
    assert refused({**environ, "HF_HUB_OFFLINE": "1"}).code == "missing-shards"


DOWNLOAD = """
import sys
from huggingface_hub import HfApi, snapshot_download
found = HfApi().get_safetensors_metadata("owner/name")
print(sorted(found.weight_map))
print(snapshot_download("owner/name", revision=sys.argv[1]))
"""


@pytest.mark.real
@pytest.mark.xdist_group("models-5")
def test_a_cache_that_the_library_itself_filled(models_python: Path, hub: Server, environ: dict[str, str]) -> None:
    """huggingface_hub takes the server for a hub, and what it leaves on the disk is read here."""
    own = {**os.environ, **environ, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TQDM_DISABLE": "1"}
    done = subprocess.run([models_python, "-c", DOWNLOAD, "v1"], env=own, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    names, folder = done.stdout.splitlines()
    assert names == "['a', 'b']"
    hub.requests.clear()
    assert weights_folder("owner/name", environ, "v1") == Path(folder)
    found = open_model("owner/name", environ, "v1")
    assert found.tensors is not None and [one.name for one in found.tensors] == ["a", "b"]
    assert not hub.requests


def test_offline_and_not_in_the_cache(hub: Server, environ: dict[str, str]) -> None:
    error = refused({**environ, "HF_HUB_OFFLINE": "yes"})
    assert isinstance(error, SourceUnreachable) and "HF_HUB_OFFLINE forbids" in error.message
    assert "hf download owner/name" in error.next_step and not hub.requests


def test_where_the_cache_and_the_token_are(hub: Server, environ: dict[str, str], tmp_path: Path) -> None:
    snapshot = cached({"HF_HOME": str(tmp_path / "other" / "huggingface")}, model__safetensors=weights("a"))
    hub.needs_token = True
    for own in (
        {"HF_HUB_CACHE": "$BASE/huggingface/hub", "BASE": str(tmp_path / "other")},
        {"HUGGINGFACE_HUB_CACHE": str(tmp_path / "other" / "huggingface" / "hub")},
        {"XDG_CACHE_HOME": str(tmp_path / "other"), "HF_HOME": ""},
    ):
        assert weights_folder("owner/name", {**environ, **own}) == snapshot
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "token").write_text(TOKEN)
    assert open_model("owner/name", environ).tensors is not None
    assert refused({**environ, "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}).code == "gated-model"
    assert refused({**environ, "HF_TOKEN": "a\tb"}).code == "bad-token"


def test_folders_come_first(hub: Server, environ: dict[str, str], tmp_path: Path) -> None:
    folder = cached(environ, model__safetensors=weights("here"))
    found = open_model(str(folder), environ)
    assert found.tensors is not None and found.source == str(folder)
    assert weights_folder(str(folder), environ) == folder
    for name in ("./none", str(tmp_path / "none"), "~/none-here", "a/b/c"):
        assert refused(environ, name).code == "no-folder"
    with pytest.raises(UsageError, match="no revisions"):
        open_model(str(folder), environ, "main")
    assert not hub.requests


@pytest.mark.parametrize("name", ["", "a--b", "owner/..", "owner/na me", "x.git", "http://127.0.0.1/owner/name", "ü/ö"])
def test_names_that_are_none(name: str, environ: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        open_model(name, environ)
    with pytest.raises(UsageError, match="revision"):
        open_model("owner/name", environ, "../main")
