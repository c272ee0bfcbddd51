"""``bnbenv sync``: make the environments fit: lock, stage, verify, and only then switch."""

from __future__ import annotations

import argparse
import contextlib
from typing import TYPE_CHECKING, Any

from bnbenv.cli.command import Context, Outcome
from bnbenv.cli.common import (
    add_build,
    add_env,
    add_package,
    add_wishes,
    holding,
    project_of,
    reason_rows,
    stop_on_mismatch,
    told,
    wished,
    wishes_from,
)
from bnbenv.cli.help import seconds
from bnbenv.cli.several import of_several
from bnbenv.envs.check import Host, Look, check_env, env_names, observe_host
from bnbenv.envs.project import Project, env_python
from bnbenv.errors import Exit

if TYPE_CHECKING:
    from bnbenv.bundle.archive import Reader
    from bnbenv.envs.sync import Done

SUMMARY = """\
Make the environments fit the host and the wishes: choose, lock, install into a
new generation, run its kernels, and only then switch to it. Whatever fails, the
environment in use stays as it was. With nothing to do it does nothing.

Where no published wheel fits, bitsandbytes is compiled for exactly these GPUs.
Wishes given as options (--torch, --build, ...) are written into bnbenv.toml."""
EXAMPLE = """\
bnbenv sync                    after any change of driver, GPU or bnbenv.toml
bnbenv sync --torch '<2.11'    with another wish"""
EXITS = (
    "0 in sync, 1 failed, 2 unreadable input, 4 no known-good combination, 5 the kernels failed, 6 reboot"
    " required, 7 a package source cannot be reached, 8 another bnbenv is at work"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_env(parser)
    add_wishes(parser, keep=True)
    add_package(parser)
    add_build(parser)
    parser.add_argument("--locked", action="store_true", help="install just what the lock holds, or refuse")
    parser.add_argument("--fresh", action="store_true", help="make a new generation even if nothing changed")
    parser.add_argument("--no-verify", action="store_true", help="do not run the kernels (check then says unverified)")
    parser.add_argument("--offline", action="store_true", help="use no network, as with BNBENV_OFFLINE=1")
    parser.add_argument("--bundle", metavar="FILE", help="install from what bnbenv bundle wrote, and nothing else")
    what = "how long to wait for another bnbenv (default: 5 seconds)"
    parser.add_argument("--wait", metavar="SECONDS", type=seconds, default=5.0, help=what)


def run(args: argparse.Namespace, ctx: Context) -> Outcome:
    if args.offline:
        from bnbenv.cli.bundled import without_network

        with without_network():
            args.offline = False
            return run(args, ctx._replace(environ={**ctx.environ, "BNBENV_OFFLINE": "1"}))
    if args.bundle is not None:
        return _from_bundle(args, ctx)
    project = project_of(args, ctx)
    host = observe_host(ctx.environ, ctx.runner)
    stop_on_mismatch(host, project)
    from bnbenv.envs.generations import left_over, strays

    wishes = ("torch", "bitsandbytes", "package", "python", "gpus", "backend", "build")
    asked = any(getattr(args, name) is not None for name in wishes)
    if not asked and not args.fresh:
        look = Look(project)
        names = env_names(project, args.env, look)
        pending = any(check_env(project, env, host, look) or any(left_over(project, env)) for env in names)
        pending = pending or project.unpacked.exists()
        if not pending and (args.env is not None or not strays(project, names)):
            _note_wishes_file(ctx, look, names)
            return Outcome(Exit.DONE, _of_recorded(_nothing(look, names), ctx))
    return _sync(args, ctx, project, host)


def _note_wishes_file(ctx: Context, look: Look, names: tuple[str, ...]) -> None:
    """After a change of bnbenv.toml that changes no wish. Where it cannot be done now, checks go on reading it."""
    stale = [env for env in names if (use := look.in_use(env)).record and use.record.config != look.config]
    if not stale:
        return
    from bnbenv.envs.generations import held, note_wishes_file
    from bnbenv.envs.guard import follow
    from bnbenv.errors import Busy

    with contextlib.suppress(Busy, OSError), held(look.project, 0, ctx.environ, ctx.progress.say):
        for env in stale:
            follow(look.project, env)
            note_wishes_file(look.project, env)


def _of_recorded(document: dict[str, Any], ctx: Context) -> dict[str, Any]:
    """With a note of what is still to be done where the facts are recorded ones, whose GPUs are not here."""
    if ctx.environ.get("BNBENV_FACTS") and not all(row["verified"] for row in document["generations"]):
        note = "the facts are recorded (BNBENV_FACTS): the first bnbenv sync on the machine itself runs the kernels"
        document["notes"].append(note)
    return document


def _nothing(look: Look, names: tuple[str, ...]) -> dict[str, Any]:
    from bnbenv.envs.record import notes

    project, rows = look.project, []
    for env in names:
        use = look.in_use(env)
        decision = use.record.decision if use.record else {}
        verified = bool(use.record and use.record.verified)
        said = notes(use.record) if use.record else []
        rows.append(_row(project, env, use.generation, False, decision, None, verified, said))
    return _document(project, names, [], [], rows, [])


def _row(
    project: Project,
    env: str,
    generation: int | None,
    changed: bool,
    decision: dict[str, Any],
    verification: dict[str, Any] | None,
    verified: bool,
    notes: list[str],
) -> dict[str, Any]:
    return {
        "env": env,
        "generation": generation,
        "changed": changed,
        "path": str(project.link(env)),
        "python": str(env_python(project.link(env))),
        "choice": decision.get("choice"),
        "backend": decision.get("backend"),
        "verified": verified,
        "verification": verification,
        "decision": decision if changed else None,
        "notes": notes,
    }


def _document(
    project: Project,
    names: tuple[str, ...],
    reasons: list[dict[str, str]],
    actions: list[dict[str, Any]],
    rows: list[dict[str, Any]],
    notes: list[str],
) -> dict[str, Any]:
    return {
        "schema": "bnbenv.sync/1",
        "in_sync": True,
        "project": str(project.root),
        "environments": list(names),
        "reasons": reasons,
        "actions": actions,
        "generations": rows,
        "notes": notes,
    }


def _from_bundle(args: argparse.Namespace, ctx: Context) -> Outcome:
    from bnbenv.cli.bundled import check_options, opened, project_for

    check_options(args)
    with opened(args.bundle, ctx) as bundle:
        project = project_for(bundle, args, ctx)
        host = observe_host(ctx.environ, ctx.runner)
        stop_on_mismatch(host, project)
        return _sync(args, ctx, project, host, bundle)


def _sync(
    args: argparse.Namespace, ctx: Context, project: Project, host: Host, bundle: Reader | None = None
) -> Outcome:
    from bnbenv.cli.bundled import config_for
    from bnbenv.cli.syncing import carry_out, prepared
    from bnbenv.envs.stage import Options

    changes = wishes_from(args)
    locked, accepted = args.locked or bundle is not None, not {"gpus", "backend"}.isdisjoint(changes)
    options = Options(locked, args.fresh, not args.no_verify, accepted=accepted)

    def new_config() -> str | None:
        return wished(project, args.env, changes, args.build) if bundle is None else config_for(bundle, project)

    with (
        holding(project, ctx, args.wait),
        prepared(project, host, ctx, options, new_config, args.env, bundle) as work,
    ):
        done, failed = carry_out(work, ctx)
    if failed:
        raise of_several(failed, [one.plan.env for one in done])
    notes = told(project, changes, args.build)
    reasons = [row for one in done for row in reason_rows(one.plan.reasons)]
    actions = [action for one in done for action in one.actions]
    rows = [done_row(project, one) for one in done]
    if project.user:
        notes.append(f"no bnbenv.toml here or above: this is your own environment in {project.root}")
    return Outcome(Exit.DONE, _of_recorded(_document(project, work.names, reasons, actions, rows, notes), ctx))


def done_row(project: Project, done: Done) -> dict[str, Any]:
    """What was done for one environment, as in the document."""
    import msgspec

    from bnbenv.cli.syncing import switched
    from bnbenv.solve.model import telling

    solution = msgspec.to_builtins(msgspec.structs.replace(done.solution, rejected=telling(done.solution.rejected)))
    env = done.plan.env
    return _row(
        project, env, done.generation, switched(done), solution, done.verification, done.verified, list(done.notes)
    )
