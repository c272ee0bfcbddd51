"""Where the torch that is there is looked for, and that it is measured without being imported."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from bnbenv.envs.existing import find_existing
from bnbenv.envs.project import Project
from bnbenv.facts.model import HostFacts, decode_facts
from bnbenv.process import Command, Finished

# An ELF header: 64 bits, little endian, a shared library for x86-64. The reader needs no more to know the platform.
ELF = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x03\x00\x3e\x00" + bytes(44)
NVIDIA = "2.6.0a0+ecf3bae40a.nv25.01"

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the folders are those of Linux and macOS")


def lay(site: Path, version: str, archs: str = "sm_80 sm_90", more: str = "") -> None:
    """A torch as it lies in a folder of packages, with what is measured of it."""
    (site / "torch" / "lib").mkdir(parents=True)
    (site / "torch" / "version.py").write_text(f"__version__ = '{version}'\ncuda = '12.8'\n{more}")
    (site / "torch" / "lib" / "libtorch_python.so").write_bytes(ELF + b"\0" + archs.encode() + b"\0")
    (site / "torch" / "_C.cpython-312-x86_64-linux-gnu.so").write_bytes(ELF)


def facts_with(*pythons: tuple[Path, str]) -> HostFacts:
    document = {
        "schema": "bnbenv.facts/1",
        "platform": {"os": "linux", "machine": "x86_64", "libc": {"name": "glibc", "version": "2.39"}},
        "driver": {"state": "absent"},
        "gpus": [],
        "pythons": [{"path": str(path), "version": version} for path, version in pythons],
    }
    return decode_facts(json.dumps(document), "the host")


def interpreter(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")
    return path


class Answers:
    """A runner whose programs print one text."""

    def __init__(self, text: str = "", code: int = 0) -> None:
        self.text, self.code, self.asked = text, code, []  # type: ignore[var-annotated]

    def run(self, command: Command) -> Finished:
        self.asked.append(command.argv)
        return Finished(command, self.code, self.text, "", False, 0.0)


def test_the_first_one_is_kept(tmp_path: Path) -> None:
    """The active environment, conda's, a module's path, the interpreters in their order, the project's environment."""
    site = "lib/python3.12/site-packages"
    project = Project(tmp_path / "project", tmp_path / "project" / "bnbenv.toml")
    (project.home / "generations" / "bnb").mkdir(parents=True)
    places = {
        "1.1": tmp_path / "venv" / site,
        "1.2": tmp_path / "conda" / site,
        "1.3": tmp_path / "module",
        "1.4": tmp_path / "one" / site,
        "1.5": tmp_path / "two" / "lib" / "python3" / "dist-packages",
        "1.6": project.link("bnb") / site,
    }
    environ = {
        "VIRTUAL_ENV": str(tmp_path / "venv"),
        "CONDA_PREFIX": str(tmp_path / "conda"),
        "PYTHONPATH": f"{tmp_path / 'nothing'}{os.pathsep}{tmp_path / 'module'}",
        "PYTHONUSERBASE": str(tmp_path / "user"),
    }
    facts = facts_with(
        (interpreter(tmp_path / "one" / "bin" / "python3.12"), "3.12.4"),
        (interpreter(tmp_path / "two" / "bin" / "python3.12"), "3.12.3"),
    )
    for version, folder in places.items():
        lay(folder, version)
    for version, folder in places.items():
        found, _ = find_existing(environ, facts, Answers(), project)
        assert found is not None
        assert (found.torch.version, found.torch.source, found.python[:4]) == (version, "existing", "3.12")
        assert found.torch.path == str(folder / "torch")
        (folder / "torch" / "version.py").unlink()
    none, why = find_existing(environ, facts, Answers(), project)
    assert none is None
    assert why.startswith("looked in VIRTUAL_ENV, CONDA_PREFIX, PYTHONPATH, the packages of Python 3.12.4, ")
    assert why.endswith("the environment bnb")


def test_the_packages_of_the_user_count_unless_python_is_told_not_to(tmp_path: Path) -> None:
    lay(tmp_path / "user" / "lib" / "python3.12" / "site-packages", "2.9.1")
    lay(tmp_path / "lib" / "python3.12" / "site-packages", "2.8.0")
    facts = facts_with((interpreter(tmp_path / "bin" / "python3.12"), "3.12.3"))
    for more, version in (({}, "2.9.1"), ({"PYTHONNOUSERSITE": "1"}, "2.8.0")):
        found, _ = find_existing({"PYTHONUSERBASE": str(tmp_path / "user"), **more}, facts, Answers())
        assert found is not None and found.torch.version == version


def test_a_build_of_a_container_is_measured(tmp_path: Path) -> None:
    """In /usr/local/lib/python3.12/dist-packages, with a local version of its own and no metadata."""
    lay(tmp_path / "lib" / "python3.12" / "dist-packages", NVIDIA, "sm_80 sm_86 sm_90 sm_100 sm_120 compute_120")
    facts = facts_with((interpreter(tmp_path / "bin" / "python3.12"), "3.12.3"))
    found, _ = find_existing({"PYTHONNOUSERSITE": "1"}, facts, Answers())
    assert found is not None
    assert (found.torch.version, found.torch.cuda, found.python) == (NVIDIA, "12.8", "3.12.3")
    assert found.torch.arch_list[-2:] == ("sm_120", "compute_120")
    assert found.torch.evidence.level == "measured"


def test_an_environment_on_top_of_another_shows_its_packages(tmp_path: Path) -> None:
    lay(tmp_path / "base" / "lib" / "python3.12" / "site-packages", "2.9.1")
    (tmp_path / "venv" / "lib" / "python3.12" / "site-packages").mkdir(parents=True)
    config = tmp_path / "venv" / "pyvenv.cfg"
    for shows, seen in (("false", None), ("true", "2.9.1")):
        lines = f"home = {tmp_path}/base/bin\ninclude-system-site-packages = {shows}\nversion = 3.12.7\n"
        config.write_text(lines)
        found, _ = find_existing({"VIRTUAL_ENV": str(tmp_path / "venv")}, facts_with(), Answers())
        assert (found and found.torch.version) == seen
    assert found is not None and found.python == "3.12.7"


def test_an_interpreter_is_asked_only_where_its_layout_says_nothing(tmp_path: Path) -> None:
    odd = interpreter(tmp_path / "odd" / "python")
    usual = interpreter(tmp_path / "usual" / "bin" / "python3.12")
    (tmp_path / "usual" / "lib" / "python3.12" / "site-packages").mkdir(parents=True)
    lay(tmp_path / "elsewhere", "2.9.1")
    answers: Any = Answers(json.dumps([str(tmp_path / "elsewhere")]))
    found, _ = find_existing({}, facts_with((usual, "3.12.3"), (odd, "3.12.9")), answers)
    assert found is not None and found.torch.version == "2.9.1"
    assert [argv[0] for argv in answers.asked] == [str(odd)]
    for silent in (Answers("no list"), Answers("[]", 1)):
        assert find_existing({}, facts_with((odd, "3.12.9")), silent)[0] is None


def test_what_cannot_be_judged_is_not_passed_over(tmp_path: Path) -> None:
    """Behind a ROCm build there may be another torch, but that is not the one that is used."""
    lay(tmp_path / "first", "2.9.1", more="hip = '6.4'\n")
    lay(tmp_path / "second", "2.9.1")
    path = os.pathsep.join((str(tmp_path / "first"), str(tmp_path / "second")))
    found, why = find_existing({"PYTHONPATH": path}, facts_with(), Answers())
    assert found is None
    assert "cannot be judged" in why and "other GPUs" in why
