"""The folder that a build works in: what was interrupted is taken up only where nothing about it is doubtful."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from bnbenv.build.attempt import KEPT, STATE, Attempt, begin, clear_old
from bnbenv.paths import Sysroot


class Machine:
    """A machine of which only the start and the processes are known."""

    def __init__(self, folder: Path) -> None:
        self.home, self.root, self._sources = folder / "builds", folder / "root", folder / "sources"
        self.start("one")

    def start(self, boot: str) -> None:
        path = self.root / "proc" / "sys" / "kernel" / "random" / "boot_id"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{boot}\n")

    def process(self, place: Path) -> None:
        """One that works in a folder."""
        (self.root / "proc" / "42").mkdir()
        (self.root / "proc" / "42" / "cwd").symlink_to(place)

    def begin(self, key: str = "key") -> Attempt:
        source = self._sources / "tree"
        source.mkdir(parents=True)
        (source / "CMakeLists.txt").touch()
        attempt = begin(self.home, "order", key, source, Sysroot(self.root))
        assert not source.exists() and (attempt.tree / "CMakeLists.txt").is_file()
        return attempt


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_what_was_interrupted_is_taken_up(machine: Machine) -> None:
    first = machine.begin()
    (first.folder / "object.o").touch()
    os.utime(first.folder, (0, 0))
    again = machine.begin()
    assert (first.resumed, again.resumed, again.folder) == (False, True, first.folder)
    assert (again.folder / "object.o").exists()
    assert time.time() - again.folder.stat().st_mtime < KEPT / 2, "another bnbenv that tidies up leaves it alone"
    again.discard()
    assert list((machine.home / "work").iterdir()) == []


@pytest.mark.parametrize("doubt", ["compiler", "power", "unknown", "record"])
def test_what_is_doubtful_is_begun_anew(machine: Machine, doubt: str) -> None:
    """Another compiler; files that were not written when the machine went down; half a record."""
    first = machine.begin()
    if doubt == "power":
        machine.start("another")
    if doubt == "unknown":
        machine.start("")
    if doubt == "record":
        (first.folder / STATE).write_text("{")
    second = machine.begin("another" if doubt == "compiler" else "key")
    assert (second.resumed, second.folder.name, first.folder.exists()) == (False, "2", False)


def test_a_folder_in_which_a_compiler_still_works_is_not_taken(machine: Machine) -> None:
    first = machine.begin()
    machine.process(first.folder / "cuda")
    second = machine.begin()
    assert not second.resumed and second.folder != first.folder


def test_what_nobody_takes_up_is_cleared(tmp_path: Path) -> None:
    now = time.time()
    hours = {"work/fetched": 3, "work/fetching": 1, "work/left": 25, "work/stopped": 23}
    for name in ("fetched/CMakeLists.txt", "fetching/CMakeLists.txt", "left/1/state.json", "stopped/1/state.json"):
        path = tmp_path / "work" / name
        path.parent.mkdir(parents=True)
        path.touch()
    (tmp_path / "logs").mkdir()
    for number in range(40):
        (tmp_path / "logs" / f"{number}.log").touch()
        hours[f"logs/{number}.log"] = number
    for name, age in hours.items():
        for path in (tmp_path / name, *(tmp_path / name).rglob("*")):
            os.utime(path, (now - age * 3600, now - age * 3600))
    clear_old(tmp_path, now)
    assert sorted(path.name for path in (tmp_path / "work").iterdir()) == ["fetching", "stopped"]
    assert {path.name for path in (tmp_path / "logs").iterdir()} == {f"{number}.log" for number in range(30)}
