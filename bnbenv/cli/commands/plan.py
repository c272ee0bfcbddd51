"""``bnbenv plan``: what ``sync`` would change and why; nothing is touched."""

from __future__ import annotations

import argparse

from bnbenv.cli.command import Context, Outcome
from bnbenv.cli.common import (
    add_env,
    check_driver,
    facts_of,
    project_of,
    reason_rows,
    selected,
    setting_of,
    stop_on_mismatch,
)
from bnbenv.envs.check import in_use, observe_host
from bnbenv.errors import Exit

SUMMARY = """\
Show what sync would change, and why. Nothing is touched.

With --driver it answers ahead of an upgrade or a downgrade of the NVIDIA driver:
whether the environment in use stays, and which GPUs would be lost."""
EXAMPLE = """\
bnbenv plan
bnbenv plan --driver 590.44    before the driver is upgraded"""
EXITS = (
    "0 nothing to do, 1 failed, 2 unreadable input, 3 changes are pending, 4 no known-good combination, 6 reboot "
    "required, 7 a package source cannot be reached"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_env(parser)
    parser.add_argument(
        "--driver", metavar="VERSION", help='as if this driver were installed, such as "590.44" or "590"'
    )


def run(args: argparse.Namespace, ctx: Context) -> Outcome:
    from dataclasses import replace

    import msgspec

    from bnbenv.envs.adapt import as_if
    from bnbenv.envs.stage import Options
    from bnbenv.envs.sync import choose, make_plan
    from bnbenv.envs.wishes import load_wishes
    from bnbenv.solve.model import telling

    project = project_of(args, ctx)
    host = observe_host(ctx.environ, ctx.runner)
    if args.driver is None:
        stop_on_mismatch(host, project)
    else:
        check_driver(args.driver)
    wishes = load_wishes(project)
    names = selected(wishes, args.env, project)
    probed = setting_of(project, wishes, facts_of(ctx), ctx)
    reasons, actions, notes, decisions = [], [], [], []
    for env in names:
        use = in_use(project, env)
        setting = probed if args.driver is None else replace(probed, facts=as_if(probed, args.driver, use))
        driver = None if args.driver is None else setting.facts.driver.version
        plan = make_plan(setting, env, host, Options(), driver)
        solution = plan.lock.decision.solution if plan.lock else choose(setting, env, use)
        notes += [*plan.notes, *solution.notes]
        reasons += reason_rows(plan.reasons)
        actions += [] if plan.in_sync else plan.actions(solution, use.record)
        if plan.lock is None:
            chosen = msgspec.structs.replace(solution, rejected=telling(solution.rejected))
            decisions.append({"env": env, "decision": msgspec.to_builtins(chosen)})
    document = {
        "schema": "bnbenv.plan/1",
        "in_sync": not actions,
        "project": str(project.root),
        "environments": list(names),
        "driver": args.driver,
        "reasons": reasons,
        "actions": actions,
        "decisions": decisions,
        "notes": notes,
    }
    return Outcome(Exit.PENDING if actions else Exit.DONE, document)
