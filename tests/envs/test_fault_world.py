"""What happens around a project: its Python vanishes, the home or the cache cannot be written, the clock goes back."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.real


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """``mounted("name", "size=20m")``: a small file system of its own."""
    places = []

    def mount(name: str, options: str) -> Path:
        place = tmp_path / name
        place.mkdir()
        program = shutil.which("mount")
        if os.geteuid() != 0 or program is None:
            pytest.skip("a small file system cannot be mounted: that takes root")
        words = [program, "-t", "tmpfs", "-o", options, "bnbenv-test", str(place)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
        places.append(place)
        return place

    yield mount
    for place in places:
        subprocess.run(["umount", "-l", place], check=False)


def refused(project: Any, *words: str, **changes: str | None) -> dict[str, Any]:
    """The error of a command that has to end with exit code 1; what was in use is there and nothing is left."""
    ended = project(*words, "--json", **changes)
    assert ended.code == 1, ended.stdout + ended.stderr
    error: dict[str, Any] = ended.document["error"]
    assert error["next_step"], error
    assert project.python("print('runs')") == "runs"
    assert project.generation() == 1
    return error


def test_a_cache_on_a_disk_that_is_full(project: Any, mounted: Callable[..., Path]) -> None:
    cache = mounted("cache", "size=20m")
    error = refused(project, "sync", "--fresh", "--no-verify", UV_CACHE_DIR=str(cache))
    assert error["code"] == "no-space"
    assert project.leftovers() == []
    assert project.quantizes()
    assert project.done("sync", "--fresh", "--no-verify")["generations"][0]["generation"] == 2


def test_temporary_files_on_a_disk_that_is_full(project: Any, mounted: Callable[..., Path]) -> None:
    """Whatever is done there: it works, or it is said; the kernels run as well."""
    place = mounted("temporary", "size=64k")
    with (place / "filler").open("wb", buffering=0) as filler, pytest.raises(OSError, match="No space left"):
        while True:
            filler.write(b"\0" * 4096)
    ended = project("sync", "--fresh", "--json", TMPDIR=str(place))
    assert ended.code in (0, 1), ended.stderr
    assert ended.code == 0 or ended.document["error"]["code"] == "no-space"
    assert project.leftovers() == []
    assert project.done("sync", "--no-verify")["in_sync"]


def test_a_home_that_cannot_be_written(project: Any, mounted: Callable[..., Path]) -> None:
    home = mounted("home", "size=1m")
    subprocess.run(["mount", "-o", "remount,ro", home], check=True)
    changes = {"HOME": str(home), "BNBENV_HOME": None, "UV_CACHE_DIR": None, "XDG_CACHE_HOME": None}
    changes |= {"XDG_DATA_HOME": None, "XDG_CONFIG_HOME": None}
    # What needs no new file there works; without a place for uv's cache no packages can be had.
    assert project("check", **changes).code == 0
    assert project.done("sync", **changes)["actions"] == []
    error = refused(project, "sync", "--fresh", "--no-verify", **changes)
    assert error["code"] == "no-permission"
    assert str(home) in error["message"]
    assert project.leftovers() == []
    # And nothing can be kept for a user without a project.
    ended = type(project)(project.root.parent, project.environ)("sync", "--json", **changes)
    assert ended.code == 1
    assert ended.document["error"]["code"] == "read-only"


def own_python(place: Path) -> Path:
    """A Python of its own that can be deleted: the program is a copy, its library is a link."""
    (place / "bin").mkdir(parents=True)
    base = Path(sys.base_prefix)
    (place / "lib").symlink_to(base / "lib")
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    shutil.copy(Path(sys._base_executable).resolve(), place / "bin" / version)  # type: ignore[attr-defined]
    (place / "bin" / "python3").symlink_to(version)
    program = place / "bin" / "python3"
    told = subprocess.run([program, "-c", "import sys; print(sys.prefix)"], capture_output=True, text=True, check=False)
    if told.stdout.strip() != str(place):
        pytest.skip(f"this Python cannot be copied: {told.stdout}{told.stderr}")
    return program


def test_a_python_that_vanished(locked: Any, tmp_path: Path) -> None:
    place = tmp_path / "own-python"
    program = own_python(place)
    # Facts that name this one alone, so that no other Python of its version is taken.
    facts = locked.done("facts") | {"pythons": [{"path": str(program), "version": platform.python_version()}]}
    (tmp_path / "facts.json").write_text(json.dumps(facts))
    recorded = {"BNBENV_FACTS": str(tmp_path / "facts.json")}
    assert locked.done("sync", "--no-verify", **recorded)["generations"][0]["generation"] == 1
    shutil.rmtree(place)
    found = locked.drift(**recorded)
    assert list(found) == ["python-gone"]
    assert f"its Python is gone ({place}" in found["python-gone"]
    assert locked.done("sync", "--no-verify")["generations"][0]["generation"] == 2
    assert set(locked.drift()) == {"unverified"}
    assert locked.quantizes()
    locked.done("sync", "--no-verify")
    assert locked.leftovers() == []


CLOCK = """\
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/time.h>
#include <time.h>
#define BACK (40L * 86400)
int clock_gettime(clockid_t id, struct timespec *now) {
    int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
    int code = real(id, now);
    if (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE) now->tv_sec -= BACK;
    return code;
}
time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}
int gettimeofday(struct timeval *out, void *zone) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    out->tv_sec = now.tv_sec;
    out->tv_usec = now.tv_nsec / 1000;
    return 0;
}
"""


@pytest.fixture
def clock(tmp_path: Path) -> dict[str, str]:
    """The environment of programs whose clock is forty days behind."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("a C compiler (gcc) is missing, or this is not Linux")
    (tmp_path / "clock.c").write_text(CLOCK)
    library = tmp_path / "clock.so"
    words = [compiler, "-shared", "-fPIC", "-O1", "-o", library, tmp_path / "clock.c", "-ldl"]
    subprocess.run(words, check=True, timeout=60)
    return {"LD_PRELOAD": str(library)}


def test_a_clock_that_goes_back(project: Any, clock: dict[str, str], wheel_maker: Any) -> None:
    """Generations are ordered by their numbers; what is in uv's cache comes from the future."""
    import datetime

    (first,) = project.done("list")["generations"]
    assert project("check", **clock).code == 0
    wheel_maker(project.root / "wheels", "tinypackage", "1.0")
    text = '[envs.bnb]\nrequirements = ["tinypackage"]\n[sources]\nfind-links = ["wheels"]\n'
    (project.root / "bnbenv.toml").write_text(text)
    assert project.done("sync", "--no-verify", **clock)["generations"][0]["generation"] == 2
    assert set(project.drift(**clock)) == set(project.drift()) == {"unverified"}
    rows = project.done("list", **clock)["generations"]
    assert [row["generation"] for row in rows] == [1, 2]
    before, after = (datetime.datetime.fromisoformat(row["created"]) for row in rows)
    assert before - after > datetime.timedelta(days=39)
    assert rows[0]["created"] == first["created"]
    assert project.done("sync", "--fresh", "--no-verify")["generations"][0]["generation"] == 3
    project.done("gc", **clock)
    assert [row["generation"] for row in project.done("list")["generations"]] == [1, 3]  # 2 is not verified
    assert project.done("rollback", **clock)["generation"] == 1
    assert project.leftovers() == []
    assert project.quantizes()
