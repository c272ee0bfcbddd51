"""How the hooks stand: what is installed, whether each file is as it was written, what was noted, what is pending."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import bnbenv
from bnbenv.hooks import tell
from bnbenv.hooks.kinds import BASE, KINDS, Caller
from bnbenv.hooks.note import Noted, boot_id, read_noted
from bnbenv.hooks.place import Place
from bnbenv.hooks.planned import plan_files, recorded
from bnbenv.hooks.registry import Registered, Result, read_manifest, read_projects, read_results
from bnbenv.hooks.writing import look
from bnbenv.paths import Sysroot


class Standing(NamedTuple):
    """``files``: ``(kind, path, state)``. ``command`` is what the hooks call, ``works`` whether it is still there.

    ``projects`` come with how their last sync by a hook ended; ``message`` is what the user is told, and whether that
    was done; ``restarted``: the machine was, since something was noted.
    """

    files: list[tuple[str, Path, str]]
    command: tuple[str, ...]
    version: str
    works: bool
    projects: list[tuple[Registered, Result | None]]
    noted: Noted | None
    message: tuple[str, bool] | None
    restarted: bool


def standing(place: Place) -> Standing | None:
    """None where nothing is installed there."""
    manifest = read_manifest(place)
    if manifest is None:
        return None
    projects = read_projects(place)
    caller = Caller(manifest.command, manifest.variables, bnbenv.__version__, manifest.package)
    kinds = [kind for kind in KINDS if kind in manifest.kinds]
    plan = plan_files(place, caller, kinds, projects, manifest)
    wrote = {path: digest for files in manifest.kinds.values() for path, digest in files.items()}
    files = [(kind, file.path, str(look(file, wrote.get(str(file.path))))) for kind, file in plan.by_kind]
    listed = {path for _, path, _ in files}
    for kind in (BASE, *kinds):  # written by a bnbenv that had other files
        for file in recorded(kind, manifest):
            if file.path not in listed and os.path.lexists(file.path):
                files.append((kind, file.path, "older"))
    rows = [(one, read_results(place.box(one.uid)).get(one.path)) for one in projects]
    works = os.access(manifest.command[0], os.X_OK) and os.path.exists(manifest.package)  # noqa: PTH110
    sysroot = Sysroot(place.root)
    boot, noted = boot_id(sysroot), read_noted(place.noted)
    message = tell.waiting(place.box(place.uid), boot)
    restarted = noted is not None and noted.boot != boot
    return Standing(files, manifest.command, manifest.version, works, rows, noted, message, restarted)
