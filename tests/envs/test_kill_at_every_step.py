"""``kill -9`` before every effect of a command: what was in use works on, and the next sync leaves one clean state."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.real

DRIVER = str(Path(__file__).with_name("at_effect.py"))
Wheels = Callable[..., Path]


def with_another_wish(project: Any, wheel_maker: Wheels) -> None:
    """A requirement more: the lock has to change."""
    wheel_maker(project.root / "wheels", "tinypackage", "1.0")
    project.replace(
        "bnbenv.toml",
        lambda text: text.replace(b"# requirements = [", b'requirements = ["tinypackage"] # [').replace(
            b"# find-links = []", b'find-links = ["wheels"]'
        ),
    )


def with_two_generations(project: Any, wheel_maker: Wheels) -> None:
    project.done("sync", "--fresh", "--no-verify")


def with_one_to_delete(project: Any, wheel_maker: Wheels) -> None:
    """The one in use is verified, the other is not: it need not be kept."""
    project.done("sync", "--fresh", "--no-verify")
    project.done("rollback")


def with_a_generation_unfinished(project: Any, wheel_maker: Wheels) -> None:
    """A generation without its record, as a killed run leaves it."""
    project.done("sync", "--fresh", "--no-verify")
    project.done("rollback")
    (project.root / ".bnbenv" / "generations" / "bnb" / "2.json").unlink()


# Name -> how the project is made ready, the command, and in how many parts (one a test) its steps are tried. A sync
# with a new lock takes all the steps that one has which is to make a new generation of the same.
RUNS: dict[str, tuple[Callable[[Any, Wheels], None], tuple[str, ...], int]] = {
    "new-lock": (with_another_wish, ("sync", "--no-verify"), 2),
    "rollback": (with_two_generations, ("rollback",), 1),
    "gc": (with_one_to_delete, ("gc", "--keep", "0"), 1),
    "clean-up": (with_a_generation_unfinished, ("sync", "--no-verify"), 1),
}


# Programs that are started to look at something, and a folder that is deleted in case it should be there.
LOOKS = (
    *(f"start {words}" for words in ("uname", "uv python list", "nvcc", "uv pip compile", "uv cache dir")),
    "shutil.rmtree /.bnbenv/bundle",
)


def effects(project: Any, words: tuple[str, ...]) -> list[int]:
    """The numbers of a command's effects before which it is worth being killed, from a run that is not.

    Before a step whose forerunner left the project as it was, a kill finds what it found one step before. Of a tree
    that is deleted a few files stand for all.
    """
    process = project.start(str(project.root), "count", "0", *words, command=(DRIVER,))
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    lines = [line for line in err.splitlines() if line.startswith(("os.", "open ", "start ", "shutil."))]
    numbers = []
    for number, (before, line) in enumerate(zip(["", *lines], lines, strict=False), 1):
        if line != before and not before.startswith(LOOKS):
            numbers.append(number)
    tree = [number for number, line in enumerate(lines, 1) if line.endswith("of a tree")]
    few = {tree[0], tree[len(tree) // 2], tree[-1]} if tree else set()
    return sorted({number for number in numbers if number not in set(tree)} | few)


def kill_before(project: Any, number: int, words: tuple[str, ...]) -> None:
    process = project.start(str(project.root), "kill", str(number), *words, command=(DRIVER,))
    _, err = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL, err


def files_of(project: Any) -> str:
    """A digest of all files of the environment in use but bytecode: what has the same quantizes as the other does."""
    prefix = (project.root / ".venv-bnb").resolve()
    digest = hashlib.sha256()
    for folder, names, files in os.walk(prefix):
        names[:] = sorted(name for name in names if name != "__pycache__")
        for name in sorted(files):
            path = Path(folder) / name
            found = path.lstat()
            content: object = os.readlink(path) if path.is_symlink() else (found.st_size, found.st_mtime_ns)
            if found.st_nlink == 1 and not path.is_symlink():  # no link into uv's cache
                content = path.read_bytes().replace(bytes(project.root), b"")
            digest.update(f"{path.relative_to(prefix)} {content!r}\n".encode())
    return digest.hexdigest()


def assert_sane(project: Any, sound: set[str]) -> None:
    """After a kill: the environment in use runs its kernels, check answers, and a sync brings everything in order.

    ``sound``: the digests of what has run its kernels already.
    """
    files = files_of(project)
    assert files in sound or project.quantizes()
    sound.add(files)
    assert set(project.drift()) <= {"unverified", "lock-changed", "wishes-changed"}
    project.done("sync", "--no-verify")
    assert project.leftovers() == []
    assert set(project.drift()) <= {"unverified"}
    links = [path.name for path in project.root.iterdir() if path.is_symlink()]
    assert links == [".venv-bnb"]
    assert (project.root / ".bnbenv" / ".gitignore").read_text() == "*\n"
    assert {path.name for path in project.root.iterdir()} <= {
        *(".bnbenv", ".venv-bnb", "bnbenv.toml", "pylock.bnb.toml", "wheels"),
    }


@contextlib.contextmanager
def told(step: str) -> Iterator[None]:
    """Name the step in what fails within."""
    try:
        yield
    except AssertionError as error:
        raise AssertionError(f"killed before {step}: {error}") from error


@pytest.mark.parametrize(
    ("run", "part"), [(name, part) for name, (_, _, parts) in RUNS.items() for part in range(parts)]
)
def test_killed_before_any_step(copies: Any, wheel_maker: Wheels, run: str, part: int) -> None:
    prepare, words, parts = RUNS[run]
    with copies() as template:
        prepare(template, wheel_maker)
        assert template.quantizes()  # which leaves bytecode for the copies
        sound = {files_of(template)}
        with copies(template.root) as project:
            numbers = effects(project, words)
        assert len(numbers) > 4
        for number in numbers[part::parts]:
            with copies(template.root) as project, told(f"effect {number} of {' '.join(words)}"):
                kill_before(project, number, words)
                assert_sane(project, sound)


def test_an_add_killed_before_any_step(copies: Any) -> None:
    """It is there or it is not: the environment that was there is in sync throughout, and a sync clears up.

    Of its steps every third is tried, which are those of a sync otherwise.
    """
    words = ("add", "none", "--no-verify")
    with copies() as project:
        wished = (project.root / "bnbenv.toml").read_bytes()
        numbers = effects(project, words)
    assert len(numbers) > 16
    for number in numbers[10::3]:  # before them nothing but the lock against a second bnbenv is made
        with copies() as project, told(f"effect {number} of {' '.join(words)}"):
            kill_before(project, number, words)
            added = (project.root / "bnbenv.toml").read_bytes() != wished
            reasons = set(project.drift())
            assert reasons == set() if not added else reasons <= {"no-environment", "unverified"}
            project.done("sync", "--no-verify")
            assert project.leftovers() == []
            assert (project.root / ".bnbenv" / "generations" / "torch").exists() == added
            assert (project.root / ".venv-torch").exists() == added
            assert set(project.drift()) == ({"unverified"} if added else set())


def test_a_first_sync_killed_before_any_step(synced: Any, locked: Any) -> None:
    words = ("sync", "--no-verify")
    wanted = (locked.root / "pylock.bnb.toml").read_bytes()
    numbers = effects(locked, words)
    assert len(numbers) > 10
    for number in numbers:
        (locked.root / ".venv-bnb").unlink()
        shutil.rmtree(locked.root / ".bnbenv")
        (locked.root / "pylock.bnb.toml").write_bytes(wanted)
        with told(f"effect {number} of a first sync"):
            kill_before(locked, number, words)
            assert set(locked.drift()) <= {"no-environment", "unverified"}
            locked.done("sync", "--no-verify")
            assert locked.leftovers() == []
            assert set(locked.drift()) == {"unverified"}
