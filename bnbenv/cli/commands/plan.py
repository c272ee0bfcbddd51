"""``bnbenv plan``: what ``sync`` would change and why; nothing is touched."""

from __future__ import annotations

import argparse
import shlex
from typing import TYPE_CHECKING, Any

from bnbenv.cli.command import Context, Outcome
from bnbenv.cli.common import (
    add_build,
    add_env,
    check_driver,
    facts_of,
    project_of,
    reason_rows,
    selected,
    setting_of,
    stop_on_mismatch,
    wished,
)
from bnbenv.cli.several import about, meaning
from bnbenv.envs.check import Host, in_use, observe_host
from bnbenv.errors import BnbenvError, Exit, RebootRequired

if TYPE_CHECKING:
    from bnbenv.bundle.archive import Reader
    from bnbenv.envs.project import Project
    from bnbenv.envs.resolve import Setting

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
    add_build(parser)
    parser.add_argument(
        "--driver", metavar="VERSION", help='as if this driver were installed, such as "590.44" or "590"'
    )
    parser.add_argument("--bundle", metavar="FILE", help="what sync --bundle would do")


def run(args: argparse.Namespace, ctx: Context) -> Outcome:
    if args.bundle is None:
        return _run(args, ctx, project_of(args, ctx))
    from bnbenv.cli.bundled import check_options, opened, project_for

    check_options(args)
    with opened(args.bundle, ctx) as bundle:
        return _run(args, ctx, project_for(bundle, args, ctx), bundle)


def _run(args: argparse.Namespace, ctx: Context, project: Project, bundle: Reader | None = None) -> Outcome:
    from bnbenv.cli.bundled import as_if_supplied, config_for
    from bnbenv.envs.wishes import decode_wishes, load_wishes

    host = observe_host(ctx.environ, ctx.runner)
    if args.driver is None:
        stop_on_mismatch(host, project)
    else:
        check_driver(args.driver)
    # Read as if it were written.
    config = wished(project, args.env, {}, args.build) if bundle is None else config_for(bundle, project)
    wishes = load_wishes(project) if config is None else decode_wishes(config.encode(), str(project.config))
    names = selected(wishes, args.env, project)
    setting = setting_of(project, wishes, facts_of(ctx), ctx)
    document: dict[str, Any] = {
        "schema": "bnbenv.plan/1",
        "in_sync": True,
        "project": str(project.root),
        "environments": list(names),
        "driver": args.driver,
        **{part: [] for part in ("reasons", "actions", "decisions", "notes")},
    }
    refused: dict[str, BnbenvError] = {}
    for env in names:
        try:
            with (
                about(env, len(wishes.envs) > 1 and len(names) == 1),
                as_if_supplied(bundle, setting, env, ctx) as own,
            ):
                _add(document, own, env, host, args.driver)
        except RebootRequired:
            raise
        except BnbenvError as error:  # of one of several: what is to be said of the others is said all the same
            if len(names) == 1:
                raise
            refused[env] = error
            lines = (error.message, *error.detail.splitlines())
            document["reasons"] += [{"env": env, "code": error.code, "because": line} for line in lines if line]
    document["in_sync"] = not document["actions"] and not refused
    steps = {env: meaning(env, error.next_step) for env, error in refused.items()}
    ends = next((error.exit for error in refused.values()), Exit.DONE if document["in_sync"] else Exit.PENDING)
    option = {"always": " --build", "never": " --no-build"}.get(args.build, "")
    option = option if args.bundle is None else f" --bundle {shlex.quote(args.bundle)}"
    return Outcome(ends, document, {"refused": steps, "option": option})


def _add(document: dict[str, Any], probed: Setting, env: str, host: Host, driver: str | None) -> None:
    """Plan one environment into the document. Raises as ``make_plan`` and ``choose``."""
    from dataclasses import replace

    import msgspec

    from bnbenv.envs.adapt import as_if
    from bnbenv.envs.stage import Options
    from bnbenv.envs.sync import choose, make_plan
    from bnbenv.solve.model import telling

    use = in_use(probed.project, env)
    setting = probed
    if driver is not None:
        setting = replace(probed, facts=as_if(probed, driver, use), present=probed.facts.driver)
    options = Options(locked=setting.supply is not None)
    plan = make_plan(setting, env, host, options, None if driver is None else setting.facts.driver.version)
    document["reasons"] += reason_rows(plan.reasons)
    if plan.adopted:  # it stays as it is, so nothing is chosen
        document["notes"] += plan.notes
        document["actions"] += plan.actions(None, use.record)
        return
    solution = plan.lock.decision.solution if plan.lock else choose(setting, env, use)
    document["notes"] += [*plan.notes, *solution.notes]
    document["actions"] += [] if plan.in_sync else plan.actions(solution, use.record)
    if plan.lock is None:
        chosen = msgspec.structs.replace(solution, rejected=telling(solution.rejected))
        document["decisions"].append({"env": env, "decision": msgspec.to_builtins(chosen)})
