"""``bnbenv hook status``: what is installed, whether it is as it was written, and what is pending."""

from __future__ import annotations

import argparse
import contextlib
from typing import TYPE_CHECKING, Any

from bnbenv.cli.command import Context, Outcome
from bnbenv.errors import BnbenvError, Exit

if TYPE_CHECKING:
    from bnbenv.hooks.place import Place

SUMMARY = """\
Say which hooks are installed, the system's and your own, whether each file is as
it was written, which projects they are about and how the last sync of each ended,
and what was noted of the driver last."""
EXAMPLE = "bnbenv hook status"
EXITS = "0 all is as it was written, or nothing is installed, 2 wrong usage, 3 something is to be done"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--user", action="store_true", help="those in your home alone")


def run(args: argparse.Namespace, ctx: Context) -> Outcome:
    from bnbenv.hooks.place import place_of

    places = [] if args.user else [place_of(ctx.environ, False)]
    with contextlib.suppress(BnbenvError):  # a user without a home has no hooks
        places.append(place_of(ctx.environ, True))
    rows = [row for place in places if (row := _row(place)) is not None]
    document = {"schema": "bnbenv.hook-status/1", "places": rows}
    wrong = any(
        not row["works"]
        or any(file["state"] != "as written" for file in row["files"])
        or any(one["exit"] for one in row["projects"])
        or (row["noted"] and row["noted"]["state"] == "mismatch" and not row["noted"]["restarted"])
        for row in rows
    )
    return Outcome(Exit.PENDING if wrong else Exit.DONE, document)


def _row(place: Place) -> dict[str, Any] | None:
    from bnbenv.hooks.registry import owner_name
    from bnbenv.hooks.status import standing

    found = standing(place)
    if found is None:
        return None
    noted = found.noted
    return {
        "user": place.user,
        "folder": str(place.folder),
        "command": list(found.command),
        "version": found.version,
        "works": found.works,
        "files": [{"kind": kind, "path": str(path), "state": state} for kind, path, state in found.files],
        "projects": [
            {
                "path": one.path,
                "owner": owner_name(one.uid),
                "when": result.when if result else None,
                "exit": result.exit if result else None,
                "said": result.said if result else None,
            }
            for one, result in found.projects
        ],
        "noted": None
        if noted is None
        else {
            "when": noted.when,
            "event": noted.event,
            "state": noted.state,
            "restarted": found.restarted,
            "changes": noted.changes,
        },
        "message": None if found.message is None else {"text": found.message[0], "told": found.message[1]},
    }
