"""The drift guard: the environment itself says, when bitsandbytes is imported, what was changed behind its lock."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bnbenv.envs.guard import settle, wished
from bnbenv.envs.project import env_python, site_packages
from bnbenv.envs.record import Record, observe_files, observe_packages, observe_stamps
from bnbenv.envs.wishes import TEMPLATE, decode_wishes
from bnbenv.facts.pythons import find_pythons
from bnbenv.process import SystemRunner

BEGINS = "bnbenv: environment bnb was changed behind pylock.bnb.toml: "
ENDS = " (what that breaks: bnbenv doctor; to put it right: bnbenv sync)\n"
IMPORT = "import bitsandbytes"
LOCKED = {"torch": "2.13.0+cpu", "bitsandbytes": "0.50.2"}


@dataclass(frozen=True)
class Box:
    """An environment with two packages that are a line each."""

    prefix: Path

    @property
    def site(self) -> Path:
        site = site_packages(self.prefix)
        assert site is not None
        return site

    def record(self) -> Record:
        found = observe_packages(self.site), observe_files(self.site)
        return Record(1, "", "", "", None, [], "", {}, {}, *found, {}, False, {}, None, observe_stamps(self.site))

    def run(self, code: str = IMPORT, *options: str, **changes: str) -> subprocess.CompletedProcess[str]:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        words = [str(env_python(self.prefix)), *options, "-c", code]
        return subprocess.run(
            words, env={**environ, **changes}, cwd=self.prefix, capture_output=True, text=True, timeout=60, check=False
        )

    def says(self, code: str = IMPORT, *options: str, **changes: str) -> str:
        """What it says of changes; the program itself has to end well."""
        done = self.run(code, *options, **changes)
        assert done.returncode == 0, done.stderr
        if not done.stderr:
            return ""
        assert done.stderr.startswith(BEGINS) and done.stderr.endswith(ENDS) and done.stderr.count("\n") == 1
        return done.stderr[len(BEGINS) : -len(ENDS)]


def package(site: Path, name: str, version: str, files: tuple[str, ...] = ()) -> None:
    for file in ("__init__.py", *files):
        path = site / name / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"__version__ = '{version}'\n")
    (site / f"{name}-{version}.dist-info").mkdir()
    (site / f"{name}-{version}.dist-info" / "RECORD").write_text(f"{name}/__init__.py,,\n")


def make(prefix: Path, python: str = sys.executable) -> Box:
    subprocess.run([python, "-m", "venv", "--without-pip", prefix], check=True, timeout=60)
    box = Box(prefix)
    package(box.site, "torch", LOCKED["torch"], ("version.py", "lib/libtorch_cpu.so"))
    package(box.site, "bitsandbytes", LOCKED["bitsandbytes"], ("libbitsandbytes_cpu.so",))
    settle(prefix, "bnb", "pylock.bnb.toml", box.record(), True)
    return box


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return make(tmp_path / "env")


def another_version(box: Box, name: str, version: str) -> None:
    shutil.rmtree(box.site / f"{name}-{LOCKED[name]}.dist-info")
    shutil.rmtree(box.site / name)
    package(box.site, name, version)


def at(path: Path, seconds: int) -> None:
    """As a file that was put in place so many seconds later."""
    time = path.stat().st_mtime + seconds
    os.utime(path, (time, time))


LIBRARY = "bitsandbytes/libbitsandbytes_cpu.so"
CHANGES: dict[str, Callable[[Box], object]] = {
    "bitsandbytes was 0.50.2 and is 0.49.2": lambda box: another_version(box, "bitsandbytes", "0.49.2"),
    "torch was 2.13.0+cpu and is 2.15.0": lambda box: another_version(box, "torch", "2.15.0"),
    "bitsandbytes was 0.50.2 and is 0.49.2 and 0.50.2": lambda box: package(box.site, "bitsandbytes", "0.49.2"),
    "bitsandbytes was 0.50.2 and its metadata (dist-info) is gone": lambda box: shutil.rmtree(
        box.site / "bitsandbytes-0.50.2.dist-info"
    ),
    "torch was 2.13.0+cpu and is gone": lambda box: [
        shutil.rmtree(box.site / name) for name in ("torch", "torch-2.13.0+cpu.dist-info")
    ],
    "torch 2.13.0+cpu was installed anew": lambda box: (box.site / "torch-2.13.0+cpu.dist-info/RECORD").write_text(
        "torch/other.py,,\n"
    ),
    f"{LIBRARY} had 23 bytes and has 0": lambda box: (box.site / LIBRARY).write_bytes(b""),
    f"{LIBRARY} was replaced": lambda box: at(box.site / LIBRARY, 5),
    f"{LIBRARY} is gone": lambda box: (box.site / LIBRARY).unlink(),
}


@pytest.mark.parametrize("words", CHANGES)
def test_what_was_changed_is_named(words: str, box: Box) -> None:
    assert box.says() == ""
    CHANGES[words](box)
    assert box.says() == words


@pytest.mark.parametrize("minor", range(10, 15))
def test_each_python_reads_it(minor: int, tmp_path: Path) -> None:
    pythons, _ = find_pythons(os.environ, SystemRunner(), None, sys.platform)
    found = [python.path for python in pythons if python.version.startswith(f"3.{minor}.")]
    if not found:
        pytest.skip(f"python3.{minor} is missing")
    box = make(tmp_path / "env", found[0])
    assert box.says() == ""
    another_version(box, "bitsandbytes", "0.49.2")
    assert box.says() == "bitsandbytes was 0.50.2 and is 0.49.2"


def test_it_speaks_once_and_of_an_import_only(box: Box) -> None:
    another_version(box, "bitsandbytes", "0.49.2")
    assert box.says("import torch") == ""
    # As transformers asks whether it is there, and metadata is read.
    assert box.says("import importlib.util as u; assert u.find_spec('bitsandbytes').origin") == ""
    assert box.says("import importlib.metadata as m; assert m.distribution('bitsandbytes')") == ""
    again = "import importlib, importlib.util as u; u.find_spec('bitsandbytes'); import bitsandbytes as b"
    assert box.says(f"{again}; importlib.reload(b); import bitsandbytes")
    threads = "from threading import Thread as T; all = [T(target=__import__, args=('bitsandbytes',))"
    assert box.says(f"{threads} for _ in range(9)]; [t.start() for t in all]; [t.join() for t in all]")
    twice = "import site; site.addsitedir(site.getsitepackages()[0]); import bitsandbytes"
    assert box.says(twice)


@pytest.mark.parametrize("option", ["-I", "-E", "-s", "-O", "-B"])
def test_it_speaks_whatever_python_is_told(box: Box, option: str) -> None:
    (box.site / LIBRARY).unlink()
    assert box.says(IMPORT, option) == f"{LIBRARY} is gone"


def test_a_package_that_is_taken_from_elsewhere(box: Box, tmp_path: Path) -> None:
    package(tmp_path / "other", "torch", "2.9.0")
    found = box.says(PYTHONPATH=str(tmp_path / "other"))
    assert found == f"torch was 2.13.0+cpu and is taken from {tmp_path / 'other'}"
    link = tmp_path / "link"  # as .venv-bnb is one
    link.symlink_to(box.prefix)
    assert Box(link).says() == ""


def test_a_copy_of_which_all_times_are_others_is_no_change(box: Box, tmp_path: Path) -> None:
    """Nor is one that is somewhere else without its project."""
    for path in box.site.rglob("*.*"):
        at(path, 5)
    shutil.move(box.prefix, tmp_path / "moved")
    moved = Box(tmp_path / "moved")
    assert moved.says() == ""
    (moved.site / LIBRARY).write_bytes(b"other")
    assert moved.says() == f"{LIBRARY} had 23 bytes and has 5"


def test_an_import_goes_on_as_without_it(box: Box) -> None:
    """It fails as it did, word for word, and nothing that is wrong with the guard itself is seen."""
    (box.site / "bitsandbytes" / "__init__.py").write_text("import torch.nothing\n")
    with_guard = box.run()
    assert with_guard.stderr.startswith(BEGINS)
    (box.site / "bnbenv-guard.pth").rename(box.site / "bnbenv-guard.off")
    without = box.run()
    assert with_guard.stderr.partition("\n")[2] == without.stderr
    assert "No module named 'torch.nothing'" in without.stderr
    (box.site / "bitsandbytes" / "__init__.py").write_text("")
    (box.site / "bnbenv-guard.off").rename(box.site / "bnbenv-guard.pth")
    for text in ("", "not Python at all", "def find_spec(*words): raise OSError\n", "LOCKED = {}\n"):
        (box.site / "bnbenv-guard.py").write_text(text)
        assert box.says() == ""
    (box.site / "bnbenv-guard.py").unlink()
    assert box.says() == ""
    assert box.says(f"import sys; sys.stderr = None; {IMPORT}") == ""


def test_it_lets_other_import_hooks_work(box: Box) -> None:
    """Such as ask all finders themselves, before it or after it, and wrap the loader that they get."""
    (box.site / LIBRARY).unlink()
    hook = """\
import importlib.util, sys
class Loader:
    def __init__(self, inner): self.inner = inner
    def create_module(self, spec): return self.inner.create_module(spec)
    def exec_module(self, module): self.inner.exec_module(module); print("hooked")
class Hook:
    busy = False
    def find_spec(self, name, path, target=None):
        if name != "bitsandbytes" or self.busy: return None
        self.busy = True
        spec = importlib.util.find_spec(name)
        spec.loader = Loader(spec.loader)
        return spec
sys.meta_path.insert(PLACE, Hook())
import bitsandbytes
"""
    for place in ("0", "1"):
        done = box.run(hook.replace("PLACE", place))
        assert (done.stdout, done.returncode) == ("hooked\n", 0), done.stderr
        assert done.stderr == f"{BEGINS}{LIBRARY} is gone{ENDS}"


def test_a_second_interpreter_in_the_process(box: Box) -> None:
    (box.site / LIBRARY).unlink()
    name = "_interpreters" if sys.version_info >= (3, 13) else "_xxsubinterpreters"
    assert box.says(f"import {name} as i; i.run_string(i.create(), 'import bitsandbytes')") == f"{LIBRARY} is gone"


def test_at_the_start_it_loads_nothing_and_it_leaves_no_bytecode(box: Box) -> None:
    show = "import sys; print(sorted(sys.modules))"
    loaded = box.run(show).stdout
    assert box.run("import bitsandbytes").returncode == 0
    assert [path.name for path in box.site.rglob("*.pyc") if "guard" in path.name] == []
    (box.site / "bnbenv-guard.pth").write_text("\n")
    assert box.run(show).stdout == loaded


FILES: dict[str, str | None] = {
    "none": None,
    "empty": "",
    "template": TEMPLATE,
    "no table": '[policy]\r\nprefer = "newest"\r\n',
    "comments": '[envs.bnb]\ntorch = "2.9" # since the talk\n# the end\n\n[policy] # ours\n',
    "Windows": '\ufeff[envs.bnb]\r\ntorch = "*"\r\n[policy]\r\n',
    "several": "[envs.bnb]\n\n\n[envs.two]\n[policy]\nmix = false\n",
    "inline": 'envs = {bnb = {torch = "*"}} # all\n',
    "dotted": 'envs.bnb.torch = "*"\nenvs.bnb.gpus = "all"\n[policy]\n',
}


@pytest.mark.parametrize("name", FILES)
def test_the_wish_is_written_and_taken_back_byte_for_byte(name: str) -> None:
    before = FILES[name]
    own = decode_wishes((before or "").encode(), "bnbenv.toml")
    after = wished(before, own.envs, True)
    assert after is not None and wished(after, own.envs, True) == after
    asked = decode_wishes(after.encode(), "bnbenv.toml")
    assert all(wish.guard for wish in asked.envs.values())
    assert [asked.digest(env) for env in own.envs] == [own.digest(env) for env in own.envs]  # nothing to solve anew
    assert wished(after, own.envs, False) == before
    assert wished(before, own.envs, False) == before


def bytes_below(root: Path) -> dict[str, bytes | str]:
    """Everything in a project but the log and the lock of the runs."""
    skipped = {str(root / ".bnbenv" / name) for name in ("log", "lock", ".gitignore")}
    found: dict[str, bytes | str] = {}
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if str(Path(folder, name)) not in skipped]
        for path in (Path(folder, name) for name in (*folders, *files)):
            if path.is_symlink():
                found[str(path)] = str(path.readlink())
            elif path.is_file() and str(path) not in skipped and path.stat().st_size < 1 << 20:
                found[str(path)] = path.read_bytes()
            else:
                found[str(path)] = str(path.stat().st_mtime_ns if path.is_file() else "")
    return found


@pytest.mark.real
def test_a_real_environment_from_on_to_off(project: Any) -> None:
    before = bytes_below(project.root)
    assert project.done("guard")["environments"][0]["guard"] == "off"
    on = project.done("guard", "on")
    assert (on["changed"], on["environments"][0]["guard"]) == (True, "on")
    assert "guard = true" in (project.root / "bnbenv.toml").read_text()
    assert project.drift() == {}
    assert project.done("status")["environments"][0]["guard"]
    assert said(project) == ""
    assert project.done("guard", "off")["environments"][0]["guard"] == "off"
    assert bytes_below(project.root) == before

    # Behind the lock: the folder that a pip would put there.
    project.done("guard", "on")
    site = next(project.root.glob(".venv-bnb/lib/python*/site-packages"))
    info = next(site.glob("bitsandbytes-*.dist-info"))
    info.rename(site / "bitsandbytes-0.49.2.dist-info")
    assert f"and is 0.49.2{ENDS.rstrip()}" in said(project)
    assert "packages-changed" in project.drift()
    assert project.done("guard", "on")["changed"] is False  # what is there is not believed instead of the record
    assert "and is 0.49.2" in said(project)

    # A new generation has it, and one that is gone back to has it as is wished for then.
    assert project.done("sync", "--no-verify")["generations"][0]["generation"] == 2
    assert said(project) == ""
    first = project.root / ".bnbenv" / "generations" / "bnb" / "1"
    old = next(first.glob("lib/python*/site-packages/bitsandbytes-0.49.2.dist-info"))
    old.rename(old.with_name(info.name))
    project.done("guard", "off")
    assert list(project.root.rglob("*bnbenv-guard*")) == []
    project.replace("bnbenv.toml", lambda text: text.replace(b"[envs.bnb]", b"[envs.bnb]\nguard = true"))
    assert project.done("guard")["environments"][0]["guard"] == "pending"
    assert project.done("rollback")["generation"] == 1
    assert len(list(first.rglob("bnbenv-guard.*"))) == 2
    assert project.drift() == {}

    # What people write into bnbenv.toml themselves, a sync with nothing else to do settles.
    project.replace("bnbenv.toml", lambda text: text.replace(b"guard = true", b"guard = false"))
    assert project.done("guard")["environments"][0]["guard"] == "pending"
    assert not project.done("sync")["generations"][0]["changed"]
    assert project.done("guard")["environments"][0]["guard"] == "off"
    assert list(first.rglob("bnbenv-guard.*")) == []


def said(project: Any) -> str:
    """What the guard says as the real bitsandbytes is made; the import itself is not waited for."""
    code = "import importlib.util as u; u.module_from_spec(u.find_spec('bitsandbytes'))"
    python = project.root / ".venv-bnb" / "bin" / "python"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return str(done.stderr)
