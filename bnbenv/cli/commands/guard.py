"""``bnbenv guard``: the environment says itself that it was changed behind its lock."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from bnbenv.cli.command import Context, Outcome
from bnbenv.cli.common import add_env, holding, project_of, selected
from bnbenv.envs.check import in_use
from bnbenv.errors import Exit, Failed

if TYPE_CHECKING:
    from bnbenv.envs.project import Project

SUMMARY = """\
Have an environment say itself, in one line on standard error when bitsandbytes
(or gptqmodel, autoawq, what else it is for) is imported, that this or torch was
changed behind its lock. It costs less than a millisecond at the start of
Python, and nobody has to run bnbenv.

It is a wish in bnbenv.toml (guard = true), so new generations have it too, and
whoever shares that file. Off leaves no trace."""
EXAMPLE = """\
bnbenv guard on
bnbenv guard           is it on?
bnbenv guard off"""
EXITS = "0 done, 1 it cannot be written, 2 unreadable input, 8 another bnbenv is at work"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_env(parser)
    what = "on, off, or status (default: status)"
    parser.add_argument("what", nargs="?", choices=("on", "off", "status"), default="status", help=what)


def run(args: argparse.Namespace, ctx: Context) -> Outcome:
    from bnbenv.envs.wishes import load_wishes

    project = project_of(args, ctx)
    if args.what == "status":
        wishes = load_wishes(project)
        return _outcome(project, {env: wishes.envs[env].guard for env in selected(wishes, args.env, project)}, False)
    with holding(project, ctx):
        names = selected(load_wishes(project), args.env, project)
        if args.what == "on":
            _stop_on_adopted(project, names)
        changed = _turn(project, names, args.what == "on")
    return _outcome(project, dict.fromkeys(names, args.what == "on"), changed)


def _stop_on_adopted(project: Project, names: tuple[str, ...]) -> None:
    """Raises Failed where an environment is in use into which bnbenv writes nothing."""
    for env in names:
        use = in_use(project, env)
        if use.record is not None and use.record.adopted is not None:
            message = f"{env} was adopted, and the guard would have to be written into {use.record.adopted}"
            step = f"Make a generation of bnbenv's own first: bnbenv sync --env {env} --fresh"
            raise Failed("adopted", message, step)


def _turn(project: Project, names: tuple[str, ...], on: bool) -> bool:
    """Write the wish, then have the environments follow it. Returns whether bnbenv.toml changed."""
    from bnbenv.envs import guard
    from bnbenv.envs.generations import note_wishes_file

    changed = _write_wish(project, names, on)
    for env in names:
        use = in_use(project, env)
        if not on:
            guard.take_away(project, env)
        elif use.prefix is not None and use.record is not None:
            guard.settle(use.prefix, env, project.lock(env).name, use.record, True)
    for env in project.envs_made():
        note_wishes_file(project, env)
    return changed


def _write_wish(project: Project, names: tuple[str, ...], on: bool) -> bool:
    from bnbenv.envs.guard import wished
    from bnbenv.paths import write_atomically

    try:
        before: str | None = project.config.read_bytes().decode()  # line ends stay as they are
    except FileNotFoundError:
        before = None
    after = wished(before, names, on)
    if after == before:
        return False
    if after is None:
        project.config.unlink()
    else:
        write_atomically(project.config, after)
    return True


def _outcome(project: Project, wished: dict[str, bool], changed: bool) -> Outcome:
    from bnbenv.envs.guard import state

    rows: list[dict[str, Any]] = [
        {
            "env": env,
            "guard": state(project, env, on),
            "wished": on,
            "generation": in_use(project, env).generation,
        }
        for env, on in wished.items()
    ]
    config = str(project.config)
    document = {"schema": "bnbenv.guard/1", "config": config, "changed": changed, "environments": rows}
    return Outcome(Exit.DONE, document)
