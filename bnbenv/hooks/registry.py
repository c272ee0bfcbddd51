"""Which projects the hooks are about, what was installed, and how syncs ended: small JSON files, read with care.

Standard library only, a fast path. What cannot be read counts as not there: a hook never fails for it.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bnbenv.errors import UsageError
from bnbenv.hooks.place import Place, changeable
from bnbenv.paths import write_atomically

SCHEMA = "bnbenv.hooks/1"
_LARGEST = 1 << 20


class Registered(NamedTuple):
    """A project, and the user who owns it and as whom it is synced. ``path`` None: that user's own environment."""

    path: str | None
    uid: int


class Manifest(NamedTuple):
    """What was installed: the files of each kind with the digests of their texts, and the folders made for them.

    It is written before the first file is, so that a run that was killed is finished, or undone, by the next one.
    ``made`` are files of the user's that were not there before a block was put into them.
    """

    version: str
    package: str
    command: tuple[str, ...]
    variables: Mapping[str, str]
    kinds: Mapping[str, Mapping[str, str]]
    folders: tuple[str, ...] = ()
    made: tuple[str, ...] = ()


class Result(NamedTuple):
    """How the sync of a project ended; ``why`` is a digest of the host and the wishes that it was made for."""

    path: str | None
    when: str
    exit: int
    said: str
    why: str


def load(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is none that can be read. No link is followed: it may be a user's file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
        with open(descriptor, "rb") as stream:  # noqa: PTH123 - a descriptor
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return {}
            found = json.loads(stream.read(_LARGEST))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) and found.get("schema") == SCHEMA else {}


def save(path: Path, document: Mapping[str, Any]) -> None:
    """Write it in one step, to be read by everybody. Raises OSError."""
    write_atomically(path, json.dumps({"schema": SCHEMA, **document}, indent=1, sort_keys=True) + "\n")
    path.chmod(0o644)


def read_projects(place: Place) -> tuple[Registered, ...]:
    rows = load(place.projects).get("projects")
    found = []
    for row in rows if isinstance(rows, list) else []:
        path, uid = (row.get("path"), row.get("uid")) if isinstance(row, dict) else (None, None)
        if isinstance(uid, int) and (path is None or isinstance(path, str)):
            found.append(Registered(path, uid))
    return tuple(dict.fromkeys(found))


def check_root_project(place: Place, one: Registered) -> None:
    """What root's unit syncs nobody else may be able to change: a project's files are run.

    Raises UsageError, OSError.
    """
    if place.user or one.uid != 0 or one.path is None:
        return
    config = Path(one.path) / "bnbenv.toml"
    found = changeable(config if config.exists() else config.parent)
    if found is not None:
        part, status = found
        who = owner_name(status.st_uid) if status.st_uid else "others than root"
        step = "Give the project to the user who works in it (chown), or move it where only root may write."
        raise UsageError("unsafe-project", f"root would sync {one.path}, and {who} may change {part}", step)


def write_projects(place: Place, projects: Iterable[Registered]) -> None:
    """Raises OSError."""
    rows = [{"path": one.path, "uid": one.uid} for one in dict.fromkeys(projects)]
    save(place.projects, {"projects": rows})


def read_manifest(place: Place) -> Manifest | None:
    data = load(place.manifest)
    try:
        return Manifest(
            str(data["version"]),
            str(data["package"]),
            tuple(map(str, data["command"])),
            {str(name): str(value) for name, value in data["variables"].items()},
            {str(kind): {str(p): str(d) for p, d in files.items()} for kind, files in data["kinds"].items()},
            tuple(map(str, data["folders"])),
            tuple(map(str, data["made"])),
        )
    except (KeyError, TypeError, AttributeError):
        return None


def write_manifest(place: Place, manifest: Manifest) -> None:
    """Raises OSError."""
    save(place.manifest, manifest._asdict())


def read_results(box: Path) -> dict[str | None, Result]:
    rows = load(box / "results.json").get("results")
    found = {}
    for row in rows if isinstance(rows, list) else []:
        try:
            one = Result(**row)
        except TypeError:
            continue
        texts = (one.when, one.said, one.why, one.path or "")
        if isinstance(one.exit, int) and all(isinstance(text, str) for text in texts):
            found[one.path] = one
    return found


def write_results(box: Path, results: Iterable[Result]) -> None:
    """Raises OSError."""
    save(box / "results.json", {"results": [one._asdict() for one in results]})


def owner_name(uid: int) -> str:
    """A user's name, or the number where it has none."""
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
