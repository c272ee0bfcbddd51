"""``bnbenv gc``: delete generations that are not needed."""

from __future__ import annotations

import argparse

from bnbenv.cli.command import Context, Outcome
from bnbenv.cli.common import add_env, holding, project_of
from bnbenv.cli.help import whole_number
from bnbenv.envs.check import env_names, in_use
from bnbenv.errors import Exit

SUMMARY = """\
Delete generations that are not needed: unfinished ones, and old ones. The one in
use is kept, and by default the one before it."""
EXAMPLE = "bnbenv gc --keep 0    keep only what is in use"
EXITS = "0 done, 2 unreadable input, 8 another bnbenv is at work"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_env(parser)
    what = "how many to keep beside the one in use (default: 1)"
    parser.add_argument("--keep", metavar="N", type=whole_number, default=1, help=what)


def run(args: argparse.Namespace, ctx: Context) -> Outcome:
    from bnbenv.envs.generations import clean_up, generations, remove

    project = project_of(args, ctx)
    rows = []
    with holding(project, ctx):
        for env in env_names(project, args.env):
            removed = clean_up(project, env)
            current = in_use(project, env).generation
            others = [g for g in generations(project, env) if g.number != current and not g.newer]
            if current is None:
                others = []  # nothing is in use: what is there may be all there is
            for generation in others[: max(0, len(others) - args.keep)]:
                remove(generation)
                removed.append(generation.number)
            rows.append({"env": env, "removed": removed, "kept": [g.number for g in generations(project, env)]})
    return Outcome(Exit.DONE, {"schema": "bnbenv.gc/1", "environments": rows})
