"""Taking hooks away without a trace, so that a run that was killed is completed by the next one.

The files that call the scripts go first, then the scripts; the manifest goes last, and with it the folders.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping

from bnbenv.hooks.kinds import BASE, KINDS, USER_KINDS, Caller, OwnFile, files_of
from bnbenv.hooks.place import Place
from bnbenv.hooks.planned import Did, Done, check_rights, plan_files, prune, recorded, shells, take_stale
from bnbenv.hooks.registry import Manifest, Registered, read_manifest, read_projects, write_manifest, write_projects
from bnbenv.hooks.units import read_again
from bnbenv.hooks.writing import look, sweep, take_away
from bnbenv.process import Runner


def uninstall(
    place: Place,
    kinds: Iterable[str],
    projects: Iterable[str | None],
    environ: Mapping[str, str],
    runner: Runner,
    say: Callable[[str], None],
) -> Did:
    """Take these kinds away, all of them if none is named; with ``projects`` alone, only forget those.

    Raises UsageError (no rights), Busy, OSError.
    """
    from bnbenv.envs.hold import hold

    forget, named = set(projects), tuple(kinds)
    known, before = read_manifest(place), read_projects(place)
    there = {kind: _files(kind, place, known, before) for kind in (USER_KINDS if place.user else KINDS)}
    go = named or (() if forget else tuple(there))
    installed = known.kinds if known else {}
    keep = [kind for kind, files in there.items() if kind not in go and (kind in installed or _ours(files))]
    last = not keep and bool(go)
    going = [(kind, file) for kind in there if kind in go for file in there[kind]]
    going += [(BASE, file) for file in _files(BASE, place, known, before)] if last else []
    if not (_ours(file for _, file in going) or forget or place.folder.exists()):
        return Did([], (), [])
    check_rights(place, (file.path for file in _ours(file for _, file in going)))
    left = () if last else tuple(one for one in before if one.path not in forget)
    done: list[Done] = []
    with contextlib.ExitStack() as holding:
        if place.folder.exists():
            holding.enter_context(hold(place.folder, "the hooks", 5.0, environ, say))
        for kind, file in going:
            did = take_away(file, known is not None and str(file.path) in known.made)
            done += [] if did is None else [(kind, file.path, did)]
        if last:
            _empty(place)
        elif known is not None:
            done += _keep(place, known, keep, left)
    if last:
        _leave(place, known)
    units = any(kind == "systemd" for kind, _, _ in done)
    return Did(done, left, read_again(place, environ, runner) if units else [])


def _files(kind: str, place: Place, known: Manifest | None, projects: Iterable[Registered]) -> list[OwnFile]:
    """The files of a kind that may be there: those that would be written, and those that once were."""
    caller, uids = Caller((sys.executable,), {}, "", ""), [one.uid for one in projects]
    files = {file.path: file for file in recorded(kind, known)}
    files |= {file.path: file for file in files_of(kind, place, caller, uids, shells(place, known))}
    return list(files.values())


def _ours(files: Iterable[OwnFile]) -> list[OwnFile]:
    """Those that are there."""
    return [file for file in files if look(file, None) not in ("missing", "not ours")]


def _keep(place: Place, known: Manifest, keep: Iterable[str], left: tuple[Registered, ...]) -> list[Done]:
    """Go on with these kinds and projects."""
    write_projects(place, left)
    plan = plan_files(place, Caller(known.command, known.variables, known.version, known.package), keep, left, known)
    gone = take_stale(plan, known)
    kinds = {kind: files for kind, files in known.kinds.items() if kind in plan.kinds}
    stale = {str(path) for _, path, _ in gone}
    kinds = {kind: {path: of for path, of in files.items() if path not in stale} for kind, files in kinds.items()}
    write_manifest(place, known._replace(kinds=kinds, folders=prune(known.folders)))
    for box in place.boxes.glob("*"):
        if box.name not in {str(uid) for uid in (place.uid, *(one.uid for one in left))}:
            shutil.rmtree(box, ignore_errors=True)
    return gone


def _empty(place: Place) -> None:
    """Delete what is in the hooks' own folder, but for the manifest, which knows what is still to be done."""
    shutil.rmtree(place.boxes, ignore_errors=True)  # it follows no links that users may have put there
    for path in (place.projects, place.noted):
        sweep(path)
        path.unlink(missing_ok=True)


def _leave(place: Place, known: Manifest | None) -> None:
    """Delete the manifest, the lock beside it, and the folders that were made."""
    folders = tuple(known.folders if known else ())
    prune(folder for folder in folders if folder != str(place.folder))
    if os.path.lexists(place.folder):
        sweep(place.manifest)
        for path in (place.folder / "lock", place.folder / "lock.held", place.manifest):
            path.unlink(missing_ok=True)
    own = (str(place.folder), str(place.folder.parent)) if place.user else (str(place.folder),)  # bnbenv's, if empty
    prune((*own, *folders))
