"""What gc deletes of source builds: compilers that nobody used for long, and never one that something may be using."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path

from bnbenv.build.held import held
from bnbenv.build.tidy import Deleted, tidy
from bnbenv.progress import Quiet

DAY = 24 * 3600.0


def toolchain(home: Path, name: str, days: float) -> Path:
    """A toolchain that was used last some days ago: a file of its own, and one that a cache holds as well."""
    folder = home / "toolchains" / platform.machine() / name
    folder.mkdir(parents=True)
    record = folder.with_name(f"{name}.json")
    record.write_text("{}")
    (folder / "own").write_bytes(b"x" * 1000)
    cached = home.parent / f"cache-{name}"
    cached.write_bytes(b"x" * 5000)
    os.link(cached, folder / "linked")
    for path in (folder, record):
        os.utime(path, (time.time() - days * DAY,) * 2)
    return folder


def test_a_compiler_goes_when_it_was_not_used_for_a_month_and_what_was_used_stays(tmp_path: Path) -> None:
    home = tmp_path / "builds"
    old, new = toolchain(home, "cu130", 31), toolchain(home, "cu132", 29)
    tidied = tidy(home)
    assert tidied.deleted == (Deleted("cu130", 1000, 5000),), "what the cache holds too is not freed"
    assert tidied.kept == ("cu132",)
    assert not old.exists() and not old.with_name("cu130.json").exists()
    assert (new / "own").exists()
    assert tidy(home).deleted == ()


def test_what_a_kill_left_beside_the_compilers_is_none_of_them(tmp_path: Path) -> None:
    home = tmp_path / "builds"
    folder = toolchain(home, "cu130", 0)
    folder.with_name(".cu130.json.123.part").touch()
    os.utime(folder.parent, (0, 0))
    assert tidy(home) == ((), ("cu130",))
    assert (folder / "own").exists()


def test_all_go_when_asked_but_not_while_something_is_compiled(tmp_path: Path) -> None:
    home = tmp_path / "builds"
    folder = toolchain(home, "cu130", 0)
    with held(home / "locks" / "one.lock", "a build", 0, Quiet()):
        assert tidy(home, everything=True).deleted == ()
        assert tidy(home, now=time.time() + 40 * DAY).deleted == (), "it may have begun just now"
    with held(folder.with_name("cu130.lock"), "its making", 0, Quiet()):
        assert tidy(home, everything=True).deleted == ()
    assert (folder / "own").exists()
    assert [one.name for one in tidy(home, everything=True).deleted] == ["cu130"]


def test_wheels_stay_and_where_nothing_was_built_nothing_is_made(tmp_path: Path) -> None:
    home = tmp_path / "builds"
    assert tidy(home, everything=True) == ((), ())
    assert not home.exists()
    wheel = home / "wheels" / "key" / "bitsandbytes.whl"
    wheel.parent.mkdir(parents=True)
    wheel.touch()
    os.utime(wheel, (0, 0))
    tidy(home, everything=True)
    assert wheel.exists()
