"""``bnbenv fleet plan``: the kinds of hosts and what each would get; nothing is touched."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from bnbenv.cli.command import Context, Outcome
from bnbenv.cli.common import project_of
from bnbenv.cli.fleet import add_ansible, engine_of, next_command
from bnbenv.cli.page_file import add_html, page_file, write_page

if TYPE_CHECKING:
    from bnbenv.fleet.model import HostReport

SUMMARY = """\
Show the kinds of hosts in an inventory, what each would get, and which hosts
cannot be judged. Nothing is touched. Hosts that the solver cannot tell apart are
one kind: it is solved once, and has one lock.

With --facts it reads what fleet facts recorded, and asks no host. With --one-lock
it looks for one combination that fits all hosts, or names the fewest hosts that
stand in the way, and what each would need."""
EXAMPLE = """\
bnbenv fleet plan -i hosts.ini
bnbenv fleet plan --facts fleet.jsonl --one-lock"""
EXITS = (
    "0 all in sync, 1 a host failed or did not answer, 2 unreadable inventory, facts or bnbenv.toml, 3 changes are "
    "pending, 4 no known-good combination for some hosts, 6 hosts that need a reboot are all that is left, 7 a package "
    "source cannot be reached"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = "recorded by bnbenv fleet facts --out, or a folder with a file of bnbenv facts --json for each host"
    parser.add_argument("--facts", metavar="FILE", help=what)
    parser.add_argument("--one-lock", action="store_true", help="one combination for all hosts, or who is in its way")
    parser.add_argument(
        "--shipped", action="store_true", help="judge by what came with bnbenv alone; no source is asked"
    )
    add_html(parser)
    add_ansible(parser)


def run(args: argparse.Namespace, ctx: Context) -> Outcome:
    from dataclasses import replace

    from bnbenv.envs.resolve import Setting, user_matrix
    from bnbenv.envs.wishes import load_wishes
    from bnbenv.facts.model import Driver, HostFacts, Platform
    from bnbenv.fleet.asking import plan_hosts
    from bnbenv.fleet.held import with_held
    from bnbenv.fleet.onelock import Common
    from bnbenv.fleet.planned import document, exit_of
    from bnbenv.fleet.planning import requests_for
    from bnbenv.matrix.load import load_matrix

    project = project_of(args, ctx)
    page = page_file(args.html, ctx)
    wishes = load_wishes(project)
    requests = requests_for(wishes, str(project.config))
    reports, unknown = _reports(args, ctx)
    matrix = load_matrix() if args.shipped else user_matrix(ctx.environ)
    nobody = HostFacts(Platform("", ""), Driver("absent"), ())  # the desk itself is not asked about
    setting = Setting(project, wishes, nobody, matrix, ctx.environ, ctx.runner, None, ctx.progress)
    planned = plan_hosts(setting, reports, requests, ask=not args.shipped, one=args.one_lock)
    narrowed = planned.requests if isinstance(planned.one, Common) else None
    held = with_held(replace(setting, matrix=planned.matrix), planned.plans, narrowed)
    planned = replace(planned, plans=held.plans)
    found = document(planned, reports, str(project.root), not args.shipped, held.locks)
    if page is not None:
        write_page(page, found, ctx)
    then = next_command("sync", args) + " -i INVENTORY" * bool(args.facts and not args.inventory)
    return Outcome(exit_of(found), found, {"unlisted": unknown, "then": then})


def _reports(args: argparse.Namespace, ctx: Context) -> tuple[tuple[HostReport, ...], tuple[str, ...]]:
    """The hosts to plan for; and recorded ones that are not among them. Raises UsageError, InputError, Failed."""
    from bnbenv.errors import InputError, UsageError
    from bnbenv.fleet.model import HostReport
    from bnbenv.fleet.reports import read_reports
    from bnbenv.paths import expand
    from bnbenv.progress import during

    if args.facts is None:
        engine = engine_of(args, ctx)
        hosts = engine.hosts()
        if not hosts:
            name = args.inventory[0] if args.inventory else "the inventory"
            raise InputError(name, "", "there is no host in it", "Name one with -i, or another --limit.")
        with during(ctx.progress, f"asking {len(hosts)} hosts"):
            found = engine.ask(hosts, lambda host, line: ctx.progress.detail(f"{host}: {line}"))
        return tuple(found[host] for host in hosts), ()
    if args.limit is not None and not args.inventory:
        message = "--limit names hosts and groups of an inventory, and there is none beside --facts"
        raise UsageError("usage", message, "Name the inventory as well: -i INVENTORY")
    recorded = read_reports(ctx.cwd / expand(args.facts))
    if not args.inventory:
        return recorded, ()
    by_name = {report.name: report for report in recorded}
    hosts = engine_of(args, ctx).hosts()
    because = f"there is nothing about it in {args.facts}"
    lacking = (because, "Record it with: bnbenv fleet facts")
    reports = (by_name.get(host) or HostReport(host, "failed", None, *lacking) for host in hosts)
    return tuple(reports), tuple(name for name in by_name if name not in set(hosts))
