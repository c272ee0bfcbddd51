"""Installing hooks, so that a run that was killed is completed by the next one.

What will be there is written down first; the scripts come before the files that call them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from bnbenv.errors import UsageError
from bnbenv.hooks.caller import caller_of, check_safe
from bnbenv.hooks.kinds import KINDS, USER_KINDS
from bnbenv.hooks.note import boot_id, compare, observe, read_noted, write_noted
from bnbenv.hooks.place import Place
from bnbenv.hooks.planned import (
    Did,
    check_rights,
    folders_for,
    plan_files,
    take_stale,
    write_down,
)
from bnbenv.hooks.registry import Manifest, Registered, check_root_project, read_manifest, read_projects, write_projects
from bnbenv.hooks.units import read_again
from bnbenv.hooks.writing import make_folders, put, refuse_foreign, sweep
from bnbenv.paths import Sysroot
from bnbenv.process import Runner

_PROGRAMS = {
    "apt": ("/usr/bin/apt-get",),
    "dnf": ("/usr/bin/dnf5", "/usr/bin/dnf", "/usr/bin/dnf-3"),
    "pacman": ("/usr/bin/pacman",),
    "zypper": ("/usr/bin/zypper",),
    "systemd": ("/usr/lib/systemd/systemd", "/lib/systemd/systemd"),
}
_DNF_PLUGINS = (
    "usr/lib*/libdnf5/plugins/actions.so",
    "usr/lib*/*/libdnf5/plugins/actions.so",
    "usr/lib/python3*/*-packages/dnf-plugins/post-transaction-actions.py",
)


def kinds_here(place: Place) -> tuple[str, ...]:
    """The kinds that this machine has a use for."""
    there = [kind for kind, paths in _PROGRAMS.items() if any(place.system_path(path).exists() for path in paths)]
    return tuple(kind for kind in (USER_KINDS if place.user else KINDS) if kind in (*there, "profile"))


def check_kinds(place: Place, kinds: Iterable[str]) -> None:
    """Raises UsageError for a system that has no hooks, and for a package manager's hook of one user."""
    if not sys.platform.startswith("linux"):
        raise UsageError("no-hooks", "hooks are for Linux", "After a change of the driver run: bnbenv sync")
    for kind in kinds:
        if place.user and kind not in USER_KINDS:
            step = "For one user there are systemd and profile; for the system leave out --user."
            raise UsageError("not-for-users", f"what {kind} calls after its work is set for the whole system", step)


def install(
    place: Place,
    kinds: Iterable[str],
    projects: Iterable[Registered],
    environ: Mapping[str, str],
    runner: Runner,
    say: Callable[[str], None],
) -> Did:
    """Install these kinds beside those that are there, which are renewed, and register projects.

    Raises UsageError (no rights; a bnbenv or a project that root must not run), Failed (a file that is not ours is in
    the way), Busy, OSError.
    """
    from bnbenv.envs.hold import hold

    projects = tuple(projects)
    caller = caller_of(place, environ, runner)
    registered = _together(place, projects)
    check_safe(place, caller, (one.uid for one in registered))
    for one in projects:
        check_root_project(place, one)
    known = read_manifest(place)
    plan = plan_files(place, caller, _wanted(known, kinds), registered, known)
    otherwise = ", or for yourself alone: bnbenv hook install --user"
    check_rights(place, (file.path for file in plan.files), otherwise)
    for file in plan.files:
        refuse_foreign(file)
    folders = folders_for(place, plan)
    make_folders(place.folder)
    with hold(place.folder, "the hooks", 5.0, environ, say):
        for path in (place.manifest, place.projects, place.noted):
            sweep(path)
        registered, known = _together(place, projects), read_manifest(place)  # another one may have been quicker
        plan = plan_files(place, caller, _wanted(known, kinds), registered, known)
        write_down(place, caller, plan, folders, known)
        write_projects(place, registered)
        _make_boxes(place, registered)
        done = []
        for kind, file in plan.by_kind:
            make_folders(file.path.parent)
            done.append((kind, file.path, str(put(file))))
        done += take_stale(plan, known)
        write_down(place, caller, plan, folders, known, complete=True)
        _note_first(place)
    notes = _plugins_missing(place) if "dnf" in plan.kinds else []
    return Did(done, registered, notes + (read_again(place, environ, runner) if "systemd" in plan.kinds else []))


def _together(place: Place, projects: Iterable[Registered]) -> tuple[Registered, ...]:
    return tuple(dict.fromkeys((*read_projects(place), *projects)))


def _wanted(known: Manifest | None, kinds: Iterable[str]) -> list[str]:
    there = {*(known.kinds if known else ()), *kinds}
    return [kind for kind in KINDS if kind in there]


def _make_boxes(place: Place, projects: Iterable[Registered]) -> None:
    """A folder for each user who is told something; it is theirs, and in it root follows no link."""
    make_folders(place.boxes)
    for uid in dict.fromkeys((place.uid, *(one.uid for one in projects))):
        box = place.box(uid)
        make_folders(box)
        if place.uid == 0 and box.stat().st_uid != uid:
            os.chown(box, uid, -1)


def _note_first(place: Place) -> None:
    """What the machine is like now: what is another way later is a change."""
    if read_noted(place.noted) is None:
        sysroot = Sysroot(place.root)
        noted, _ = compare(None, observe(sysroot), "install", boot_id(sysroot))
        write_noted(place.noted, noted)


def _plugins_missing(place: Place) -> list[str]:
    if any(True for pattern in _DNF_PLUGINS for _ in Path(place.root).glob(pattern)):
        return []
    four = "python3-dnf-plugin-post-transaction-actions"
    return [f"dnf calls it only with its plugin: dnf install libdnf5-plugin-actions (dnf 5) or {four} (dnf 4)"]
