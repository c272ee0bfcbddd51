"""Fixes on real environments that bnbenv did not make: kept, changed, proved, and put back byte for byte."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.real, pytest.mark.skipif(os.name == "nt", reason="written for Linux")]

SITE = f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
CPU = f"{SITE}/bitsandbytes/libbitsandbytes_cpu.so"


def tree(folder: Path) -> dict[str, tuple[int, str] | None]:
    """Everything below a folder: rights, and content or target; large files by size and time."""
    found: dict[str, tuple[int, str] | None] = {}
    for place, folders, files in os.walk(folder):
        for name in (*files, *(one for one in folders if Path(place, one).is_symlink())):
            path = Path(place, name)
            state = path.lstat()
            if stat.S_ISLNK(state.st_mode):
                content = str(path.readlink())
            elif state.st_size > 64 << 20:
                content = f"{state.st_size} {state.st_mtime_ns}"
            else:
                content = hashlib.blake2b(path.read_bytes()).hexdigest()
            found[str(path.relative_to(folder))] = (stat.S_IMODE(state.st_mode), content)
        found.update({f"{Path(place, name).relative_to(folder)}/": None for name in folders})
    return found


@pytest.fixture
def foreign(synced: Any, tmp_path: Path) -> Iterator[Path]:
    """A virtual environment with real torch and bitsandbytes that nobody but its user knows; files are hard links."""
    source = (synced.root / ".venv-bnb").resolve()
    target = tmp_path / "venv"

    def copy(one: str, other: str) -> None:
        os.link(one, other) if f"{os.sep}lib{os.sep}" in one else shutil.copy2(one, other)

    shutil.copytree(source, target, symlinks=True, copy_function=copy)
    yield target
    shutil.rmtree(target, ignore_errors=True)


@pytest.fixture
def doctor(empty: Any, tmp_path: Path) -> Callable[..., Any]:
    """``doctor("--fix", PATH, HOME=...)``: the command, for a user with a home of their own, and uv's usual cache."""
    (tmp_path / "home").mkdir()
    cache = os.environ.get("UV_CACHE_DIR") or str(Path.home() / ".cache" / "uv")
    base = {"HOME": str(tmp_path / "home"), "UV_CACHE_DIR": cache, "PYTHONDONTWRITEBYTECODE": "1"}

    def run(*words: object, **changes: str | None) -> Any:
        return empty("doctor", *map(str, words), **{**base, **changes})

    run.start = lambda *words: empty.start("doctor", *map(str, words), changes=base)  # type: ignore[attr-defined]
    run.mends = tmp_path / "user" / "mends"  # type: ignore[attr-defined]
    return run


def put(path: Path, data: bytes) -> None:
    """Other bytes in a file's place: what was there may be a link into uv's cache."""
    path.unlink(missing_ok=True)
    path.write_bytes(data)


def computes(python: Path, *options: str, **environ: str) -> subprocess.CompletedProcess[str]:
    code = "import torch, bitsandbytes.functional as F; F.quantize_4bit(torch.randn(64, 64)); print('it does')"
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **environ}
    return subprocess.run([str(python), *options, "-c", code], env=env, capture_output=True, text=True, check=False)


def test_a_missing_library_is_installed_again_only_with_yes_and_all_goes_back(
    foreign: Path, doctor: Callable[..., Any], tmp_path: Path
) -> None:
    (foreign / CPU).unlink()
    before = tree(foreign)
    found = doctor(foreign, "--json")
    assert (found.code, found.document["findings"][0]["fix"]["automatic"]) == (3, True), found.stderr
    asked = doctor(foreign, "--fix", "--json")
    assert asked.code == 3
    assert tree(foreign) == before, "nothing may be changed without --yes"
    (step,) = asked.document["mended"]["plan"]
    assert "--reinstall-package bitsandbytes" in step["command"] and step["where"] == str(foreign)
    mended = doctor(foreign, "--fix", "--yes", "--json")
    assert mended.code == 0, mended.stderr
    assert mended.document["mended"]["state"] == "done"
    assert (foreign / CPU).is_file()
    assert doctor(foreign, "--json").code == 0
    (foreign / CPU).rename(tmp_path / "aside")
    put(foreign / CPU, b"somebody's own")
    refused = doctor("--undo")
    assert refused.code == 1 and "changed again" in refused.stderr
    assert (foreign / CPU).read_bytes() == b"somebody's own"
    (tmp_path / "aside").replace(foreign / CPU)
    foreign.rename(tmp_path / "elsewhere")
    gone = doctor("--undo")
    assert gone.code == 1 and "is gone" in gone.stderr and not foreign.exists()
    (tmp_path / "elsewhere").rename(foreign)
    back = doctor("--undo", UV_OFFLINE="1", BNBENV_OFFLINE="1", UV_CACHE_DIR="/nonexistent")
    assert back.code == 0, back.stderr
    assert tree(foreign) == before
    assert doctor("--undo").code == 2  # there is nothing more to put back


def test_what_does_not_run_after_the_fix_is_put_back(foreign: Path, doctor: Callable[..., Any]) -> None:
    (foreign / CPU).unlink()
    put(foreign / SITE / "typing_extensions.py", b"raise RuntimeError('broken by hand')\n")
    before = tree(foreign)
    ended = doctor(foreign, "--fix", "--yes")
    assert ended.code == 5, ended.stderr
    assert "put back" in ended.stderr
    assert tree(foreign) == before


@pytest.mark.parametrize("moment", ["kept", "verifying"])
def test_killed_at_any_moment_the_environment_can_be_put_back(
    foreign: Path, doctor: Callable[..., Any], moment: str
) -> None:
    (foreign / CPU).unlink()
    before = tree(foreign)
    process = doctor.start(foreign, "--fix", "--yes")  # type: ignore[attr-defined]
    mends: Path = doctor.mends  # type: ignore[attr-defined]
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        changing = list(mends.glob("*/record.json"))
        if changing and (moment == "kept" or (foreign / CPU).exists()):
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (record,) = mends.glob("*/record.json")
    assert json.loads(record.read_bytes())["state"] == "changing"
    told = doctor(foreign, "--json")
    assert record.parent.name in json.dumps(told.document), "doctor mentions it"
    back = doctor("--undo", UV_OFFLINE="1")
    assert back.code == 0, back.stderr
    assert tree(foreign) == before


def test_interrupted_more_than_once_all_is_put_back(foreign: Path, doctor: Callable[..., Any]) -> None:
    (foreign / CPU).unlink()
    before = tree(foreign)
    process = doctor.start(foreign, "--fix", "--yes")  # type: ignore[attr-defined]
    end = time.monotonic() + 60
    while time.monotonic() < end and not (foreign / CPU).exists():
        time.sleep(0.005)
    while process.poll() is None:
        process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
    process.communicate()
    assert process.returncode in (130, -signal.SIGTERM)  # it may come when all is done and Python ends
    assert tree(foreign) == before


def test_conda_and_the_systems_python_are_not_changed_behind_their_back(
    foreign: Path, doctor: Callable[..., Any]
) -> None:
    (foreign / CPU).unlink()
    meta = foreign / "conda-meta"
    meta.mkdir()
    (meta / "history").touch()
    (meta / "bitsandbytes-0.50.2-py311_0.json").write_text("{}")
    before = tree(foreign)
    found = doctor(foreign, "--json").document["findings"][0]["fix"]
    assert not found["automatic"] and any("conda install" in step for step in found["steps"])
    ended = doctor(foreign, "--fix", "--yes")
    assert ended.code == 1 and "conda install" in ended.stderr, ended.stderr
    assert tree(foreign) == before


def test_nothing_is_written_or_deleted_behind_a_link(foreign: Path, doctor: Callable[..., Any], tmp_path: Path) -> None:
    sources = tmp_path / "sources"
    (foreign / SITE / "bitsandbytes").rename(sources)
    (foreign / SITE / "bitsandbytes").symlink_to(sources)
    (sources / "notes.txt").write_text("mine")
    (sources / "libbitsandbytes_cpu.so").unlink()
    before = tree(tmp_path)
    ended = doctor(foreign, "--fix", "--yes")
    assert ended.code == 1 and f"a link to {sources}" in ended.stderr, ended.stderr
    assert {name: one for name, one in tree(tmp_path).items() if name.startswith(("sources", "venv"))} == {
        name: one for name, one in before.items() if name.startswith(("sources", "venv"))
    }


# ---- bnbenv's own environment ----------------------------------------------------------------------------------


def test_bnbenvs_own_environment_gets_a_new_generation_and_needs_no_yes(project: Any) -> None:
    project.replace(".venv-bnb/lib/*/site-packages/bitsandbytes/libbitsandbytes_cpu.so", lambda data: data[:5000])
    before = project.generation()
    found = project("doctor", "--json")
    assert found.code == 3 and found.document["findings"][0]["fix"]["command"] == "bnbenv sync --fresh --env bnb"
    mended = project("doctor", "--fix", "--json")
    assert mended.code == 0, mended.stderr
    assert project.generation() == before + 1
    assert project.quantizes()
    assert project("doctor").code == 0
    (metadata,) = project.root.glob(".venv-bnb/lib/*/site-packages/mpmath-*.dist-info")
    metadata.rename(metadata.with_name("mpmath-0.1.dist-info"))  # as pip leaves it that put another version there
    (one,) = project("doctor", "--json").document["findings"]
    assert one["code"] == "changed-behind-lock" and one["primary"] and one["fix"]["automatic"]
    assert "mpmath" in one["evidence"][0] and "is now 0.1" in one["evidence"][0]


# ---- a Python of one's own: settings, the user's site ----------------------------------------------------------


@pytest.fixture
def installation(foreign: Path, tmp_path: Path) -> Path:
    """An installation of Python as a user makes it, no virtual environment: its user site goes before its packages."""
    prefix = tmp_path / "python"
    base = Path(sys.base_prefix)
    minor = f"python{sys.version_info.major}.{sys.version_info.minor}"
    library = prefix / "lib" / minor
    library.mkdir(parents=True)
    (prefix / "bin").mkdir()
    shutil.copy2(Path(sys.base_prefix) / "bin" / minor, prefix / "bin" / "python")
    for entry in (base / "lib" / minor).iterdir():
        if entry.name != "site-packages":
            (library / entry.name).symlink_to(entry)
    shutil.move(foreign / SITE, library / "site-packages")
    own = subprocess.run(
        [prefix / "bin" / "python", "-c", "import sys; print(sys.prefix)"], capture_output=True, text=True, check=False
    )
    if own.stdout.strip() != str(prefix):
        pytest.skip("this machine's Python cannot be moved: it finds its library elsewhere")
    return prefix


def test_a_package_of_the_users_site_that_shadows_is_uninstalled_there(
    installation: Path, doctor: Callable[..., Any], tmp_path: Path
) -> None:
    home = tmp_path / "home"
    user = home / ".local" / SITE
    shutil.copytree(installation / SITE / "bitsandbytes", user / "bitsandbytes")
    (info,) = (installation / SITE).glob("bitsandbytes-*.dist-info")
    shutil.copytree(info, user / "bitsandbytes-0.44.1.dist-info")
    for name in ("METADATA", "RECORD"):
        file = user / "bitsandbytes-0.44.1.dist-info" / name
        put(file, file.read_bytes().replace(info.name.split("-")[1].removesuffix(".dist").encode(), b"0.44.1"))
        put(file, file.read_bytes().replace(b"0.50.2", b"0.44.1"))
    put(user / "bitsandbytes" / "__init__.py", b"raise ImportError('the one of the user')\n")
    mine = user / "mine.py"
    mine.write_text("x = 1\n")
    before = tree(home)
    python = installation / "bin" / "python"
    assert "the one of the user" in computes(python, HOME=str(home)).stderr
    found = doctor(python, "--json")
    assert "user-site-shadows" in [one["code"] for one in found.document["findings"]], found.document
    assert doctor(python, "--fix").code == 3 and tree(home) == before
    mended = doctor(python, "--fix", "--yes", "--json")
    assert mended.code == 0, mended.stderr
    assert sorted(path.name for path in user.iterdir()) == ["mine.py"]
    assert computes(python, HOME=str(home)).stdout == "it does\n"
    assert doctor(python, "--json").document["findings"] == []
    assert doctor("--undo").code == 0
    assert tree(home) == before


def test_a_python_that_the_system_manages_is_refused_with_what_to_do(
    installation: Path, doctor: Callable[..., Any]
) -> None:
    marker = installation / Path(SITE).parent / "EXTERNALLY-MANAGED"
    marker.write_text("[externally-managed]\nError=use apt\n")
    (installation / CPU).unlink()
    ended = doctor(installation / "bin" / "python", "--fix", "--yes")
    assert ended.code == 1 and "PEP 668" in ended.stderr and "bnbenv sync" in ended.stderr
    assert not (installation / CPU).exists()


def test_an_override_is_commented_out_where_it_lives_and_comes_back(
    foreign: Path, doctor: Callable[..., Any], tmp_path: Path
) -> None:
    shell = tmp_path / "home" / ".bashrc"
    shell.write_bytes(b"# mine \xe9\nif true; then\n  export BNB_CUDA_VERSION=999\nfi\n")
    (foreign / "conda-meta").mkdir()
    (foreign / "conda-meta" / "history").touch()
    state = foreign / "conda-meta" / "state"
    state.write_text('{"version": 1, "env_vars": {"KEPT": "1", "BNB_CUDA_VERSION": "999"}}')
    version = foreign / SITE / "torch" / "version.py"  # as if torch were a build for CUDA: a real one has 3 GB
    put(version, re.sub(rb"(?m)^cuda(:[^=\n]*)? = .*$", b"cuda = '12.8'", version.read_bytes()))
    for name in ("libtorch_cuda.so", "libc10_cuda.so"):
        os.link(foreign / SITE / "torch/lib/libc10.so", foreign / SITE / "torch/lib" / name)
    facts = Path(__file__).parents[1] / "hosts" / "linux-x86_64__580.65.06__h200-sm90" / "facts.json"
    text, was, kept = shell.read_bytes(), state.read_bytes(), tree(foreign)
    environ = {"BNBENV_FACTS": str(facts), "BNB_CUDA_VERSION": "999"}
    found = doctor(foreign, "--json", **environ)
    first = found.document["findings"][0]
    assert first["cause"] == "bnb_override_env_stale" and first["fix"]["automatic"], found.document
    assert f"{shell}, line 3" in " ".join(first["evidence"])
    assert doctor(foreign, "--fix", **environ).code == 3 and shell.read_bytes() == text
    mended = doctor(foreign, "--fix", "--yes", **environ)
    assert mended.code == 0, mended.stderr
    assert b"\n  :  # bnbenv 20" in shell.read_bytes()
    assert subprocess.run(["bash", "-n", shell], check=False).returncode == 0  # the "if" is not empty
    said = subprocess.run(
        ["bash", "-c", f". {shell}; echo $BNB_CUDA_VERSION"],
        capture_output=True,
        check=True,
        env={"PATH": os.environ["PATH"]},
    )
    assert said.stdout == b"\n"
    assert json.loads(state.read_bytes())["env_vars"] == {"KEPT": "1"}
    with shell.open("ab") as stream:
        stream.write(b"alias x=y\n")
    assert doctor("--undo").code == 0
    assert shell.read_bytes() == text + b"alias x=y\n"  # what was edited meanwhile stays
    assert state.read_bytes() == was and tree(foreign) == kept
