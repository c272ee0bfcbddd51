"""Going back to an earlier generation, and deleting those that are not needed."""

from __future__ import annotations

import shutil
from typing import Any

import pytest

pytestmark = pytest.mark.real

LOCK = "pylock.bnb.toml"


@pytest.fixture
def three(project: Any) -> Any:
    """A project with three generations, of which the last holds another lock."""
    project.done("sync", "--fresh", "--no-verify")
    project.replace(LOCK, lambda data: data + b"# of the third\n")
    project.done("sync", "--no-verify")
    assert project.generation() == 3
    return project


def numbers(project: Any) -> list[int]:
    return [row["generation"] for row in project.done("list")["generations"]]


def test_one_back_with_the_lock_of_that_time(three: Any) -> None:
    back = three.done("rollback")
    assert (back["from"], back["generation"]) == (3, 2)
    assert b"of the third" not in (three.root / LOCK).read_bytes()
    assert set(three.drift()) == {"unverified"}
    assert three.done("rollback")["generation"] == 1
    assert three.drift() == {}
    last = three("rollback", "--json")
    assert last.code == 1
    assert last.document["error"]["code"] == "no-generation"
    assert three.generation() == 1
    # And forward again, by number.
    assert three.done("rollback", "3")["from"] == 1
    assert b"of the third" in (three.root / LOCK).read_bytes()
    assert three.quantizes()
    assert numbers(three) == [1, 2, 3]


@pytest.mark.parametrize(("wanted", "says"), [("7", "does not exist"), ("2", "is not finished or its Python is gone")])
def test_what_cannot_be_gone_back_to_is_refused(three: Any, wanted: str, says: str) -> None:
    shutil.rmtree(three.root / ".bnbenv" / "generations" / "bnb" / "2" / "bin")
    before = three.listing()
    ended = three("rollback", wanted, "--json")
    assert ended.code == 1
    assert says in ended.document["error"]["message"]
    assert three.generation() == 3
    kept = {path: seen for path, seen in three.listing().items() if not path.endswith(".bnbenv/lock")}
    assert kept.items() <= before.items()
    # Without a number the broken one is passed over.
    assert three.done("rollback")["generation"] == 1


def test_a_lost_link_is_made_again(three: Any) -> None:
    (three.root / ".venv-bnb").unlink()
    back = three.done("rollback", "1")
    assert (back["from"], back["generation"]) == (None, 1)
    assert three.drift() == {}


def test_gc_keeps_what_is_in_use_and_as_many_as_asked_for(three: Any) -> None:
    assert three.done("gc", "--keep", "9")["environments"][0]["removed"] == []
    assert three.done("gc", "--keep", "2")["environments"][0]["removed"] == []
    three.done("rollback", "1")
    row = three.done("gc")["environments"][0]
    assert (row["removed"], row["kept"]) == ([2], [1, 3])
    row = three.done("gc", "--keep", "0")["environments"][0]
    assert (row["removed"], row["kept"]) == ([3], [1])
    assert three.leftovers() == []
    assert three.drift() == {}
    assert three.done("gc", "--keep", "0")["environments"][0]["removed"] == []


def test_gc_deletes_nothing_finished_where_no_link_tells_what_is_in_use(three: Any) -> None:
    (three.root / ".venv-bnb").unlink()
    assert three.done("gc", "--keep", "0")["environments"][0]["kept"] == [1, 2, 3]
