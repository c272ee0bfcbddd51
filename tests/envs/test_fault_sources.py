"""A package source that fails during a sync: what passes is tried again, of the rest one sentence is said."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from uv import find_uv_bin

pytestmark = pytest.mark.real

always = itertools.repeat


def times(number: int, fault: str) -> Iterator[str]:
    return iter([fault] * number)


@dataclass(frozen=True)
class Fault:
    """How wheels are served from now on, with uv's own retries (``retries``), and how ``sync`` then ends."""

    faults: Callable[[], Iterator[str]]
    exits: int
    code: str = ""
    says: str = ""
    retries: str | None = "0"
    again: int = 0  # how often bnbenv itself tries again
    other: bool = False  # another wheel has taken the locked one's place


FAULTS = {
    "dropped once, uv's own matter": Fault(lambda: times(1, "cut"), 0, retries=None),
    "503 once, uv's own matter": Fault(lambda: times(1, "503"), 0, retries=None),
    "dropped so often that uv gives up once": Fault(lambda: times(6, "cut"), 0, retries="1", again=1),
    "dropped always": Fault(lambda: always("cut"), 7, "source-unreachable", "does not answer", "1", 2),
    "stalled always": Fault(lambda: always("stall"), 7, "source-unreachable", "timeout"),
    "503 always": Fault(lambda: always("503"), 7, "source-unreachable", "503 Service Unavailable"),
    "404 for one wheel": Fault(lambda: always("404"), 7, "source-unreachable", "404 Not Found", "1"),
    "no wheel at all": Fault(lambda: always("other"), 1, "damaged-file", "damaged", "1"),
    "a truncated wheel": Fault(lambda: always("short"), 1, "damaged-file", "damaged", "1"),
    "another wheel than was locked": Fault(lambda: always(""), 1, "hash-mismatch", "bnbenvtiny", "1", other=True),
}


DATA = {"bnbenvdata.txt": "some lines of text\n" * 5000}


@pytest.fixture
def wishing(project: Any, index: Any, wheel_maker: Any, tmp_path: Path) -> Any:
    """A project whose lock holds a package of the test's index that is nowhere else, not in uv's cache either."""
    wheel_maker(index.wheels, "bnbenvtiny", "1.0", more=DATA)
    text = f'[envs.bnb]\nrequirements = ["bnbenvtiny"]\n[sources]\nindexes = ["{index.url("simple")}"]\n'
    (project.root / "bnbenv.toml").write_text(text)
    project.done("lock")
    return project


def uncached(project: Any) -> None:
    """The one package is out of uv's cache; the others stay there."""
    words = [find_uv_bin(), "cache", "clean", "bnbenvtiny", "--quiet"]
    subprocess.run(words, env=project.changed(), check=True, timeout=120)


@pytest.mark.parametrize("name", FAULTS)
def test_wheels_that_do_not_come(wishing: Any, index: Any, wheel_maker: Any, name: str) -> None:
    fault = FAULTS[name]
    if fault.other:
        wheel_maker(index.wheels, "bnbenvtiny", "1.0", more={"bnbenvdata.txt": "other lines\n"})
    uncached(wishing)
    index.file_faults = fault.faults()
    changes = {"UV_HTTP_RETRIES": fault.retries, "UV_HTTP_TIMEOUT": "2"}
    ended = wishing("sync", "--locked", "--no-verify", "--json", **changes)
    assert ended.code == fault.exits, ended.stderr
    said = [line for line in ended.stderr.splitlines() if "trying again" in line]
    assert [line[-8:] for line in said] == ["(2 of 3)", "(3 of 3)"][: fault.again]
    if fault.exits:
        error = ended.document["error"]
        assert fault.code in error["code"]
        assert fault.says in error["message"]
        assert error["next_step"]
        assert wishing.generation() == 1
        assert wishing.leftovers() == []
        assert wishing.python("print('runs')") == "runs"
        assert set(wishing.drift()) == {"lock-changed", "wishes-changed"}
        index.file_faults = iter(())
        wheel_maker(index.wheels, "bnbenvtiny", "1.0", more=DATA)
        wishing.done("sync", "--no-verify")
    assert wishing.python("import bnbenvtiny; print(bnbenvtiny.VERSION)") == "1.0"
    assert wishing.leftovers() == []
    assert set(wishing.drift()) == {"unverified"}


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("garbage", "what it answers is no package index"),
        ("cut", "what it answers is no package index"),
        ("drop", "the connection was dropped"),
        ("trickle", "no answer"),
    ],
)
def test_pages_of_another_shape(project: Any, index: Any, kind: str, says: str) -> None:
    wishes = (project.root / "bnbenv.toml").read_bytes()
    text = f'[envs.bnb]\nrequirements = ["bnbenvtiny"]\n[sources]\nindexes = ["{index.url(kind)}"]\n'
    (project.root / "bnbenv.toml").write_text(text)
    ended = project("sync", "--no-verify", "--json", UV_HTTP_RETRIES="0", UV_HTTP_TIMEOUT="2")
    assert ended.code in (4, 7), ended.stderr  # uv ends there, or passes over it, as it is set up
    assert f"{index.url(kind)}: {says}" in ended.stderr
    assert ended.document["error"]["next_step"]
    assert project.generation() == 1
    assert project.python("print('runs')") == "runs"
    (project.root / "bnbenv.toml").write_bytes(wishes)
    assert project.drift() == {}
    assert project.done("sync")["actions"] == []
    assert project.leftovers() == []
