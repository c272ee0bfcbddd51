"""The examples for images and cloud machines, carried out word by word in a clean Debian (a chroot)."""

from __future__ import annotations

import ensurepip
import json
import os
import platform
import shlex
import shutil
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from uv import find_uv_bin

from bnbenv.envs.pipconfig import pip_config_files, read_pip_config
from bnbenv.paths import Sysroot

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = ROOT / "scripts" / "examples"
FACTS = ROOT / "tests/hosts/linux-x86_64__absent__nogpu__glibc2.36/facts.json"
PASSED_ON = ("PIP_", "UV_", "SSL_CERT_", "REQUESTS_CA", "CURL_CA", "http_", "https_", "no_", "HTTP_", "HTTPS_", "NO_")
ENTER = """\
set -e
mount -t proc proc "$0/proc"; mount --rbind /dev "$0/dev"
for place in $BINDS; do mkdir -p "$0$place"; mount --bind "$place" "$0$place"; done
exec chroot "$0" env -i "$@"
"""

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("debian")]


@dataclass
class Debian:
    """A clean Debian with this machine's configuration of packages in it. ``debian("words")`` runs them by sh."""

    folder: Path
    environ: dict[str, str]
    binds: list[Path]
    cwd: str = "/"

    def __call__(self, command: str | list[str], code: int = 0, **more: str) -> str:
        words = command if isinstance(command, list) else ["/bin/sh", "-c", command]
        variables = [f"{name}={value}" for name, value in {**self.environ, **more}.items()]
        inside = [*variables, "env", "-C", self.cwd, *words]
        ended = subprocess.run(
            ["unshare", "--mount", "--pid", "--fork", "--kill-child", "bash", "-c", ENTER, self.folder, *inside],
            env={**os.environ, "BINDS": " ".join(map(str, self.binds))},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        said = ended.stdout + ended.stderr
        assert ended.returncode == code, f"{command}: exit {ended.returncode}\n{said}"
        assert "Traceback" not in said
        return said

    def path(self, absolute: str) -> Path:
        return self.folder / absolute.lstrip("/")

    def take(self, source: Path) -> None:
        """A file of this machine, at the same place."""
        self.path(str(source)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, self.path(str(source)))


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with bnbenv's own wheel, as an index would have it."""
    folder = tmp_path_factory.mktemp("wheels")
    subprocess.run([find_uv_bin(), "build", "--quiet", "--wheel", "--out-dir", folder, ROOT], check=True, timeout=120)
    return folder


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory, wheels: Path, synced: Any) -> Iterator[Callable[[], Debian]]:
    """Makes a clean Debian. The next one has what the last one had loaded, and is on the same file system."""
    archive = ROOT / ".test-env/debian.tar"
    if not archive.exists():
        pytest.skip("no clean Debian is here (scripts/test.sh makes one where it is root and has mmdebstrap)")
    if platform.machine() != "x86_64" or subprocess.run(["unshare", "--mount", "true"], check=False).returncode:
        pytest.skip("mounts cannot be made here, or this is no x86-64 machine")
    base = tmp_path_factory.mktemp("debian")
    made: list[Path] = []

    def make() -> Debian:
        folder = base / str(len(made))
        folder.mkdir()
        subprocess.run(["tar", "-xf", archive, "-C", folder], check=True, timeout=60)
        if made and (made[-1] / "cache").exists():
            (made[-1] / "cache").rename(folder / "cache")
        made.append(folder)
        return configured(Debian(folder, {}, [wheels]), wheels)

    yield make
    shutil.rmtree(base, ignore_errors=True)


def configured(debian: Debian, wheels: Path) -> Debian:
    """With this machine's configuration of pip, uv and certificates."""
    home = Path.home()
    pip = read_pip_config(os.environ, Sysroot(), home)
    indexes = [Path(url.removeprefix("file://")) for url in (*pip.extra_index_urls, pip.index_url or "")]
    for place in (*map(Path, pip.find_links), *(index.parent for index in indexes if index.is_dir())):
        if place.is_absolute() and place.is_dir():  # the files of an index lie beside its pages
            debian.binds.append(place)
    files = [*pip_config_files(os.environ, Sysroot(), home, ()), Path("/etc/uv/uv.toml"), home / ".config/uv/uv.toml"]
    for file in (*files, Path("/etc/resolv.conf"), Path("/etc/hosts")):
        if file.is_file():
            debian.take(file)
    passed = {name: value for name, value in os.environ.items() if name.startswith(PASSED_ON)}
    bundle = os.environ.get("SSL_CERT_FILE") or pip.cert
    if bundle:  # not at its place: the package ca-certificates writes its own there
        shutil.copy(bundle, debian.path("/machine.pem"))
        passed |= dict.fromkeys(("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"), "/machine.pem")
    debian.environ |= passed | {
        "HOME": str(home),
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "PIP_FIND_LINKS": f"{wheels} {' '.join(pip.find_links)}",
        "PIP_CACHE_DIR": "/cache/pip",
        "UV_CACHE_DIR": "/cache/uv",
        "DEBIAN_FRONTEND": "noninteractive",
    }
    return debian


def instructions(text: str) -> list[tuple[str, str]]:
    """A Dockerfile's instructions: the word and what stands after it."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ").splitlines()
    return [(line.partition(" ")[0], line.partition(" ")[2].strip()) for line in joined]


def build(debian: Debian, context: Path) -> list[str]:
    """What ``docker build`` does with the example; returns the entry point and its default command."""
    entry: list[str] = []
    for word, rest in instructions((EXAMPLES / "Dockerfile").read_text()):
        if word == "RUN":
            debian(rest)
        elif word == "COPY":
            *names, target = rest.split()
            place = debian.path(os.path.normpath(os.path.join(debian.cwd, target)))  # noqa: PTH118
            place.mkdir(parents=True, exist_ok=True)
            for name in names:
                shutil.copy(context / name, place)
        elif word == "WORKDIR":
            debian.cwd = rest
            debian.path(rest).mkdir(parents=True, exist_ok=True)
        elif word in ("ENV", "ARG"):
            name, sign, value = rest.partition("=")
            if sign:
                debian.environ[name] = value.replace("$PATH", debian.environ["PATH"])
        elif word in ("ENTRYPOINT", "CMD"):
            entry += json.loads(rest)
        else:
            assert (word, rest) == ("FROM", "debian:bookworm-slim")
    return entry


@pytest.mark.usefixtures("synced")  # which skips where no CPU build of torch can be had
def test_the_dockerfile(clean: Callable[[], Debian], tmp_path: Path) -> None:
    debian = clean()
    for file in (ROOT / "scripts/bootstrap.sh", EXAMPLES / "entrypoint.sh", FACTS):
        shutil.copy(file, tmp_path)
    (tmp_path / "bnbenv.toml").write_text("[envs.bnb]\n")
    *entry, default = build(debian, tmp_path)
    assert default == "python"
    assert debian.path("/srv/train/.venv-bnb").is_symlink()

    # Pushed and pulled: the times of the files are whole seconds now.
    for file in debian.path("/srv/train/.bnbenv/generations").rglob("*"):
        stat = file.lstat()
        os.utime(file, (int(stat.st_atime), int(stat.st_mtime)), follow_symlinks=False)

    use = "import bitsandbytes as b, torch; print('used', b.functional.quantize_4bit(torch.ones(64, 64))[0].shape)"
    first = debian([*entry, "python", "-c", use])
    assert "bnb: first start of what was made from recorded facts" in first
    assert "bnb: running kernels on cpu" in first
    assert "kept generation 1" in first
    assert "used" in first
    again = debian([*entry, "cat", "bnbenv.toml"])
    assert "running kernels" not in again
    assert "[envs.bnb]" in again

    # On a machine for which it was not made it starts nothing.
    lock = debian.path("/srv/train/pylock.bnb.toml")
    lock.write_text(lock.read_text().replace('backend = "cpu"', 'backend = "cuda"'))
    refused = debian([*entry, "echo", "started"], code=4)
    assert "entrypoint: not started" in refused
    assert "\nstarted" not in refused


def test_a_python_without_pip(clean: Callable[[], Debian], index: Any, wheel_maker: Callable[..., Path]) -> None:
    """Debian keeps venv's pip in a package of its own, and here nobody installed it."""
    debian = clean()
    shutil.copy(ROOT / "scripts/bootstrap.sh", debian.path("/root"))
    more = {
        "stand_in.py": "def main() -> None:\n    print('bnbenv 9.9')\n",
        "bnbenv-9.9.dist-info/entry_points.txt": "[console_scripts]\nbnbenv = stand_in:main\n",
    }
    wheel_maker(index.wheels, "bnbenv", "9.9", more=more)
    (pip,) = (Path(ensurepip.__file__).parent / "_bundled").glob("pip-*.whl")
    shutil.copy(pip, index.wheels)
    words = "bash /root/bootstrap.sh --tool-only"
    bare = {"PIP_CONFIG_FILE": "/dev/null", "PIP_FIND_LINKS": "", "PIP_INDEX_URL": ""}
    assert "as root: apt-get install python3-venv" in debian(words, code=1, **bare)
    away = debian(words, code=7, **{**bare, "PIP_INDEX_URL": index.url("status-503")})
    assert "passed over a source of packages: " in away
    assert "bnbenv is installed: /opt/bnbenv/bin/bnbenv" in debian(
        words, **{**bare, "PIP_INDEX_URL": index.url("simple")}
    )
    assert "/simple/pip/" in [path for path, _ in index.requests]
    assert debian("bnbenv") == "bnbenv 9.9\n"


@pytest.fixture
def file_server(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """https://files.example.org with bootstrap.sh: its port and its certificate."""
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    if shutil.which("openssl") is None:
        pytest.skip("openssl is missing, which makes the certificate of the test server")
    kind = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=files.example.org", "-addext", "subjectAltName=DNS:files.example.org"]
    subprocess.run(["openssl", "req", *kind, *names, "-keyout", key, "-out", cert], check=True, capture_output=True)
    handler = partial(SimpleHTTPRequestHandler, directory=str(ROOT / "scripts"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield server.server_address[1], cert
    server.shutdown()
    server.server_close()


@pytest.mark.usefixtures("synced")
def test_the_user_data_for_cloud_init(clean: Callable[[], Debian], file_server: tuple[int, Path]) -> None:
    yaml = pytest.importorskip("yaml")
    text = (EXAMPLES / "cloud-init.yaml").read_text()
    assert text.startswith("#cloud-config\n")
    wanted = yaml.safe_load(text)
    assert set(wanted) == {"package_update", "packages", "write_files", "runcmd"}
    debian = clean()
    port, cert = file_server
    shutil.copy(cert, debian.path("/files.pem"))
    lines = [f'connect-to = "files.example.org:443:127.0.0.1:{port}"', 'cacert = "/files.pem"', 'noproxy = "*"']
    debian.path(f"{debian.environ['HOME']}/.curlrc").write_text("\n".join(lines))

    debian(f"apt-get -q update && apt-get -q -y --no-install-recommends install {shlex.join(wanted['packages'])}")
    for file in wanted["write_files"]:
        debian.path(file["path"]).parent.mkdir(parents=True, exist_ok=True)
        debian.path(file["path"]).write_text(file["content"])
    said = [debian(command) for command in wanted["runcmd"]]
    assert any("running kernels on cpu" in one for one in said)
    assert "in sync: bnb" in debian("bnbenv check --project /srv/train")
    units = list(debian.path("/etc/systemd/system").rglob("*bnbenv*"))
    assert units, "the hook for systemd"
    # A second boot of cloud-init with the same data (cloud-init clean) changes nothing.
    again = [debian(command) for command in wanted["runcmd"]]
    assert any("in sync, nothing to do: bnb" in one for one in again)
