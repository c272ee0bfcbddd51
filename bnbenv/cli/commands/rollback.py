"""``bnbenv rollback``: switch back to an earlier generation."""

from __future__ import annotations

import argparse

from bnbenv.cli.command import Context, Outcome
from bnbenv.cli.common import add_one_env, holding, project_of
from bnbenv.cli.help import whole_number
from bnbenv.envs.check import in_use
from bnbenv.errors import Exit
from bnbenv.paths import write_atomically

SUMMARY = """\
Switch an environment back to an earlier generation, and its lock with it.
Nothing is deleted."""
EXAMPLE = """\
bnbenv rollback      to the one before
bnbenv rollback 3    to generation 3 (bnbenv list shows them)"""
EXITS = "0 done, 1 there is no such generation, 2 unreadable input, 8 another bnbenv is at work"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_one_env(parser)
    what = "which one (default: the one before)"
    parser.add_argument("generation", nargs="?", type=whole_number, metavar="N", help=what)


def run(args: argparse.Namespace, ctx: Context) -> Outcome:
    from bnbenv.envs.generations import check_link, previous, switch

    project = project_of(args, ctx)
    with holding(project, ctx):
        before = in_use(project, args.env).generation
        target = previous(project, args.env, args.generation)
        check_link(project, args.env)
        if target.lock_file.exists():
            write_atomically(project.lock(args.env), target.lock_file.read_text(encoding="utf-8"))
        switch(project, args.env, target)
    document = {"schema": "bnbenv.rollback/1", "env": args.env, "from": before, "generation": target.number}
    return Outcome(Exit.DONE, {**document, "path": str(project.link(args.env))})
