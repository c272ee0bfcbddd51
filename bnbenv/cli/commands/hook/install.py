"""``bnbenv hook install``: have package managers, systemd and shells tell bnbenv of a change of the driver."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any

from bnbenv.cli.command import Context, Outcome
from bnbenv.errors import Exit, UsageError

if TYPE_CHECKING:
    from bnbenv.hooks.place import Place
    from bnbenv.hooks.registry import Registered

SUMMARY = """\
Have the environments follow a change of the NVIDIA driver. After a package
manager's work bnbenv notes, in the background, that the driver is another one;
users are told so once; after the reboot each project is synced as its owner.

apt, dnf, pacman, zypper: they call it. systemd: syncs at the start of the
machine, and shows a notification on a desktop. profile: a line in the next
interactive shell. None named: all that this machine has a use for."""
EXAMPLE = """\
sudo bnbenv hook install apt systemd profile --project /srv/train
bnbenv hook install --user             where the system is not yours"""
EXITS = (
    "0 installed, or nothing to do, 1 a file is in the way or cannot be written, 2 wrong usage, or no rights, 8 another"
    " bnbenv is at work"
)
PROJECTS = True  # --project may be given several times


def add_arguments(parser: argparse.ArgumentParser) -> None:
    kinds = "apt, dnf, pacman, zypper, systemd, profile (default: those of use here)"
    parser.add_argument("kinds", metavar="KIND", nargs="*", type=kind, help=kinds)
    parser.add_argument("--user", action="store_true", help="for yourself alone, in your home: systemd and profile")


def kind(text: str) -> str:
    """The name of a kind of hook."""
    from bnbenv.hooks.kinds import KINDS

    if text not in KINDS:
        raise argparse.ArgumentTypeError(f'expected {", ".join(KINDS)}, found "{text}"')
    return text


def run(args: argparse.Namespace, ctx: Context) -> Outcome:
    from bnbenv.hooks.install import check_kinds, install, kinds_here
    from bnbenv.hooks.place import place_of

    place = place_of(ctx.environ, args.user)
    check_kinds(place, args.kinds)
    kinds = tuple(dict.fromkeys(args.kinds)) or kinds_here(place)
    did = install(place, kinds, projects_of(args.project, place, ctx), ctx.environ, ctx.runner, ctx.progress.say)
    document = {
        "schema": "bnbenv.hook-install/1",
        "user": place.user,
        "folder": str(place.folder),
        "files": file_rows(did.files),
        "projects": project_rows(did.projects),
        "notes": did.notes,
    }
    return Outcome(Exit.DONE, document)


def projects_of(named: list[str] | None, place: Place, ctx: Context) -> list[Registered]:
    """The projects that are named, else the one of this folder, else, for a user, that user's own environment if made.

    Raises UsageError for one that is no folder, or that a user's own hooks may not sync.
    """
    from bnbenv.envs.project import find_project
    from bnbenv.hooks.registry import Registered

    if named:
        found = [find_project(ctx.cwd, ctx.environ, one) for one in named]
    else:
        here = find_project(ctx.cwd, ctx.environ)
        found = [here] if not here.user or (place.user and here.envs_made()) else []
    rows = []
    for project in found:
        owner = place.uid if project.user else os.stat(project.root).st_uid  # noqa: PTH116
        if place.user and owner != place.uid:
            message = f"{project.root} belongs to somebody else, and hooks sync a project as its owner alone"
            raise UsageError("not-yours", message, "Its owner runs: bnbenv hook install --user")
        rows.append(Registered(None if project.user else str(project.root), owner))
    return rows


def file_rows(files: list[tuple[str, Any, str]]) -> list[dict[str, str]]:
    return [{"kind": kind, "path": str(path), "state": state} for kind, path, state in files]


def project_rows(projects: tuple[Registered, ...]) -> list[dict[str, str | None]]:
    from bnbenv.hooks.registry import owner_name

    return [{"path": one.path, "owner": owner_name(one.uid)} for one in projects]
