"""``bnbenv rollback``: switch back to an earlier generation."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from bnbenv.cli.command import Context, Outcome
from bnbenv.cli.common import add_one_env, holding, project_of
from bnbenv.cli.help import whole_number
from bnbenv.envs.check import in_use
from bnbenv.errors import Exit, Failed
from bnbenv.paths import write_atomically

if TYPE_CHECKING:
    from bnbenv.envs.generations import Generation
    from bnbenv.envs.lockfile import Locked
    from bnbenv.envs.project import Project

SUMMARY = """\
Switch an environment back to an earlier generation, and its lock with it.
Nothing is deleted."""
EXAMPLE = """\
bnbenv rollback      to the one before
bnbenv rollback 3    to generation 3 (bnbenv list shows them)"""
EXITS = "0 done, 1 there is no such generation or it is damaged, 2 unreadable input, 8 another bnbenv is at work"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_one_env(parser)
    what = "which one (default: the one before)"
    parser.add_argument("generation", nargs="?", type=whole_number, metavar="N", help=what)


def run(args: argparse.Namespace, ctx: Context) -> Outcome:
    from bnbenv.envs.generations import check_link, previous, switch
    from bnbenv.envs.guard import follow

    project = project_of(args, ctx)
    with holding(project, ctx):
        before = in_use(project, args.env).generation
        target = previous(project, args.env, args.generation)
        check_link(project, args.env)
        if not target.adopted:  # that has no lock, and the one that is there is of what was made from it
            locked = _whole(project, args.env, target, ctx)
            write_atomically(project.lock(args.env), locked.text)
        switch(project, args.env, target)
        follow(project, args.env)
    document = {"schema": "bnbenv.rollback/1", "env": args.env, "from": before, "generation": target.number}
    return Outcome(Exit.DONE, {**document, "path": str(project.link(args.env))})


def _whole(project: Project, env: str, target: Generation, ctx: Context) -> Locked:
    """The lock of a generation that can be gone back to.

    Raises Failed where that lock cannot be used, or where a file was changed after it was installed.
    """
    from bnbenv.envs.inspection import Inspection
    from bnbenv.envs.lockfile import read_saved_lock

    step = "Go back to another one (bnbenv list), or make a new one with: bnbenv sync --fresh"
    locked = read_saved_lock(target.lock_file)
    if locked is None:
        message = f"the lock of generation {target.number} of {env} ({target.lock_file}) is missing or damaged"
        raise Failed("generation-damaged", message, step)
    unseen = target.record is None or not target.record.verified  # one whose kernels never ran is read in full
    damage = Inspection(project, env, target, locked, (), ctx.progress, every_byte=unseen).finished()
    if damage:
        more = f", and {len(damage) - 1} more" if damage[1:] else ""
        raise Failed("generation-damaged", f"generation {target.number} of {env} is broken: {damage[0]}{more}", step)
    return locked
