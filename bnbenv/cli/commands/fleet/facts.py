"""``bnbenv fleet facts``: what every host of an inventory is."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from bnbenv.cli.command import Context, Outcome
from bnbenv.cli.fleet import add_ansible, ask_all, engine_of
from bnbenv.errors import Failed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bnbenv.fleet.model import HostReport

SUMMARY = """\
Ask all hosts of an Ansible inventory what they are: GPUs, driver, platform, what
their project has in use, and who computes on the GPUs. Shows the kinds of hosts,
and by name those that did not answer. Nothing is changed."""
EXAMPLE = """\
bnbenv fleet facts -i hosts.ini
bnbenv fleet facts -i hosts.ini --limit gpu --out hosts.jsonl
bnbenv fleet plan --facts hosts.jsonl"""
EXITS = "0 all hosts answered, 1 a host did not, or a file cannot be written, 2 wrong usage or an unreadable inventory"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = "write all that the hosts said there, one JSON object a line, for: bnbenv fleet plan --facts FILE"
    parser.add_argument("--out", metavar="FILE", help=what)
    add_ansible(parser)


def run(args: argparse.Namespace, ctx: Context) -> Outcome:
    """Raises InputError (inventory), UsageError (no file, no terminal), Failed."""
    from bnbenv.fleet.overview import facts_document, facts_exit
    from bnbenv.paths import check_output, expand

    out = ctx.cwd / expand(args.out) if args.out else None
    if out is not None:
        check_output(out)
    reports = ask_all(engine_of(args, ctx), ctx)
    if out is not None:
        _write(out, reports)
    document = facts_document(reports, str(out) if out else None)
    return Outcome(facts_exit(document), document)


def _write(path: Path, reports: Sequence[HostReport]) -> None:
    """Raises Failed."""
    from bnbenv.fleet.answers import encode_report
    from bnbenv.paths import write_atomically

    try:
        write_atomically(path, "".join(f"{encode_report(report)}\n" for report in reports))
    except OSError as error:
        message = f"{path} cannot be written ({(error.strerror or str(error)).lower()})"
        raise Failed("not-written", message, "Name another file with --out.") from None
