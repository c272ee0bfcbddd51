"""``bnbenv fleet check``: which hosts of an inventory are in sync, and why others are not."""

from __future__ import annotations

import argparse

from bnbenv.cli.command import Context, Outcome
from bnbenv.cli.fleet import add_ansible, ask_all, engine_of, next_command
from bnbenv.cli.page_file import add_html, page_file, write_page

SUMMARY = """\
Ask all hosts of an Ansible inventory whether their environments are in sync with
the host, its bnbenv.toml and its locks. Shows the reasons, each with the hosts
that have it, the hosts that need a reboot, and those that did not answer. Nothing
is changed, and no package source is asked."""
EXAMPLE = """\
bnbenv fleet check -i hosts.ini
bnbenv fleet check -i hosts.ini --limit gpu --json"""
EXITS = (
    "0 all are in sync, 1 a host did not answer, 2 wrong usage or an unreadable inventory, "
    "3 hosts are not in sync, 6 hosts that need a reboot are all that is left"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_html(parser)
    add_ansible(parser)


def run(args: argparse.Namespace, ctx: Context) -> Outcome:
    """Raises InputError (inventory), UsageError (no terminal), Failed."""
    from bnbenv.fleet.overview import check_document, check_exit

    page = page_file(args.html, ctx)
    document = check_document(ask_all(engine_of(args, ctx), ctx))
    if page is not None:
        write_page(page, document, ctx)
    return Outcome(check_exit(document), document, {"then": next_command("plan", args)})
