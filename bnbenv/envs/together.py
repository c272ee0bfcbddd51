"""Environments that are switched together: all of them or none, whenever bnbenv is killed.

Each is made and verified first, and nothing in use is touched meanwhile. Then a journal is written in one step: what it
says holds from then on, and if bnbenv is killed before it is carried out, the next one that holds the project does the
rest. bnbenv.toml, locks and links are replaced only where they are as they were when the journal was written.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from bnbenv.envs import generations as gens
from bnbenv.envs.check import in_use, is_link
from bnbenv.envs.generations import Generation
from bnbenv.envs.project import Project
from bnbenv.envs.record import Record, digest, file_digest
from bnbenv.errors import BnbenvError, Failed
from bnbenv.paths import write_atomically
from bnbenv.process import postponed

if TYPE_CHECKING:
    from bnbenv.envs.resolve import Setting

SCHEMA = "bnbenv.switching/1"


class _File(msgspec.Struct, frozen=True):
    """A file's new text, and the digest of the one that it replaces (None: there is none)."""

    before: str | None
    text: str


class _Move(msgspec.Struct, frozen=True):
    """One environment. ``record`` and ``saved`` are renewed where the generation in use stays: its record, and the lock
    beside it."""

    env: str
    generation: int
    before: int | None
    lock: _File
    record: _File | None = None
    saved: _File | None = None


class _Journal(msgspec.Struct, frozen=True):
    moves: tuple[_Move, ...]
    config: _File | None = None
    schema: str = SCHEMA


@dataclass(frozen=True)
class Switch:
    """A generation that is ready to be switched to, with its lock.

    ``made``: just now, so that it goes again if others fail. ``record``: the new one of the generation that is in use
    and stays.
    """

    env: str
    generation: Generation
    lock: str
    made: bool = False
    record: Record | None = None


@dataclass
class Together:
    """What waits to be switched to. ``undone``: the environments that were switched, and back."""

    switches: list[Switch] = field(default_factory=list)
    undone: tuple[str, ...] = ()

    def discard(self, project: Project) -> None:
        """Delete what was made and is not in use, unless a journal speaks of it."""
        if project.switching.exists():
            return
        for one in self.switches:
            if one.made and in_use(project, one.env).generation != one.generation.number:
                gens.remove(one.generation)
        self.switches.clear()

    def commit(self, setting: Setting) -> None:
        """Switch to all of it, with bnbenv.toml and locks.

        Raises Failed (``edited-meanwhile``, ``link-replaced``), OSError; all is then as it was before.
        """
        project = setting.project
        config = setting.wishes_to_write()
        for one in self.switches:
            gens.check_link(project, one.env)
        if not self.switches:
            return setting.write_wishes()
        new = None if config is None else _File(setting.config_before, config)
        journal = _Journal(tuple(_move(project, one) for one in self.switches), new)
        with postponed(), _Before(project, journal) as before:
            _write(project.switching, journal)
            try:
                _carry_out(project, journal)
            except (BnbenvError, OSError) as error:
                switched = before.switched()
                before.restore(error)
                self.undone = tuple(switched)
                raise
            project.switching.unlink()


def finish(project: Project, say: Callable[[str], None]) -> None:
    """Do the rest of what a killed bnbenv had begun to switch to. The caller holds the project. Raises OSError."""
    try:
        journal = msgspec.json.decode(project.switching.read_bytes(), type=_Journal)
    except FileNotFoundError:
        return
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        journal = _Journal(())  # killed before it said anything
    if journal.moves:
        say(f"going on with a switch that was cut short: {', '.join(one.env for one in journal.moves)}")
    with postponed():
        _carry_out(project, journal)
        project.switching.unlink()


def _write(path: Path, journal: _Journal) -> None:
    """For nobody else to read: there may be a login in bnbenv.toml. What is empty says nothing yet."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
    try:
        write_atomically(path, msgspec.json.encode(journal))
    except BaseException:
        path.unlink()
        raise


def _move(project: Project, one: Switch) -> _Move:
    generation, use = one.generation, in_use(project, one.env)
    record = saved = None
    if one.record is not None:
        record = _File(file_digest(generation.record_file), one.record.text())
        saved = _File(file_digest(generation.lock_file), one.lock)
    lock = _File(file_digest(project.lock(one.env)), one.lock)
    return _Move(one.env, generation.number, use.generation, lock, record, saved)


def _files(project: Project, journal: _Journal) -> Iterator[tuple[Path, _File]]:
    """Everything that is replaced, in the order in which it is."""
    if journal.config is not None:
        yield project.config, journal.config
    for move in journal.moves:
        generation = Generation(move.generation, project.generations(move.env), None)
        for path, file in ((generation.lock_file, move.saved), (generation.record_file, move.record)):
            if file is not None:
                yield path, file
        yield project.lock(move.env), move.lock


def _carry_out(project: Project, journal: _Journal) -> None:
    """What was changed by others since then stays as they left it."""
    for path, file in _files(project, journal):
        if file_digest(path) == file.before != digest(file.text.encode()):
            write_atomically(path, file.text)
    for move in journal.moves:
        link, known = project.link(move.env), gens.generations(project, move.env)
        target = next((one for one in known if one.number == move.generation and one.usable), None)
        free = is_link(link) or not os.path.lexists(link)
        if target is not None and free and in_use(project, move.env).generation == move.before != move.generation:
            gens.switch(project, move.env, target)


class _Before:
    """What was there, to put it back. Files get a second name for the time, so that a full disk does not prevent it."""

    def __init__(self, project: Project, journal: _Journal) -> None:
        self._project, self._moves = project, journal.moves
        paths = [path for path, _ in _files(project, journal)]
        # What is left of these names is cleared away as what is half written is.
        self._saved = {path: path.with_name(f".{path.name}.{os.getpid()}.before.part") for path in paths}
        self._links = {move.env: _target(project.link(move.env)) for move in journal.moves}

    def __enter__(self) -> _Before:
        for path, saved in self._saved.items():
            saved.unlink(missing_ok=True)
            if path.exists():
                try:
                    os.link(path, saved)
                except OSError:  # a file system without links
                    saved.write_bytes(path.read_bytes())
        return self

    def __exit__(self, *ended: object) -> None:
        for saved in self._saved.values():
            saved.unlink(missing_ok=True)

    def switched(self) -> list[str]:
        """The environments whose link leads elsewhere now."""
        return [env for env, target in self._links.items() if _target(self._project.link(env)) != target]

    def restore(self, why: Exception) -> None:
        """Raises Failed where that cannot be done either: the journal then stays for the next bnbenv."""
        try:
            for move in self._moves:
                self._turn_back(move)
            for path, saved in self._saved.items():
                if saved.exists():
                    saved.replace(path)
                else:
                    path.unlink(missing_ok=True)
            self._project.switching.unlink()
        except OSError as error:
            reason = (getattr(why, "strerror", None) or str(why)).lower()
            message = f"the switch was cut short ({reason}), and could not be taken back ({error.strerror})"
            step = "Mend that; then bnbenv sync does the rest."
            raise Failed("switch-unfinished", message, step) from None

    def _turn_back(self, move: _Move) -> None:
        link, target = self._project.link(move.env), self._links[move.env]
        if _target(link) == target:
            return
        if move.before is not None:
            known = gens.generations(self._project, move.env)
            gens.switch(self._project, move.env, next(one for one in known if one.number == move.before))
        elif os.name == "nt":
            link.rmdir()  # a junction
        elif target is None:
            link.unlink()
        else:  # it led to what is no generation
            fresh = link.with_name(f"{link.name}.new-{os.getpid()}")
            fresh.symlink_to(target)
            fresh.replace(link)


def _target(link: Path) -> str | None:
    """Where a link leads; None: there is none."""
    with contextlib.suppress(OSError):
        return os.readlink(link)
    return None
