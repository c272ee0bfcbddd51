"""``bnbenv status``: everything at one glance."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnbenv.cli.command import Context, Outcome
from bnbenv.cli.common import add_env, reason_rows, selected, stop_on_mismatch
from bnbenv.cli.render.check import next_step
from bnbenv.envs import guard, status
from bnbenv.envs.check import Host, observe_host
from bnbenv.envs.project import Project, check_env_name, env_python, find_project
from bnbenv.envs.record import notes
from bnbenv.envs.trust import check_trust
from bnbenv.errors import BnbenvError, Exit, Failed, RebootRequired, UsageError

if TYPE_CHECKING:
    from bnbenv.envs.record import Record

SUMMARY = """\
Show everything at one glance: whether the environments are in sync, what is in
use, what it was made for and verified on, the host, and the last runs. It needs
no network, and it answers where files are damaged, too.

With --why also what was chosen, why, and what that rests on."""
EXAMPLE = """\
bnbenv status
bnbenv status --env bnb --why    what was chosen, why, and what it rests on
bnbenv status --metrics bnbenv.prom    for monitoring"""
EXITS = (
    "0 in sync, 1 the metrics cannot be written, 2 wrong usage, 3 not in sync or something cannot be read,"
    " 6 reboot required"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_env(parser)
    parser.add_argument("--why", action="store_true", help="what was chosen, why, and what it rests on")
    parser.add_argument("--all", action="store_true", help="as --why, with everything passed over, and whole digests")
    what = "write it as metrics, too, for node_exporter's textfile collector (a name that ends in .prom)"
    parser.add_argument("--metrics", metavar="FILE", help=what)
    parser.add_argument("--disk", action="store_true", help="the disk space of all generations (takes seconds)")


def run(args: argparse.Namespace, ctx: Context) -> Outcome:
    args.why = args.why or args.all
    project = _project(args, ctx)
    names, problems = status.names(project, args.env)
    host, trouble = _host(ctx)
    rows = [_row(project, status.look(project, env, host), args) for env in names]
    reboot = _reboot(host, project)
    problems = (*reboot, *_distrust(project, ctx), *problems, *trouble)
    in_sync = not problems and all(row["in_sync"] for row in rows)
    at_work = status.at_work(project)
    document = {
        "schema": "bnbenv.status/1",
        "in_sync": in_sync,
        "project": str(project.root),
        "own": project.user,
        "config": str(project.config) if project.config.exists() else None,
        "host": _host_row(host),
        "environments": rows,
        "at_work": at_work,
        "runs": [
            {"started": one.started, "command": one.command, "exit": one.exit, "seconds": one.seconds}
            for one in status.runs(project)
        ],
        "problems": [{"code": one.code, "because": one.because} for one in problems],
        "next_step": _next_step(problems, rows, in_sync, at_work),
    }
    if args.metrics is not None:
        _write_metrics(ctx.cwd / args.metrics, document)
    view = {"why": _policy(project) if args.why else None, "everything": args.all or args.verbose}
    return Outcome(Exit.REBOOT if reboot else Exit.DONE if in_sync else Exit.PENDING, document, view)


def _write_metrics(path: Path, document: dict[str, Any]) -> None:
    """The collector, another user, has to be able to read it. Raises UsageError (no file), Failed."""
    import time

    from bnbenv.export.metrics import metrics
    from bnbenv.paths import check_output, write_atomically

    check_output(path)
    try:
        write_atomically(path, metrics(document, time.time()))
        path.chmod(0o644)
    except OSError as error:
        message = f"{path} cannot be written ({(error.strerror or str(error)).lower()})"
        raise Failed("not-written", message, "Name a file in a folder that this user may write into.") from None


def _project(args: argparse.Namespace, ctx: Context) -> Project:
    """The project; what is wrong in its files is told later. Raises UsageError for an environment that there is not."""
    if args.env is not None:
        check_env_name(args.env, "--env", "")
    project = find_project(ctx.cwd, ctx.environ, args.project)
    if args.env is not None and args.env not in project.envs_made():
        from bnbenv.envs.wishes import load_wishes

        selected(load_wishes(project), args.env, project)
    return project


def _host(ctx: Context) -> tuple[Host | None, tuple[status.Problem, ...]]:
    try:
        return observe_host(ctx.environ, ctx.runner), ()
    except BnbenvError as error:
        return None, (status.Problem.of(error),)


def _reboot(host: Host | None, project: Project) -> tuple[status.Problem, ...]:
    """What a driver that is half upgraded means, if it is."""
    try:
        if host is not None:
            stop_on_mismatch(host, project)
    except RebootRequired as error:
        rest = (status.Problem(error.code, line, error.next_step) for line in error.detail.splitlines())
        return (status.Problem.of(error), *rest)
    return ()


def _distrust(project: Project, ctx: Context) -> tuple[status.Problem, ...]:
    """Why no other command believes what lies here, if that is so. To read it does no harm: nothing of it is run."""
    try:
        check_trust(project, ctx.environ)
    except UsageError as error:
        return (status.Problem.of(error),)
    return ()


def _next_step(
    problems: tuple[status.Problem, ...], rows: list[dict[str, Any]], in_sync: bool, at_work: bool
) -> str | None:
    if problems:
        return problems[0].next_step or "correct that file, then run: bnbenv status"
    if in_sync:
        return None
    if at_work:
        return "wait until the other bnbenv has finished, then run: bnbenv status"
    return next_step([reason for row in rows for reason in row["reasons"]])


def _policy(project: Project) -> str:
    """``policy.prefer``; empty where bnbenv.toml cannot be read."""
    from bnbenv.envs.wishes import load_wishes

    try:
        return load_wishes(project).policy.prefer
    except BnbenvError:
        return ""


def _host_row(host: Host | None) -> dict[str, Any]:
    found = host.fingerprint if host else {}
    names = ("driver module", "driver version", "driver", "driver library", "driver userland")
    known = (found.get(name) for name in names)
    gpus = [value for name, value in found.items() if name.startswith("GPU ") and not name.endswith(" UUID")]
    driver = next((version for version in known if version and version[0].isdigit()), None)
    return {"state": host.state if host else "unknown", "driver": driver, "gpus": gpus}


def _row(project: Project, seen: status.Seen, args: argparse.Namespace) -> dict[str, Any]:
    record, link = seen.use.record, project.link(seen.env)
    ours = [seen.use.prefix] if seen.use.prefix and not (record and record.adopted) else []
    ours += [one.prefix for one in seen.others if not one.adopted]
    space = status.disk(ours) if args.disk else None
    return {
        "env": seen.env,
        "in_sync": not seen.reasons,
        "reasons": reason_rows(seen.reasons),
        "generation": seen.use.generation,
        "adopted": record.adopted if record else None,
        "path": str(link),
        "python": str(env_python(link)) if record else None,
        **_recorded(record),
        "others": [one.number for one in seen.others if one.usable],
        "unfinished": [one.number for one in seen.others if not (one.usable or one.newer or one.adopted)],
        "newer": [one.number for one in seen.others if one.newer],
        "guard": guard.is_there(seen.use.prefix),
        "notes": [*_below(record), *notes(record)] if record else [],
        "disk": {"bytes": space.total, "own": space.own} if space else None,
        "decision": status.decision(record) if args.why and record else None,
    }


def _below(record: Record) -> list[str]:
    """Where the torch is that an environment lies on top of."""
    return [f"its torch is the one in {record.base['torch']}"] if record.base else []


def _recorded(record: Record | None) -> dict[str, Any]:
    if record is None:
        nothing = ("backend", "holds", "created", "verified_at", "made_for")
        return {**dict.fromkeys(nothing), "verified": False, "verified_on": []}
    return {
        "backend": record.decision.get("backend"),
        "holds": status.holds(record),
        "created": record.created,
        "verified": record.verified,
        "verified_at": record.verified_at,
        "verified_on": status.verified_on(record),
        "made_for": status.made_for(record),
    }
