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
    facts_of,
    holding,
    project_of,
    reason_rows,
    selected,
    setting_of,
    stop_on_mismatch,
    told,
    wished,
    wishes_from,
)
from bnbenv.cli.help import seconds
from bnbenv.cli.several import about, of_several
from bnbenv.envs.check import Host, Look, check_env, env_names, in_use, observe_host
from bnbenv.envs.project import Project, env_python
from bnbenv.errors import BnbenvError, Exit, RebootRequired

if TYPE_CHECKING:
    from bnbenv.bundle.archive import Reader
    from bnbenv.envs.sync import Done
    from bnbenv.envs.wishes import Wishes

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
    import shutil
    from dataclasses import replace

    from bnbenv.cli.bundled import config_for, supplying
    from bnbenv.envs.adapt import stop_on_loss
    from bnbenv.envs.firststart import check_platform
    from bnbenv.envs.generations import clear_strays, note_wishes_file
    from bnbenv.envs.guard import follow
    from bnbenv.envs.record import file_digest
    from bnbenv.envs.stage import Options
    from bnbenv.envs.sync import sync_env
    from bnbenv.envs.wishes import decode_wishes, load_wishes
    from bnbenv.facts.host import HostPort, read_platform
    from bnbenv.paths import Sysroot

    changes = wishes_from(args)
    with holding(project, ctx, args.wait), contextlib.ExitStack() as stack:
        shutil.rmtree(project.unpacked, ignore_errors=True)  # what a killed run left
        before = file_digest(project.config)
        config = wished(project, args.env, changes, args.build) if bundle is None else config_for(bundle, project)
        wishes: Wishes = load_wishes(project) if config is None else decode_wishes(config.encode(), str(project.config))
        names = selected(wishes, args.env, project)
        setting = replace(setting_of(project, wishes, facts_of(ctx), ctx), config=config, config_before=before)
        if bundle is not None:
            setting, names = stack.enter_context(supplying(bundle, setting, names, ctx))
        recorded = bool(ctx.environ.get("BNBENV_FACTS"))
        if recorded:
            sysroot = Sysroot.from_environment(ctx.environ)
            check_platform(setting.facts, read_platform(ctx.environ, sysroot, ctx.runner, HostPort.current())[0])
        locked, accepted = args.locked or bundle is not None, not {"gpus", "backend"}.isdisjoint(changes)
        options = Options(locked, args.fresh, not args.no_verify, recorded, accepted)
        several = len(wishes.envs) > 1
        for env in names:  # before the first of them is touched
            with about(env, several):
                stop_on_loss(setting, env, in_use(project, env), options.accepted)
        clear_strays(project, wishes.envs)
        done: list[Done] = []
        failed: dict[str, BnbenvError] = {}
        for env in names:
            try:
                with about(env, several):
                    done.append(sync_env(setting, env, host, options))
            except BnbenvError as error:
                # What was asked for by options is of one environment, or of all alike.
                if len(names) == 1 or config is not None or isinstance(error, RebootRequired):
                    raise
                failed[env] = error
                ctx.progress.say(f"{error.message}; it stays as it is")
                continue
            if several and switched(done[-1]):
                where = env_python(project.link(env))
                ctx.progress.say(f"{env}: switched to generation {done[-1].generation}, use it: {where}")
        setting.write_wishes()  # where nothing else had to be done
        for env in (one.plan.env for one in done):
            follow(project, env)
            note_wishes_file(project, env)
    if failed:
        raise of_several(failed, [one.plan.env for one in done])
    notes = told(project, changes, args.build)
    reasons = [row for one in done for row in reason_rows(one.plan.reasons)]
    actions = [action for one in done for action in one.actions]
    rows = [done_row(project, one) for one in done]
    if project.user:
        notes.append(f"no bnbenv.toml here or above: this is your own environment in {project.root}")
    return Outcome(Exit.DONE, _of_recorded(_document(project, names, reasons, actions, rows, notes), ctx))


def done_row(project: Project, done: Done) -> dict[str, Any]:
    """What was done for one environment, as in the document."""
    import msgspec

    from bnbenv.solve.model import telling

    solution = msgspec.to_builtins(msgspec.structs.replace(done.solution, rejected=telling(done.solution.rejected)))
    env = done.plan.env
    return _row(
        project, env, done.generation, switched(done), solution, done.verification, done.verified, list(done.notes)
    )


def switched(done: Done) -> bool:
    """Whether another generation is in use than before."""
    return any(action["action"] in ("stage", "switch") for action in done.actions)
