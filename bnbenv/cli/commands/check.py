"""``bnbenv check``: in sync or not, from the recorded fingerprint, in milliseconds."""

from __future__ import annotations

import argparse

from bnbenv.cli.command import Context, Outcome
from bnbenv.cli.common import add_env, project_of, reason_rows, stop_on_mismatch
from bnbenv.envs.check import Look, check_env, env_names, observe_host
from bnbenv.errors import Exit

SUMMARY = """\
Say in milliseconds whether the environments are in sync with the host,
bnbenv.toml and the lock, and whether torch or bitsandbytes changed behind
bnbenv's back. Nothing is touched, and no package source is asked."""
EXAMPLE = "bnbenv check || bnbenv sync"
EXITS = "0 in sync, 2 unreadable input, 3 not in sync, 6 reboot required"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_env(parser)


def run(args: argparse.Namespace, ctx: Context) -> Outcome:
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
