"""Generations: environments that are made at their final path, finished by a record, and switched to by one rename.

Whatever ends bnbenv before the switch leaves the environment in use as it was; what is left unfinished is deleted by
the next run that holds the lock.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bnbenv.envs.check import in_use, is_link
from bnbenv.envs.project import Project, env_python
from bnbenv.envs.record import Record, read_record
from bnbenv.errors import Busy, Failed

WAIT = 5.0  # seconds a second bnbenv waits for the first


@dataclass(frozen=True)
class Generation:
    """One environment that was made. ``record`` is None while it is unfinished."""

    number: int
    prefix: Path
    record: Record | None

    @property
    def record_file(self) -> Path:
        return self.prefix.parent / f"{self.number}.json"

    @property
    def lock_file(self) -> Path:
        return self.prefix.parent / f"{self.number}.lock.toml"

    @property
    def usable(self) -> bool:
        return self.record is not None and env_python(self.prefix).exists()


@contextlib.contextmanager
def held(project: Project, wait: float = WAIT) -> Iterator[None]:
    """Hold the project against a second bnbenv. Raises Busy if another one keeps it longer than ``wait`` seconds."""
    from filelock import FileLock, Timeout

    project.home.mkdir(parents=True, exist_ok=True)
    ignore = project.home / ".gitignore"
    if not ignore.exists():
        ignore.write_text("*\n", encoding="utf-8")
    lock = FileLock(project.home / "lock")
    try:
        lock.acquire(timeout=wait)
    except Timeout:
        raise Busy(
            "busy", f"another bnbenv is at work on {project.root}", "Wait until it has finished, then run it again."
        ) from None
    try:
        yield
    finally:
        lock.release()


def generations(project: Project, env: str) -> list[Generation]:
    """All generations of an environment, the oldest first, unfinished ones included."""
    folder = project.generations(env)
    try:
        names = [entry.name for entry in os.scandir(folder) if entry.is_dir() and entry.name.isdigit()]
    except OSError:
        return []
    numbers = sorted(int(name) for name in names)
    return [Generation(n, folder / str(n), read_record(folder / f"{n}.json")) for n in numbers]


def new_generation(project: Project, env: str) -> Generation:
    """The next number and its place; nothing is made yet. Numbers are not used twice while a trace is left."""
    folder = project.generations(env)
    folder.mkdir(parents=True, exist_ok=True)
    taken = [int(entry.name.split(".")[0]) for entry in os.scandir(folder) if entry.name.split(".")[0].isdigit()]
    number = max(taken, default=0) + 1
    return Generation(number, folder / str(number), None)


def clean_up(project: Project, env: str) -> list[int]:
    """Delete what a run that did not finish has left; returns the numbers. The one in use is never touched."""
    current = in_use(project, env).generation
    removed = []
    for generation in generations(project, env):
        if generation.record is None and generation.number != current:
            remove(generation)
            removed.append(generation.number)
    folder = project.generations(env)
    if folder.is_dir():
        alive = {generation.number for generation in generations(project, env)}
        for entry in list(os.scandir(folder)):
            stem = entry.name.split(".")[0]
            stale = entry.name.endswith(".part") or (stem.isdigit() and int(stem) not in alive)
            if entry.is_file(follow_symlinks=False) and stale:
                Path(entry.path).unlink(missing_ok=True)
    for entry in list(os.scandir(project.root)):
        if entry.name.startswith(f".venv-{env}.new-") and entry.is_symlink():
            Path(entry.path).unlink(missing_ok=True)
    return removed


def remove(generation: Generation) -> None:
    """Delete a generation: the record first, so that what a kill leaves is seen as unfinished."""
    generation.record_file.unlink(missing_ok=True)
    shutil.rmtree(generation.prefix, ignore_errors=True)
    if not generation.prefix.exists():
        generation.lock_file.unlink(missing_ok=True)


def switch(project: Project, env: str, generation: Generation) -> None:
    """Point the environment's link at a generation, in one rename. Raises Failed if something else is in its place."""
    link = project.link(env)
    if os.path.lexists(link) and not is_link(link):
        raise Failed(
            "link-replaced",
            f"{link} is not bnbenv's link, and bnbenv does not delete what it did not make",
            f"Move it away (mv {link.name} {link.name}.old), then run: bnbenv sync",
        )
    if os.name == "nt":
        _switch_junction(link, generation.prefix)
        return
    fresh = link.with_name(f"{link.name}.new-{os.getpid()}")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(os.path.relpath(generation.prefix, link.parent), target_is_directory=True)
    fresh.replace(link)


def _switch_junction(link: Path, target: Path) -> None:
    """A junction needs no privilege on Windows; it cannot be replaced in one step, so the old one is renamed first."""
    import importlib

    junction = importlib.import_module("_winapi").CreateJunction
    old = link.with_name(f"{link.name}.old")
    if is_link(old):
        old.rmdir()
    if os.path.lexists(link):
        link.replace(old)
    junction(str(target), str(link))
    if is_link(old):
        old.rmdir()


def previous(project: Project, env: str, wanted: int | None = None) -> Generation:
    """The generation to go back to: the one named, else the newest usable one before that in use. Raises Failed."""
    current = in_use(project, env).generation
    known = generations(project, env)
    if wanted is not None:
        found = next((generation for generation in known if generation.number == wanted), None)
        if found is None or not found.usable:
            state = "is not finished or its Python is gone" if found else "does not exist"
            raise Failed("no-generation", f"generation {wanted} of {env} {state}", "See: bnbenv list")
        return found
    older = [g for g in known if g.usable and g.number != current and (current is None or g.number < current)]
    if not older:
        raise Failed("no-generation", f"there is no earlier generation of {env} to go back to", "See: bnbenv list")
    return older[-1]
