"""``bnbenv hook uninstall``: take hooks away without a trace, or forget a project."""

from __future__ import annotations

import argparse

from bnbenv.cli.command import Context, Outcome
from bnbenv.cli.commands.hook.install import file_rows, kind, project_rows
from bnbenv.errors import Exit

SUMMARY = """\
Take these hooks away, all of them if none is named, with every file and folder
that was made for them. With --project and no kind, only have them forget that
project. Environments stay as they are."""
EXAMPLE = """\
sudo bnbenv hook uninstall
bnbenv hook uninstall --user profile"""
EXITS = "0 none is there any more, 1 a file cannot be removed, 2 wrong usage, or no rights, 8 another bnbenv is at work"
PROJECTS = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kinds", metavar="KIND", nargs="*", type=kind, help="the kinds (default: all)")
    parser.add_argument("--user", action="store_true", help="those in your home, not the system's")


def run(args: argparse.Namespace, ctx: Context) -> Outcome:
    from bnbenv.hooks.install import check_kinds
    from bnbenv.hooks.place import place_of
    from bnbenv.hooks.uninstall import uninstall

    place = place_of(ctx.environ, args.user)
    check_kinds(place, args.kinds)
    # A project may be gone, so its path is taken as it stands.
    paths = [str((ctx.cwd / path).absolute()) for path in args.project or ()]
    resolved = [str((ctx.cwd / path).resolve()) for path in args.project or ()]
    did = uninstall(place, args.kinds, [*paths, *resolved], ctx.environ, ctx.runner, ctx.progress.say)
    document = {
        "schema": "bnbenv.hook-uninstall/1",
        "user": place.user,
        "folder": str(place.folder),
        "files": file_rows(did.files),
        "projects": project_rows(did.projects),
        "notes": did.notes,
    }
    return Outcome(Exit.DONE, document)
