"""``bnbenv check``: in sync or not, from the recorded fingerprint, in milliseconds."""

from __future__ import annotations

import argparse

from bnbenv.cli.command import Context, Outcome
from bnbenv.cli.common import add_env, project_of, reason_rows, stop_on_mismatch
from bnbenv.envs.check import Look, check_env, env_names, observe_host
from bnbenv.errors import BnbenvError, Exit

SUMMARY = """\
Say in milliseconds whether the environments are in sync with the host,
bnbenv.toml and the lock, and whether torch or bitsandbytes changed behind
bnbenv's back. Nothing is touched, and no package source is asked."""
EXAMPLE = """\
bnbenv check || bnbenv sync
bnbenv check --reason"""
EXITS = "0 in sync, 2 unreadable input, 3 not in sync, 6 reboot required"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_env(parser)
    what = "print one line that says why not, such as a scheduler notes of a node; nothing where all is in sync"
    parser.add_argument("--reason", action="store_true", help=what)


def run(args: argparse.Namespace, ctx: Context) -> Outcome:
    """The document; exit 0 or 3. With ``--reason`` what other commands raise is an outcome as well: a line to print."""
    if not args.reason or args.json:
        return _look(args, ctx)
    try:
        outcome = _look(args, ctx)
    except BnbenvError as error:
        from bnbenv.envs.project import find_project
        from bnbenv.paths import expand

        root = (ctx.cwd / expand(args.project)).resolve() if args.project else find_project(ctx.cwd, ctx.environ).root
        because = error.message
        if error.exit == Exit.REBOOT:
            because = f"reboot required: {because.removesuffix(': nothing was changed')}"
        return Outcome(error.exit, {}, {"failed": (str(root), because)})
    return Outcome(outcome.exit, outcome.document, {"reason": True})


def _look(args: argparse.Namespace, ctx: Context) -> Outcome:
    project = project_of(args, ctx)
    host = observe_host(ctx.environ, ctx.runner)
    stop_on_mismatch(host, project)
    look = Look(project)
    names = env_names(project, args.env, look)
    reasons = tuple(reason for env in names for reason in check_env(project, env, host, look))
    actions = [{"env": env, "action": "sync"} for env in dict.fromkeys(reason.env for reason in reasons)]
    document = {
        "schema": "bnbenv.check/1",
        "in_sync": not reasons,
        "project": str(project.root),
        "environments": list(names),
        "reasons": reason_rows(reasons),
        "actions": actions,
    }
    return Outcome(Exit.PENDING if reasons else Exit.DONE, document)
