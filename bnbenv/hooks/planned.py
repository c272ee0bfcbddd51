"""What is to be there, what is there, and writing that down before anything is changed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from bnbenv.errors import UsageError
from bnbenv.hooks.kinds import BASE, Caller, OwnFile, files_of
from bnbenv.hooks.place import Place
from bnbenv.hooks.registry import Manifest, Registered, read_manifest, write_manifest
from bnbenv.hooks.writing import digest, missing_folders, take_away

Done = tuple[str, Path, str]


class Did(NamedTuple):
    """What was done: ``(kind, path, writing.Did)``, the projects now, notes for people."""

    files: list[Done]
    projects: tuple[Registered, ...]
    notes: list[str]


class Plan(NamedTuple):
    """The files that are to be there, each with its kind, in the order of writing: the scripts first."""

    kinds: tuple[str, ...]
    by_kind: tuple[tuple[str, OwnFile], ...]

    @property
    def files(self) -> list[OwnFile]:
        return [file for _, file in self.by_kind]

    @property
    def digests(self) -> dict[str, dict[str, str]]:
        """By kind and path, as the manifest has them."""
        found: dict[str, dict[str, str]] = {kind: {} for kind in self.kinds}
        for kind, file in self.by_kind:
            found[kind][str(file.path)] = digest(file)
        return found


def plan_files(
    place: Place, caller: Caller, kinds: Iterable[str], projects: Iterable[Registered], known: Manifest | None
) -> Plan:
    """The files of these kinds. A program's folder that is not there has no file put into it."""
    uids = [one.uid for one in projects]
    names = (BASE, *kinds)
    files = ((kind, file) for kind in names for file in files_of(kind, place, caller, uids, shells(place, known)))
    return Plan(names, tuple((kind, file) for kind, file in files if file.after is None or file.after.is_dir()))


def shells(place: Place, known: Manifest | None) -> list[Path]:
    """The files of the user's that interactive shells read: of bash and zsh where they are there, else ~/.profile.

    A link is followed: people keep such files elsewhere.
    """
    if not place.user:
        return []
    before = [Path(path) for path in (known.kinds.get("profile", {}) if known else ()) if not path.endswith(".fish")]
    names = [path for path in (place.home / ".bashrc", place.home / ".zshrc") if path.is_file()]
    found = [path.resolve() for path in names] or ([] if before else [(place.home / ".profile").resolve()])
    return list(dict.fromkeys((*before, *found)))


def recorded(kind: str, known: Manifest | None) -> list[OwnFile]:
    """The files of a kind that an installation wrote down. Only what they hold tells whether they are ours."""
    found = []
    for text in known.kinds.get(kind, {}) if known else ():
        path = Path(text)
        link = os.readlink(path) if path.is_symlink() and path.name.startswith("bnbenv-") else None
        found.append(OwnFile(path, link=link))
    return found


def folders_for(place: Place, plan: Plan) -> list[str]:
    """The folders that have to be made for it, and the hooks' own."""
    parents = (place.folder, *(file.path.parent for file in plan.files))
    missing = (folder for parent in parents for folder in missing_folders(parent))
    return list(dict.fromkeys(map(str, (*missing, place.folder))))


def write_down(
    place: Place,
    caller: Caller,
    plan: Plan,
    folders: Iterable[str],
    known: Manifest | None,
    complete: bool = False,
) -> None:
    """Write the manifest. Until it is ``complete``, what was there before is in it too, to be taken away. OSError."""
    now = plan.digests
    before: Mapping[str, Mapping[str, str]] = known.kinds if known and not complete else {}
    both = {kind: {**before.get(kind, {}), **now.get(kind, {})} for kind in (*before, *now)}
    started = read_manifest(place)
    fresh = [str(file.path) for file in plan.files if file.block and not file.path.exists()]
    made = dict.fromkeys((*(started.made if started else ()), *fresh))
    all_folders = tuple(sorted({*(started.folders if started else ()), *folders}))
    how = (caller.version, caller.package, caller.command, caller.variables)
    manifest = Manifest(*how, both, all_folders, tuple(made))
    write_manifest(place, manifest)


def take_stale(plan: Plan, known: Manifest | None) -> list[Done]:
    """Take away what was written earlier for these kinds and is not wanted any more: links of former owners."""
    now = {file.path for file in plan.files}
    files = [(kind, file) for kind in plan.kinds for file in recorded(kind, known) if file.path not in now]
    return [(kind, file.path, did) for kind, file in files if (did := take_away(file)) is not None]


def prune(folders: Iterable[str]) -> tuple[str, ...]:
    """Delete those that are empty, the deepest first. Returns those that are left."""
    names = tuple(folders)
    for folder in sorted(names, key=len, reverse=True):
        with contextlib.suppress(OSError):
            Path(folder).rmdir()
    return tuple(folder for folder in names if os.path.lexists(folder))


def check_rights(place: Place, paths: Iterable[Path], otherwise: str = "") -> None:
    """Raises UsageError where one of the folders cannot be written by this user; ``otherwise`` ends the next step."""
    for path in (place.manifest, *paths):
        folder = path.parent
        while not os.path.lexists(folder) and folder != folder.parent:
            folder = folder.parent
        if place.uid != 0 and not os.access(folder, os.W_OK):
            message = f"you may not write into {folder}"
            raise UsageError(
                "no-rights", message, "See to its rights." if place.user else f"Run it as root (sudo){otherwise}."
            )
