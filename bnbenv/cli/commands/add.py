"""``bnbenv add``: an environment of another family beside those that are there."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, get_args

from bnbenv.cli.command import Context, Outcome
from bnbenv.cli.common import (
    add_package,
    add_wishes,
    facts_of,
    holding,
    reason_rows,
    setting_of,
    stop_on_mismatch,
    wishes_from,
)
from bnbenv.cli.several import adding
from bnbenv.envs.check import Host, observe_host
from bnbenv.envs.project import Project, check_env_name, find_project
from bnbenv.envs.trust import check_trust
from bnbenv.errors import Exit, UsageError
from bnbenv.solve.model import FamilyName

if TYPE_CHECKING:
    from bnbenv.envs.sync import Done
    from bnbenv.envs.wishes import Wishes

FAMILIES = get_args(FamilyName)

SUMMARY = """\
Add an environment of another family: bitsandbytes, gptq (gptqmodel, auto-gptq),
awq (autoawq, autoawq-kernels), or none, which is torch alone. Each has its own
solution, lock and generations, since each pins torch and transformers to what it
needs itself; files that they have in common are on the disk once.

It is written into bnbenv.toml once it is made and its kernels ran."""
EXAMPLE = """\
bnbenv add gptq                               .venv-gptq, with gptqmodel
bnbenv add awq --package 'autoawq[kernels]'   .venv-awq, with compiled kernels"""
EXITS = (
    "0 added, or it was there, 1 failed, 2 wrong usage or unreadable input, 4 no known-good combination, 5 the kernels"
    " failed, 6 reboot required, 7 a package source cannot be reached, 8 another bnbenv is at work"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("family", metavar="FAMILY", choices=FAMILIES, help=", ".join(FAMILIES))
    parser.add_argument("--env", metavar="NAME", help="its name (default: bnb, gptq, awq, or torch for none)")
    add_wishes(parser, keep=True)
    add_package(parser)
    parser.add_argument("--no-sync", action="store_true", help="only write it into bnbenv.toml; sync then makes it")
    parser.add_argument("--no-verify", action="store_true", help="do not run the kernels (check then says unverified)")


def run(args: argparse.Namespace, ctx: Context) -> Outcome:
    from bnbenv.envs.wishes import ENV_NAMES, decode_wishes, edited, load_wishes

    env: str = args.env or ENV_NAMES[args.family]
    check_env_name(env, "--env", "")
    project = find_project(ctx.cwd, ctx.environ, args.project)
    check_trust(project, ctx.environ)
    host = observe_host(ctx.environ, ctx.runner)
    if not args.no_sync:
        stop_on_mismatch(host, project)
    changes = _changes(args)
    with holding(project, ctx):
        # Without a file one environment is meant, and it counts where it was made.
        none = not project.config.exists() and not project.envs_made()
        wishes = load_wishes(project)
        known = None if none else _known(wishes, args, env)
        if known is not None:
            return Outcome(Exit.DONE, _document(project, known, args.family, None, synced=False))
        config = edited(project, env, changes, alone=none)
        wishes = decode_wishes(config.encode(), str(project.config))
        if args.no_sync:
            _write(project, config)
            done = None
        else:
            done = _make(args, ctx, project, wishes, config, env, host)
    return Outcome(Exit.DONE, _document(project, env, args.family, done, added=True, synced=done is not None))


def _changes(args: argparse.Namespace) -> dict[str, Any]:
    """The lines of its table. Raises InputError."""
    if args.package is not None:
        from bnbenv.envs.families import check_package
        from bnbenv.matrix.load import load_families

        check_package(args.package, args.family, load_families(), "--package", "")
    family = {} if args.family == "bitsandbytes" else {"family": args.family}
    return {**family, **wishes_from(args)} or {"family": args.family}


def _known(wishes: Wishes, args: argparse.Namespace, env: str) -> str | None:
    """The environment that is there already, if it is the one that is asked for. Raises UsageError."""
    same = [name for name, wish in wishes.envs.items() if wish.family == args.family]
    found = env if env in wishes.envs else same[0] if same and args.env is None else None
    if found is None:
        return None
    family = wishes.envs[found].family
    if family != args.family:
        message = f'there is an environment "{found}" already, of the family {family}'
        raise UsageError("name-taken", message, f"Name the new one: bnbenv add {args.family} --env NAME")
    asked = {name: value for name, value in _changes(args).items() if name != "family"}
    before = {name: getattr(wishes.envs[found], name) for name in asked}
    if asked != before:
        message = f'there is an environment "{found}" of the family {family} already, with other wishes'
        step = f"Change them in bnbenv.toml, then run: bnbenv sync --env {found}; or add another one: --env NAME"
        raise UsageError("exists", message, step)
    return found


def _make(
    args: argparse.Namespace, ctx: Context, project: Project, wishes: Wishes, config: str, env: str, host: Host
) -> Done:
    """Sync it; bnbenv.toml is written just before the link. Raises as ``sync_env``, with nothing left behind."""
    from dataclasses import replace

    from bnbenv.envs.generations import clear_strays, note_wishes_file
    from bnbenv.envs.record import file_digest
    from bnbenv.envs.stage import Options
    from bnbenv.envs.sync import sync_env

    before = file_digest(project.config)
    setting = replace(setting_of(project, wishes, facts_of(ctx), ctx), config=config, config_before=before)
    recorded = bool(ctx.environ.get("BNBENV_FACTS"))
    try:
        with adding(args.family, env, args.env is not None):
            done = sync_env(setting, env, host, Options(verify=not args.no_verify, recorded=recorded))
        setting.write_wishes()
    finally:
        clear_strays(project, wishes.envs if project.link(env).exists() else [e for e in wishes.envs if e != env])
    for other in wishes.envs:
        note_wishes_file(project, other)
    return done


def _write(project: Project, config: str) -> None:
    """bnbenv.toml alone. Raises OSError."""
    from bnbenv.envs.generations import note_wishes_file
    from bnbenv.envs.wishes import decode_wishes
    from bnbenv.paths import write_atomically

    write_atomically(project.config, config)
    for env in decode_wishes(config.encode(), str(project.config)).envs:
        note_wishes_file(project, env)


def _document(
    project: Project, env: str, family: str, done: Done | None, added: bool = False, synced: bool = False
) -> dict[str, Any]:
    from bnbenv.cli.commands.sync import done_row

    return {
        "schema": "bnbenv.add/1",
        "env": env,
        "family": family,
        "added": added,
        "synced": synced,
        "project": str(project.root),
        "config": str(project.config),
        "reasons": reason_rows(done.plan.reasons) if done is not None else [],
        "actions": list(done.actions) if done is not None else [],
        "generation": done_row(project, done) if done is not None else None,
    }
