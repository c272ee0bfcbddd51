"""``bnbenv fleet collection``: where the Ansible collection is, or a copy of it."""

from __future__ import annotations

import argparse

from bnbenv.cli.command import Context, Outcome
from bnbenv.errors import Exit, UsageError

SUMMARY = """\
Print the folder in which Ansible finds the collection bnbenv.fleet, which comes
with bnbenv: modules facts, check, sync and verify, and a role that installs
bnbenv on bare hosts. Playbooks use them without any other command of bnbenv."""
EXAMPLE = """\
export ANSIBLE_COLLECTIONS_PATH=$(bnbenv fleet collection)
bnbenv fleet collection --to /srv/ansible"""
EXITS = "0 printed or copied, 1 it cannot be written, 2 wrong usage, or something else is in the way"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = "copy it there, as ansible_collections/bnbenv/fleet, in the place of an older one"
    parser.add_argument("--to", metavar="DIR", help=what)


def run(args: argparse.Namespace, ctx: Context) -> Outcome:
    from bnbenv.fleet import collection
    from bnbenv.paths import expand

    if args.to == "":
        raise UsageError("no-folder", "--to names no folder", "Name one, or leave --to out to print where it is.")
    place = collection.root() if args.to is None else ctx.cwd / expand(args.to)
    copied = None if args.to is None else collection.copy_to(place)
    document = {
        "schema": "bnbenv.fleet-collection/1",
        "name": collection.NAME,
        "version": collection.version(),
        "path": str(place),
        "collection": str(collection.folder_of(place)),
        "copied": copied is not None,
        "changed": copied is not None and copied.changed,
    }
    return Outcome(Exit.DONE, document)
