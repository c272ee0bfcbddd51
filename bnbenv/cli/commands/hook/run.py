"""``bnbenv hook run``: what the hooks call. It never fails: what went wrong is told, and the exit code is 0."""

from __future__ import annotations

import argparse
import contextlib
import os
from typing import Any

from bnbenv.cli.command import Context, Outcome
from bnbenv.errors import BnbenvError, Exit

SUMMARY = """\
Look whether the driver is another one than the last time, note it, and have the
registered projects follow: at once, or after the reboot where kernel module and
library differ until then. This is what the hooks call; by hand it does the same."""
EXAMPLE = "bnbenv hook run --user"
EXITS = "0 always: whatever goes wrong is told, 2 a command line that cannot be read"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = "who calls: apt, dnf, pacman, zypper, boot, login (default: manual)"
    parser.add_argument("--event", metavar="EVENT", default="manual", help=what)
    parser.add_argument("--user", action="store_true", help="for the hooks in your home, not the system's")


def run(args: argparse.Namespace, ctx: Context) -> Outcome:
    try:
        found, trouble = _run(args, ctx), None
    except BnbenvError as error:
        found, trouble = {}, f"{error.message}. {error.next_step}".strip()
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        found, trouble = {}, where + (error.strerror or type(error).__name__).lower()
    except Exception as error:
        found, trouble = {}, f"this is a fault of bnbenv itself: {type(error).__name__}: {error}"
    empty: dict[str, Any] = {"state": None, "changes": [], "started": False, "projects": []}
    document = {"schema": "bnbenv.hook-run/1", "event": "manual", **empty, "trouble": trouble, **found}
    return Outcome(Exit.DONE, document)


def _run(args: argparse.Namespace, ctx: Context) -> dict[str, Any]:
    from bnbenv.hooks.place import place_of
    from bnbenv.hooks.work import EVENTS, MANUAL, Port, run

    # Who reads what is noted is another user than who notes it, and the umask is anybody's.
    os.umask(0o022)
    place = place_of(ctx.environ, args.user)
    event = args.event if args.event in EVENTS else MANUAL
    if not place.folder.is_dir():
        with contextlib.suppress(BnbenvError):  # a user without a home has no hooks
            if not args.user and place_of(ctx.environ, True).folder.is_dir():
                message = "the hooks that are installed here are your own. Run: bnbenv hook run --user"
                return {"event": event, "trouble": message}
        return {"event": event}
    ran = run(place, event, Port(ctx.environ, ctx.runner, ctx.progress))
    rows = [{"path": path, "state": state, "said": said} for path, state, said in ran.projects]
    return {"event": event, "state": ran.state, "changes": ran.changes, "started": ran.started, "projects": rows}
