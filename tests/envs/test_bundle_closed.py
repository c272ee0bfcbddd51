"""Bundles: made from an index, and a sync out of them where there is none. The packages are tiny, the rest is real."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import importlib.metadata
import io
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the wheels that are made here are for Linux")

MACHINE = platform.machine()
OTHER = "aarch64" if MACHINE == "x86_64" else "x86_64"
MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"
CLOSED = "http://127.0.0.1:9/simple"  # nobody listens there
BACKEND = """\
import base64, hashlib, zipfile
def build_wheel(folder, config_settings=None, metadata_directory=None):
    files = {"helper.py": "", "helper-1.0.dist-info/METADATA": "Metadata-Version: 2.1\\nName: helper\\nVersion: 1.0\\n",
             "helper-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"}
    line = lambda text: base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
    record = "".join(f"{name},sha256={line(text)},{len(text)}\\n" for name, text in files.items())
    with zipfile.ZipFile(folder + "/helper-1.0-py3-none-any.whl", "w") as archive:
        for name, text in {**files, "helper-1.0.dist-info/RECORD": record + "helper-1.0.dist-info/RECORD,,\\n"}.items():
            archive.writestr(zipfile.ZipInfo(name), text)
    return "helper-1.0-py3-none-any.whl"
"""


def torch_wheel(folder: Path, machine: str, padding: int = 0) -> None:
    """A wheel that reads as a CPU build of torch 99.0.0 for the running Python."""
    tag, info = f"cp{MINOR.replace('.', '')}", "torch-99.0.0.dist-info"
    files = {
        "torch/version.py": b"cuda = None\n",
        "torch/more": os.urandom(padding),
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: torch\nVersion: 99.0.0\n",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nTag: {tag}-{tag}-manylinux_2_17_{machine}\n".encode(),
    }
    with zipfile.ZipFile(folder / f"torch-99.0.0-{tag}-{tag}-manylinux_2_17_{machine}.whl", "w") as archive:
        lines = ""
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            lines += f"{name},sha256={digest},{len(data)}\n"
        archive.writestr(zipfile.ZipInfo(f"{info}/RECORD"), f"{lines}{info}/RECORD,,\n")


def helper_sdist(folder: Path) -> None:
    """A package that is published as source alone."""
    project = '[project]\nname = "helper"\nversion = "1.0"\n'
    system = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    metadata = "Metadata-Version: 2.2\nName: helper\nVersion: 1.0\n"
    with tarfile.open(folder / "helper-1.0.tar.gz", "w:gz") as archive:
        for name, text in (("pyproject.toml", project + system), ("backend.py", BACKEND), ("PKG-INFO", metadata)):
            info = tarfile.TarInfo(f"helper-1.0/{name}")
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))


@pytest.fixture(scope="module")
def interpreters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of uv in which nothing is but what it knows of the Pythons here; to ask them takes seconds."""
    from uv import find_uv_bin

    cache = tmp_path_factory.mktemp("interpreters") / "cache"
    words = (find_uv_bin(), "python", "list", "--only-installed", "--no-config", "--cache-dir", str(cache))
    subprocess.run(words, check=True, capture_output=True, timeout=120)
    return cache


@pytest.fixture
def lab(empty: Any, index: Any, interpreters: Path) -> Any:
    """A project of torch and a helper, on a machine whose only source is the index; what bnbenv needs is there too."""
    torch_wheel(index.wheels, MACHINE)
    torch_wheel(index.wheels, OTHER)
    helper_sdist(index.wheels)
    for text in importlib.metadata.requires("bnbenv") or ():
        name = re.split(r"[^A-Za-z0-9._-]", text)[0]
        if "extra ==" not in text and not ("python_version <" in text and sys.version_info >= (3, 11)):
            index.add(name.replace("-", "_"), importlib.metadata.version(name))
    config = '[envs.plain]\nfamily = "none"\ntorch = "99.0.0"\nbackend = "cpu"\nrequirements = ["helper"]\n'
    (empty.root / "bnbenv.toml").write_text(config)
    names = [name for name in empty.environ if not name.startswith(("UV_", "PIP_"))]
    own = {"UV_DEFAULT_INDEX": index.url("simple"), "PIP_CONFIG_FILE": os.devnull, "NO_PROXY": "*"}
    own |= {"BNBENV_PYTORCH_INDEX": index.url("status-404"), "UV_CACHE_DIR": str(empty.root.parent / "cache")}
    own |= {"UV_PYTHON_DOWNLOADS": "never"}
    shutil.copytree(interpreters, empty.root.parent / "cache")
    return dataclasses.replace(empty, environ={**{name: empty.environ[name] for name in names}, **own})


@pytest.fixture
def closed(lab: Any, tmp_path: Path, interpreters: Path) -> Any:
    """Another machine of the same kind, with nothing on it and no source that answers."""
    root = tmp_path / "closed"
    root.mkdir()
    own = {"BNBENV_HOME": str(tmp_path / "there"), "UV_CACHE_DIR": str(tmp_path / "there" / "cache")}
    shutil.copytree(interpreters, tmp_path / "there" / "cache")
    own |= {"UV_DEFAULT_INDEX": CLOSED, "BNBENV_PYTORCH_INDEX": CLOSED}
    return dataclasses.replace(lab, root=root, environ={**lab.environ, **own})


def facts_of(lab: Any, name: str, machine: str = MACHINE, **changes: Any) -> str:
    """Facts of this machine, with changes, in a file."""
    facts = lab.done("facts")
    facts["pythons"] = [one for one in facts["pythons"] if one["version"].startswith(f"{MINOR}.")][:1]
    facts["platform"]["machine"] = machine
    (lab.root / name).write_text(json.dumps({**facts, **changes}))
    return str(lab.root / name)


def test_from_a_bundle_to_an_environment_without_any_source(lab: Any, closed: Any, index: Any) -> None:
    with (lab.root / "bnbenv.toml").open("a") as config:
        config.write(f'[sources]\nindexes = ["{index.url("simple").replace("://", "://me:pass-word@")}"]\n')
    done = lab.done("bundle", "lab.tar", "--for", facts_of(lab, "a.json"))
    bundle = lab.root / "lab.tar"
    # The login is in bnbenv.toml alone, and for nobody else to read.
    assert any("keep it private" in note for note in done["notes"])
    assert (bundle.stat().st_mode & 0o777, bundle.read_bytes().count(b"pass-word")) == (0o600, 1)
    assert done["sha256"] == hashlib.sha256(bundle.read_bytes()).hexdigest()
    assert done["size"] == bundle.stat().st_size
    index.requests.clear()
    ended = closed("plan", "--bundle", str(bundle))
    assert (ended.code, list(closed.root.iterdir())) == (3, []), ended
    assert f"next: bnbenv sync --bundle {bundle}" in ended.stdout
    unpacked = closed.root / ".bnbenv" / "bundle" / "files"  # left of one that was killed
    unpacked.mkdir(parents=True)
    (unpacked / "half.whl").write_bytes(b"0" * 100)
    ended = closed("sync", "--offline", "--bundle", str(bundle), "--no-verify", "--json")
    assert ended.code == 0, ended
    assert index.requests == []
    assert ended.document["generations"][0]["generation"] == 1
    assert closed.python("import helper; print('here')", env="plain") == "here"
    # The lock is the one that was decided on, with its addresses and hashes; nothing is left of what was unpacked.
    assert index.url("files") in (closed.root / "pylock.plain.toml").read_text()
    assert (closed.root / "bnbenv.toml").read_bytes() == (lab.root / "bnbenv.toml").read_bytes()
    assert closed.leftovers() == [] and not (closed.root / ".bnbenv" / "bundle").exists()
    assert set(closed.drift()) == {"unverified"}
    # The rows that this bnbenv did not know are kept, so the lock holds later; a sync with sources changes nothing.
    unpacked.mkdir(parents=True)
    again = closed("sync", "--no-verify", "--json", UV_DEFAULT_INDEX=index.url("simple"))
    assert again.code == 0 and closed.generation("plain") == 1, again
    assert not unpacked.parent.exists()
    once_more = closed("sync", "--bundle", str(bundle), "--no-verify", "--json")
    assert once_more.code == 0 and closed.generation("plain") == 1, once_more


def test_machines_share_what_they_need_alike(lab: Any, index: Any, tmp_path: Path) -> None:
    here, twin = facts_of(lab, "a.json"), facts_of(lab, "b.json")
    bare = facts_of(lab, "bare.json", OTHER, pythons=[])
    name = _python_archive(OTHER)
    mirror = tmp_path / "mirror"
    (mirror / name).parent.mkdir(parents=True)
    (mirror / name).write_bytes(b"uv knows its hash")
    words = ("bundle", "lab.tar", "--for", here, "--for", twin, "--for", bare)
    lab.done("lock")
    done = lab.done(*words, UV_PYTHON_INSTALL_MIRROR=mirror.as_uri())
    groups = done["classes"]
    assert [[one["facts"] for one in group["machines"]] for group in groups] == [["a.json", "b.json"], ["bare.json"]]
    torches = [group["environments"][0]["packages"]["torch"] for group in groups]
    assert [MACHINE in torches[0], OTHER in torches[1]] == [True, True]
    helpers = [group["environments"][0]["packages"]["helper"] for group in groups]
    assert helpers == ["files/helper-1.0-py3-none-any.whl"] * 2  # built here, once
    assert groups[0]["python_archive"] is None
    assert groups[1]["python_archive"] == f"python/{name}"
    with tarfile.open(lab.root / "lab.tar") as archive:
        names = archive.getnames()
    assert names == ["bundle.json", *(one["path"] for one in done["files"])]
    assert len(set(names)) == len(names)
    # The same content is the same bytes.
    before = (lab.root / "lab.tar").read_bytes()
    lab.done(*words, UV_PYTHON_INSTALL_MIRROR=mirror.as_uri())
    assert (lab.root / "lab.tar").read_bytes() == before


def _python_archive(machine: str) -> str:
    from uv import find_uv_bin

    words = ("python", "list", "--only-downloads", "--all-platforms", "--all-arches", "--output-format", "json", MINOR)
    rows = json.loads(subprocess.check_output([find_uv_bin(), *words]))
    wanted = {"os": "linux", "arch": machine, "libc": "gnu", "variant": "default", "implementation": "cpython"}
    (url,) = [row["url"] for row in rows if wanted.items() <= row.items()][:1]
    return "/".join(url.replace("%2B", "+").split("/")[-2:])


def test_what_does_not_fit_or_was_changed_is_refused_and_nothing_is_done(lab: Any, closed: Any) -> None:
    lab.done("bundle", "lab.tar", "--for", facts_of(lab, "a.json"))
    bundle = closed.root / "lab.tar"
    whole = (lab.root / "lab.tar").read_bytes()
    bundle.write_bytes(whole)

    def refused(code: int, *words: str, **changes: Any) -> str:
        ended = closed("sync", "--offline", "--bundle", "lab.tar", "--no-verify", *words, **changes)
        assert ended.code == code, ended
        assert sorted(path.name for path in closed.root.iterdir()) in ([".bnbenv", "lab.tar"], ["lab.tar"])
        assert not (closed.root / ".bnbenv" / "bundle").exists()
        return str(ended.stderr)

    said = refused(4, BNBENV_FACTS=facts_of(lab, "other.json", OTHER))
    assert "lab.tar is for other machines than this one" in said
    assert f"a.json: Linux {MACHINE}, no GPU: its files are for linux on {MACHINE}" in said
    assert "other" in refused(2, "--env", "other")
    assert "--torch is a wish" in refused(2, "--torch", "*")
    changed = bytearray(whole)
    changed[whole.index(b"cuda = None")] ^= 1  # in a wheel, which zip holds as it is
    for data, sentence in (
        (bytes(changed), "damaged or changed: its sha256 is another"),
        (whole[: len(whole) // 2], "cut off"),
        (b"no tar at all" * 1000, "no bundle of bnbenv"),
    ):
        bundle.write_bytes(data)
        assert sentence in refused(2)
    bundle.write_bytes(whole)
    (closed.root / "bnbenv.toml").write_text((lab.root / "bnbenv.toml").read_text().replace("99.0.0", ">=2"))
    ended = closed("sync", "--offline", "--bundle", "lab.tar")
    assert ended.code == 2, ended
    assert 'envs.plain.torch: here ">=2", in the bundle "99.0.0"' in ended.stderr


def test_a_killed_bundle_leaves_nothing_that_the_next_does_not_clear(lab: Any, index: Any) -> None:
    for wheel in index.wheels.glob("torch-*"):
        wheel.unlink()
    torch_wheel(index.wheels, MACHINE, padding=1 << 20)  # a second at the speed of that index
    facts = facts_of(lab, "a.json")
    slow = {"UV_DEFAULT_INDEX": index.url("throttled")}
    lab.done("lock", **slow)
    process = lab.start("bundle", "lab.tar", "--for", facts, changes=slow)
    deadline = time.monotonic() + 60
    while not list(lab.root.glob(".lab.tar.*.part")) and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    left = [path.name for path in lab.root.glob(".lab.tar.*")]
    assert sorted(name.rpartition(".")[2] for name in left) == ["part", "work"]
    assert not (lab.root / "lab.tar").exists()
    ended = lab("bundle", "lab.tar", "--for", facts, BNBENV_OFFLINE="1")
    assert ended.code == 7 and "has to be downloaded, and the network is switched off (BNBENV_OFFLINE)" in ended.stderr
    assert not list(lab.root.glob(".lab.tar.*"))
