"""A release that came out after this bnbenv: measured where the sources offer it, once, and kept."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bnbenv.envs.fresh import take_in
from bnbenv.envs.network import Network
from bnbenv.envs.reach import check_reach
from bnbenv.envs.sources import PackageSources, Source
from bnbenv.matrix.load import load_matrix
from bnbenv.matrix.store import Store
from bnbenv.matrix.update import LATE
from bnbenv.progress import Quiet

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the wheels that are made here are for Linux")

MACHINE = platform.machine()
PYTHON = f"cp{sys.version_info.major}{sys.version_info.minor}"
NOISE = os.urandom(1 << 16)


def make(folder: Path, library: bytes, project: str, version: str, padding: int = 0) -> str:
    """Write a wheel; returns its name."""
    own = {"bitsandbytes/libbitsandbytes_cpu.so": library, "bitsandbytes/more": NOISE * padding}
    if project == "torch":
        own = {"torch/version.py": b"cuda: Optional[str] = None\n"}
    files = {**own, f"{project}-{version}.dist-info/METADATA": f"Name: {project}\nVersion: {version}\n".encode()}
    tag = f"{PYTHON}-{PYTHON}" if project == "torch" else "py3-none"
    name = f"{project}-{version}-{tag}-manylinux_2_17_{MACHINE}.whl"
    with zipfile.ZipFile(folder / name, "w") as archive:
        for path, data in files.items():
            archive.writestr(path, data)
    return name


@pytest.fixture
def publish(index: Any, nvml_stub: Any) -> Callable[..., str]:
    """``publish("bitsandbytes", "0.99.0")``: a wheel on the index, for this platform and the CPU; returns its name."""
    library = nvml_stub.libraries["new"].read_bytes()  # any ELF library

    def publish(project: str, version: str, padding: int = 0) -> str:
        return make(index.wheels, library, project, version, padding)

    return publish


@pytest.fixture
def here(empty: Any, index: Any) -> Any:
    """A project whose only source is the index."""
    names = {name: None for name in os.environ if name.startswith(("UV_", "PIP_"))}
    own = {"UV_DEFAULT_INDEX": index.url("simple"), "PIP_CONFIG_FILE": os.devnull, "NO_PROXY": "*"}
    own |= {"BNBENV_PYTORCH_INDEX": index.url("status-404")}
    environ = {name: value for name, value in empty.environ.items() if name not in names}
    return dataclasses.replace(empty, environ={**environ, **own})


def loaded(index: Any) -> list[str]:
    """The wheels that were asked for."""
    return [path.rpartition("/")[2] for path, _ in index.requests if path.startswith("/files/")]


def test_it_is_measured_once_and_chosen(here: Any, index: Any, publish: Callable[..., str], tmp_path: Path) -> None:
    wheels = [publish("bitsandbytes", "0.99.0"), publish("torch", "99.0.0")]
    publish("bitsandbytes", "1.0.0rc1")
    words = ("solve", "--reachable", "--backend", "cpu", "--json")
    ended = here(*words, BNBENV_OFFLINE="1")
    assert (ended.code, index.requests) == (4, [])
    ended = here(*words)
    assert ended.code == 0, ended
    choice = ended.document["choice"]
    assert (choice["bitsandbytes"]["version"], choice["torch"]["version"]) == ("0.99.0", "99.0.0")
    assert "measured now: bitsandbytes 0.99.0, torch 99.0.0" in ended.stderr
    assert {line["level"] for line in ended.document["evidence"][:2]} == {"measured"}
    assert sorted(set(loaded(index))) == sorted(wheels)
    index.requests.clear()
    ended = here(*words)
    assert (ended.code, loaded(index)) == (0, [])
    assert "measured now" not in ended.stderr
    kept = load_matrix(tmp_path / "user" / "matrix")
    assert {row.filename for row in kept.bitsandbytes} - {row.filename for row in load_matrix().bitsandbytes} == {
        wheels[0]
    }


def test_one_that_cannot_be_measured_is_told_and_not_tried_each_time(
    here: Any, index: Any, publish: Callable[..., str]
) -> None:
    publish("bitsandbytes", "0.99.0")
    publish("torch", "99.0.0")
    broken = publish("bitsandbytes", "0.99.1")
    (index.wheels / broken).write_bytes(b"PK and nothing more")
    (here.root / "bnbenv.toml").write_text('[envs.bnb]\nbackend = "cpu"\n')
    for times in (1, 0):
        index.requests.clear()
        ended = here("plan", "--json")
        assert ended.code == 3, ended
        text = str(ended.document)
        assert f"passed over {broken}: {broken} cannot be read: File is not a zip file" in text
        assert "bitsandbytes 0.99.0" in text
        assert loaded(index).count(broken) == times


def test_a_lock_that_holds_it_is_good_elsewhere(
    here: Any, index: Any, publish: Callable[..., str], tmp_path: Path
) -> None:
    """Where nothing of it is known, and where its measurement ended before this platform's wheel."""
    publish("bitsandbytes", "0.99.0")
    publish("torch", "99.0.0")
    (here.root / "bnbenv.toml").write_text('[envs.bnb]\nbackend = "cpu"\n')
    assert here("lock").code == 0
    publish("bitsandbytes", "0.99.1")
    known = load_matrix(tmp_path / "user" / "matrix").bitsandbytes
    of_another = msgspec.structs.replace(
        next(row for row in known if row.version == "0.99.0"), os="windows", libc_tag=None, sha256="0" * 64
    )
    Store(tmp_path / "partly" / "matrix").add(of_another)
    for home in ("nothing", "partly"):
        ended = here("plan", "--json", BNBENV_HOME=str(tmp_path / home))
        assert ended.code == 3, ended
        assert [one["action"] for one in ended.document["actions"]] == ["stage", "verify", "switch"], home


def test_one_that_could_not_be_measured_is_tried_again_after_a_day(
    index: Any, publish: Callable[..., str], tmp_path: Path
) -> None:
    name = publish("bitsandbytes", "0.99.0")
    (index.wheels / name).write_bytes(b"PK and nothing more")
    sources = PackageSources(Source("default-index", index.url("simple"), "uv"), (), (), index.url("status-404"))
    assert [*taken(sources, tmp_path)[1]] == [name]
    failures = tmp_path / "user" / "matrix" / "unmeasured.json"
    known = json.loads(failures.read_text())
    for hours, tried in ((23, 0), (25, 1)):
        index.requests.clear()
        before = {key: {**one, "when": time.time() - hours * 3600} for key, one in known.items()}
        failures.write_text(json.dumps(before))
        assert [*taken(sources, tmp_path)[1]] == [name]
        assert loaded(index).count(name) == tried, hours


def test_what_is_older_than_all_that_is_known_is_not_measured(
    index: Any, publish: Callable[..., str], tmp_path: Path
) -> None:
    """A mirror may hold wheels of its own making."""
    publish("bitsandbytes", "0.44.99")
    publish("torch", "2.3.99")
    sources = PackageSources(Source("default-index", index.url("simple"), "uv"), (), (), index.url("status-404"))
    assert taken(sources, tmp_path) == (load_matrix(), {})
    assert loaded(index) == []


@pytest.mark.parametrize(("kind", "login"), [("auth", "reader:pa55-w0rd"), ("token", "t0ken-in-a-link"), ("flaky", "")])
def test_a_source_that_wants_a_login(
    index: Any, publish: Callable[..., str], tmp_path: Path, kind: str, login: str
) -> None:
    """The files of an index are asked for with its login, which stands in no address of theirs."""
    publish("bitsandbytes", "0.99.0")
    sources = PackageSources(Source("default-index", index.url(kind, login), "uv"), (), (), index.url("status-404"))
    grown, missed = taken(sources, tmp_path)
    assert (missed, grown.bitsandbytes[0].version) == ({}, "0.99.0")


def test_a_certificate_that_has_to_be_named(tls_index: Any, nvml_stub: Any, tmp_path: Path) -> None:
    index, cert = tls_index
    make(index.wheels, nvml_stub.libraries["new"].read_bytes(), "bitsandbytes", "0.99.0")
    default = Source("default-index", index.url("simple"), "uv")
    for home, network in {"named": Network(cert=str(cert)), "trusted": Network(insecure_hosts=("localhost",))}.items():
        sources = PackageSources(default, (), (), index.url("status-404"), network)
        grown, missed = taken(sources, tmp_path / home)
        assert (missed, grown.bitsandbytes[0].version) == ({}, "0.99.0"), home


def test_two_sources_of_a_release_are_one_row(index: Any, publish: Callable[..., str], tmp_path: Path) -> None:
    """The second has one wheel of the two that the first has."""
    tags = [f"cp3{minor}-cp3{minor}-manylinux_2_17_{MACHINE}.whl" for minor in (11, 12)]
    name = publish("torch", "99.0.0")
    for tag in tags:
        (index.wheels / f"torch-99.0.0-{tag}").write_bytes((index.wheels / name).read_bytes())
    mirror = tmp_path / "mirror" / "torch"
    mirror.mkdir(parents=True)
    (mirror / f"torch-99.0.0-{tags[1]}").write_bytes((index.wheels / name).read_bytes())
    (mirror / "index.html").write_text(f'<!DOCTYPE html><a href="torch-99.0.0-{tags[1]}">torch-99.0.0-{tags[1]}</a>')
    beside = Source("index", mirror.parent.as_uri(), "pip")
    default = Source("default-index", index.url("simple"), "uv")
    grown, missed = taken(PackageSources(default, (beside,), (), index.url("status-404")), tmp_path)
    rows = [row for row in grown.torch if row.version == "99.0.0"]
    assert (missed, [{"cp311", "cp312"} <= {*row.pythons} for row in rows]) == ({}, [True])


def taken(sources: PackageSources, home: Path, budget: float = 30, progress: Any = None) -> tuple[Any, dict[str, str]]:
    environ = {"BNBENV_HOME": str(home / "user")}
    reach = check_reach(sources)
    return take_in(reach, sources, load_matrix(), ("linux", MACHINE), environ, progress or Quiet(), budget)


def test_the_time_for_it_is_bounded(index: Any, publish: Callable[..., str], tmp_path: Path) -> None:
    """A megabyte at 1 MB/s, and a fraction of a second for it."""
    name = publish("bitsandbytes", "0.99.0", padding=16)
    sources = PackageSources(Source("default-index", index.url("throttled"), "uv"), (), (), index.url("status-404"))
    said: list[str] = []

    class Told(Quiet):
        def at(self, text: str) -> None:
            said.append(text)

    began = time.monotonic()
    assert taken(sources, tmp_path, 0.3, Told()) == (load_matrix(), {name: LATE})
    assert time.monotonic() - began < 4
    assert said[0].startswith(f"measuring 1 of 1: {name} (") and said[0].endswith(" MB/s)")
    (tmp_path / "user" / "matrix" / "unmeasured.json").unlink()
    grown, missed = taken(sources, tmp_path)
    assert (missed, grown.bitsandbytes[0].version) == ({}, "0.99.0")
