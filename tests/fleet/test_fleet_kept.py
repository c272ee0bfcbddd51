"""The files that a desk keeps of a fleet, by themselves: which lock counts, and how long."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from bnbenv.envs.record import digest
from bnbenv.fleet.kept import FORGET, Home, clear, keep_bundle, keep_lock, peek_locks, read_locks, use

CLASS = "a" * 12
LONG_AGO = time.time() - FORGET - 100


@pytest.fixture
def home(tmp_path: Path) -> Home:
    found = Home(tmp_path)
    found.bundles.mkdir()
    return found


def silent(line: str) -> None:
    """Nobody listens."""


def test_each_environment_has_its_lock_and_the_later_one_counts(home: Home) -> None:
    keep_lock(home, CLASS, "bnb", "first")
    keep_lock(home, CLASS, "gptq", "other")
    keep_lock(home, CLASS, "bnb", "second")
    assert read_locks(home, CLASS, silent) == {"bnb": "second", "gptq": "other"}
    assert len(list(home.of(CLASS).iterdir())) == 2, "what was replaced is gone"
    # A kill between the new one and the deletion of the old one leaves both.
    for at, text in ((100, "newest"), (50, "older")):
        path = home.of(CLASS) / f"bnb.{digest(text.encode())}.toml"
        path.write_text(text)
        os.utime(path, (time.time() + at, time.time() + at))
    assert read_locks(home, CLASS, silent) == peek_locks(home, CLASS) == {"bnb": "newest", "gptq": "other"}


def test_what_is_in_use_stays_and_what_nobody_wants_goes(home: Home, tmp_path: Path) -> None:
    for class_id, key in ((CLASS, "1" * 64), ("b" * 12, "2" * 64)):
        new = tmp_path / "new"
        new.write_text(key)
        keep_bundle(home, key, new, key)
        keep_lock(home, class_id, "bnb", key)
        use(home, class_id, key)
        os.utime(home.of(class_id) / "bundle", (LONG_AGO, LONG_AGO))
    use(home, CLASS, "1" * 64)  # there are hosts of it today
    clear(home, silent)
    assert {path.name for path in home.bundles.iterdir()} == {f"{'1' * 64}.tar", f"{'1' * 64}.json"}
    assert [path.name for path in home.locks.iterdir()] == [CLASS]
