"""``bnbenv plan``: what ``sync`` would change and why; nothing is touched."""

from __future__ import annotations

import argparse

from bnbenv.cli.command import Context, Outcome
from bnbenv.cli.common import (
    add_env,
    facts_of,
    project_of,
    reason_rows,
    selected,
    setting_of,
    stop_on_mismatch,
)
from bnbenv.envs.check import in_use, observe_host
from bnbenv.errors import Exit

SUMMARY = "Show what sync would change, and why. Nothing is touched."
EXAMPLE = "bnbenv plan"
EXITS = (
    "0 nothing to do, 2 unreadable input, 3 changes are pending, 4 no known-good combination, 6 reboot "
    "required, 7 a package source cannot be reached"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_env(parser)


def run(args: argparse.Namespace, ctx: Context) -> Outcome:
    from bnbenv.envs.stage import Options
    from bnbenv.envs.sync import choose, make_plan
    from bnbenv.envs.wishes import load_wishes

    project = project_of(args, ctx)
    host = observe_host(ctx.environ, ctx.runner)
    stop_on_mismatch(host)
    wishes = load_wishes(project)
    names = selected(wishes, args.env, project)
    setting = setting_of(project, wishes, facts_of(ctx), ctx)
    reasons, actions, notes = [], [], []
    for env in names:
        plan = make_plan(setting, env, host, Options())
        use = in_use(project, env)
        solution = plan.lock.decision.solution if plan.lock else choose(setting, env, use)
        notes += list(solution.notes)
        reasons += reason_rows(plan.reasons)
        actions += [] if plan.in_sync else plan.actions(solution, use.record)
    document = {
        "schema": "bnbenv.plan/1",
        "in_sync": not actions,
        "project": str(project.root),
        "environments": list(names),
        "reasons": reasons,
        "actions": actions,
        "notes": notes,
    }
    return Outcome(Exit.PENDING if actions else Exit.DONE, document)
