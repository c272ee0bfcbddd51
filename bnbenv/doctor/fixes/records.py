"""The way back: what a change is about to touch, kept in the user's data before anything is changed.

A record's folder holds the saved files and ``record.json``, which is written last: a folder without one is of a bnbenv
that was ended before it changed anything. Its ``state`` is ``changing`` until the change has been verified.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal

import msgspec

from bnbenv.doctor.fixes.model import PlanStep
from bnbenv.doctor.fixes.trees import Stamp, Tree
from bnbenv.errors import InputError, UsageError
from bnbenv.paths import data_home, write_atomically

SCHEMA = "bnbenv.mend/1"
WAIT = 5.0  # seconds for another bnbenv that mends
KEPT = 10  # ways back, beside those that were cut short
CHANGING = "changing"  # a file of this name lies beside a record while its change is made


class SavedFile(msgspec.Struct, frozen=True, kw_only=True):
    """A single file (of a shell, of conda, a bnbenv.toml) as it was. ``after`` is the digest of what was made of it.

    ``between`` are those of what it was meanwhile, where it was changed in steps; ``created``: it was not there before.
    """

    path: str
    saved: str
    before: str
    after: str
    between: tuple[str, ...] = ()
    created: bool = False


class Distribution(msgspec.Struct, frozen=True, kw_only=True):
    """A package that was installed: its version, and where it came from if that was no index (PEP 610)."""

    name: str
    version: str
    direct_url: str | None = None


class MendRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One change, and what was there before. ``changed`` is what it made of each tree, by position."""

    name: str
    created: str
    state: Literal["changing", "done", "undone"]
    prefix: str | None
    python: str | None
    plan: tuple[PlanStep, ...]
    packages: tuple[Distribution, ...] = ()
    trees: tuple[Tree, ...] = ()
    files: tuple[SavedFile, ...] = ()
    changed: tuple[dict[str, Stamp | None], ...] = ()
    schema: str = SCHEMA


def home(environ: Mapping[str, str]) -> Path:
    """The folder of all records. Raises UsageError for a user without a home."""
    return data_home(environ) / "mends"


@contextlib.contextmanager
def held(environ: Mapping[str, str], say: Callable[[str], None]) -> Iterator[Path]:
    """Hold the records against a second bnbenv, and delete what was begun and never came to a change.

    Raises Busy, OSError.
    """
    from bnbenv.envs.hold import hold

    folder = home(environ)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with hold(folder, "a fix", WAIT, environ, say):
        for entry in list(os.scandir(folder)):
            if entry.is_dir(follow_symlinks=False) and not Path(entry.path, "record.json").exists():
                shutil.rmtree(entry.path, ignore_errors=True)
        yield folder


def new_name(folder: Path) -> str:
    """A name that no record has: the time, to the second."""
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%d-%H%M%S")
    taken = {entry.name for entry in os.scandir(folder)}
    return next(name for name in (now, *(f"{now}-{n}" for n in range(2, 1000))) if name not in taken)


def write(record: MendRecord, folder: Path) -> None:
    """Write it in one step. Raises OSError."""
    mark = folder / record.name / CHANGING  # most of the time nobody has to read a record to know that it is finished
    if record.state == "changing":
        mark.touch()
    write_atomically(folder / record.name / "record.json", msgspec.json.encode(record).decode() + "\n")
    if record.state != "changing":
        mark.unlink(missing_ok=True)


def read(folder: Path, name: str) -> MendRecord:
    """A record. Raises UsageError where there is none, InputError where it cannot be read."""
    file = folder / name / "record.json"
    step = "Its files lie beside it: what was changed can be put back by hand."
    if not name or name in (".", "..") or "/" in name or os.sep in name:
        raise UsageError("no-record", f'"{name[:60]}" is no name of a record', "Name one of those that exist.")
    try:
        record = msgspec.json.decode(file.read_bytes(), type=MendRecord)
    except FileNotFoundError:
        known = ", ".join(one.name for one in every(folder)[-5:]) or "none"
        raise UsageError("no-record", f"there is no record {name}", f"These exist: {known}.") from None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(str(file), "", f"cannot be read ({error})", step) from None
    if record.schema != SCHEMA or record.name != name:
        raise InputError(str(file), "schema", f"expected {SCHEMA} of {name}", step)
    return record


def every(folder: Path) -> list[MendRecord]:
    """All records that can be read, the oldest first."""
    found = []
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    except OSError:
        return []
    for name in names:
        with contextlib.suppress(UsageError):
            if (folder / name / "record.json").exists():
                found.append(read(folder, name))
    return sorted(found, key=lambda one: (one.created, one.name))


def in_progress(environ: Mapping[str, str]) -> tuple[str, ...]:
    """The names of those whose change was cut short. One that is being made at this moment is among them."""
    try:
        folder = home(environ)
        names = sorted(entry.name for entry in os.scandir(folder) if Path(entry.path, CHANGING).exists())
    except (OSError, UsageError):
        return ()
    found = []
    for name in names:
        with contextlib.suppress(UsageError):
            found += [name] if read(folder, name).state == "changing" else []
    return tuple(found)


def prune(folder: Path) -> None:
    """Delete what was put back, and the oldest of the others: their files take space."""
    records = every(folder)
    old = [one for one in records if one.state == "done"][:-KEPT]
    for record in (*old, *(one for one in records if one.state == "undone")):
        (folder / record.name / "record.json").unlink(missing_ok=True)
        shutil.rmtree(folder / record.name, ignore_errors=True)


def distributions(metadata: Iterable[Path]) -> tuple[Distribution, ...]:
    """Name, version and origin of installed packages, by their metadata's folders."""
    found = []
    for one in metadata:
        name, _, version = one.name.removesuffix(".dist-info").partition("-")
        url = None
        with contextlib.suppress(OSError, ValueError, AttributeError):
            url = str(json.loads((one / "direct_url.json").read_text(encoding="utf-8")).get("url"))
        found.append(Distribution(name=name, version=version, direct_url=url))
    return tuple(found)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
