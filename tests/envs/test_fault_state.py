"""State that is damaged, replaced, or of a newer bnbenv: what it says, what still runs, and how all is well again."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.real

HOME = ".bnbenv"
GENERATIONS = f"{HOME}/generations"
RECORD, SAVED = f"{GENERATIONS}/bnb/1.json", f"{GENERATIONS}/bnb/1.lock.toml"
LOCK, WISHES, LINK = "pylock.bnb.toml", "bnbenv.toml", ".venv-bnb"


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def cut(project: Any, name: str) -> None:
    project.replace(name, lambda data: data[: len(data) // 2])


def garbage(project: Any, name: str) -> None:
    project.replace(name, lambda data: bytes(range(256)) * 4)


def empty(project: Any, name: str) -> None:
    project.replace(name, lambda data: b"")


def newer(project: Any, name: str) -> None:
    """As a bnbenv of the next year might write it: another version, fields that are not known here."""

    def change(data: bytes) -> bytes:
        text = re.sub(r'(bnbenv\.(?:generation|lock))/1"', r'\1/2"', data.decode())
        return text.replace('"lock":', '"lock_digests":').encode()

    project.replace(name, change)


def folder(project: Any, name: str) -> None:
    """A folder is in its place."""
    remove(project.root / name)
    (project.root / name).mkdir()


def file(project: Any, name: str) -> None:
    """A file is in its place; what was there is beside it."""
    (project.root / name).rename(project.root / "moved")
    (project.root / name).write_text("mine")


def elsewhere(project: Any, name: str) -> None:
    """It leads to a folder of the user's."""
    other = project.root / "other"
    other.mkdir()
    (other / "notes").write_text("mine")
    remove(project.root / name)
    (project.root / name).symlink_to(other)


def nowhere(project: Any, name: str) -> None:
    remove(project.root / name)
    (project.root / name).symlink_to("not-there")


def itself(project: Any, name: str) -> None:
    remove(project.root / name)
    (project.root / name).symlink_to(name)


Damage = Callable[[Any, str], None]


@dataclass(frozen=True)
class Case:
    """What happens to a file of a project, what ``check`` names (None: nothing), and how ``sync`` ends.

    Where it does not end well: the words of its message and of the next step, and what a user then does.
    """

    name: str
    damage: Damage
    code: str | None
    exits: int = 0
    says: str = ""
    step: str = ""
    way_out: str = ""  # a command, or "remove" what is in the way, or "back": the moved folder is moved back
    runs: bool = True


CASES = [
    Case(RECORD, cut, "record-missing"),
    Case(RECORD, empty, "record-missing"),
    Case(RECORD, garbage, "record-missing"),
    Case(RECORD, folder, "record-missing"),
    Case(RECORD, itself, "record-missing"),
    Case(RECORD, newer, "record-newer", 1, "made by a newer bnbenv", "Upgrade bnbenv", "sync --fresh --no-verify"),
    Case(SAVED, cut, None),
    Case(SAVED, garbage, None),
    Case(SAVED, folder, None),
    Case(LOCK, cut, "lock-unreadable", 2, LOCK, "bnbenv lock", "lock"),
    Case(LOCK, empty, "lock-unreadable", 2, LOCK, "bnbenv lock", "lock"),
    Case(LOCK, garbage, "lock-unreadable", 2, LOCK, "bnbenv lock", "lock"),
    Case(LOCK, newer, "lock-unreadable", 2, "made by a newer bnbenv", "Upgrade bnbenv, or", "lock"),
    Case(LOCK, folder, "lock-changed", 2, LOCK, "", "remove"),
    Case(LOCK, nowhere, "lock-missing"),
    Case(WISHES, garbage, "exit 2", 2, WISHES, "", "remove"),
    Case(WISHES, folder, "exit 2", 2, WISHES, "", "remove"),
    Case(WISHES, itself, "exit 2", 2, WISHES, "", "remove"),
    Case(LINK, elsewhere, "link-foreign", runs=False),
    Case(LINK, nowhere, "link-broken", runs=False),
    Case(LINK, itself, "link-broken", runs=False),
    Case(LINK, folder, "link-replaced", 1, "is not bnbenv's link", "Move it away", "remove", False),
    Case(LINK, file, "link-replaced", 1, "is not bnbenv's link", "Move it away", "remove", False),
    Case(f"{HOME}/.gitignore", folder, None),
    Case(f"{HOME}/lock", folder, None, 1, f"{HOME}/lock", "Move it away", "remove"),
    Case(HOME, file, "link-broken", 1, f"{HOME}: ", "Move it away", "back", False),
    Case(GENERATIONS, file, "link-broken", 1, f"{GENERATIONS}", "Move it away", "back", False),
    Case(f"{GENERATIONS}/bnb", file, "link-broken", 1, f"{GENERATIONS}/bnb", "Move it away", "back", False),
]


def named(project: Any) -> str | None:
    """The one thing that ``check`` names."""
    ended = project("check", "--json")
    if ended.code == 2:
        return "exit 2"
    codes = {reason["code"] for reason in ended.document["reasons"]} - {"unverified"}
    assert len(codes) <= 1
    return codes.pop() if codes else None


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.name} {case.damage.__name__}")
def test_state_that_is_not_as_it_was(project: Any, case: Case) -> None:
    case.damage(project, case.name)
    assert named(project) == case.code
    words = ("sync", "--no-verify") if case.code else ("sync", "--fresh", "--no-verify")
    ended = project(*words, "--json")
    assert ended.code == case.exits, ended.stderr
    if case.exits:
        error = ended.document["error"]
        assert case.says in error["message"]
        assert case.step in error["next_step"]
        assert error["next_step"]
        if case.runs:
            assert project.python("print('runs')") == "runs"
        if case.way_out in ("remove", "back"):
            remove(project.root / case.name)
            if case.way_out == "back":
                (project.root / "moved").rename(project.root / case.name)
        else:
            project.done(*case.way_out.split())
    project.done("sync", "--no-verify")
    project.done("sync", "--no-verify")
    assert project.leftovers() == []
    assert named(project) is None
    assert project.python("print('runs')") == "runs"
    if (project.root / "other").exists():
        assert (project.root / "other" / "notes").read_text() == "mine"


def test_generations_of_a_newer_bnbenv_are_kept_and_not_gone_back_to(project: Any) -> None:
    project.done("sync", "--fresh", "--no-verify")
    newer(project, RECORD)
    packages = sum(1 for _ in (project.root / GENERATIONS / "bnb" / "1").rglob("*"))
    for words in (("sync", "--no-verify"), ("gc", "--keep", "0"), ("sync", "--fresh", "--no-verify"), ("gc",)):
        project.done(*words)
    assert sum(1 for _ in (project.root / GENERATIONS / "bnb" / "1").rglob("*")) == packages
    assert "bnb 1: made by a newer bnbenv" in project("list").stdout.splitlines()
    refused = project("rollback", "1", "--json")
    assert refused.code == 1
    assert "was made by a newer bnbenv" in refused.document["error"]["message"]
    assert project.done("rollback")["generation"] == 2


def test_a_plan_is_not_made_over_a_newer_bnbenv(project: Any) -> None:
    newer(project, RECORD)
    for words in (("plan",), ("sync",), ("sync", "--torch", ">=2")):
        ended = project(*words, "--json")
        assert ended.code == 1
        assert ended.document["error"]["code"] == "record-newer"
    assert project.generation() == 1
    assert project.quantizes()


def test_a_record_with_fields_that_are_not_known_here_holds(project: Any) -> None:
    """A newer bnbenv may add fields without another version."""
    project.replace(RECORD, lambda data: json.dumps(json.loads(data) | {"mood": "good"}).encode())
    assert project.drift() == {}
