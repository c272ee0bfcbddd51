"""``bnbenv gc``: delete generations that are not needed, and compilers of source builds."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from bnbenv.cli.command import Context, Outcome
from bnbenv.cli.common import add_env, holding, project_of
from bnbenv.cli.help import whole_number
from bnbenv.envs.check import env_names, in_use
from bnbenv.errors import Exit

if TYPE_CHECKING:
    from bnbenv.envs.generations import Generation

SUMMARY = """\
Delete generations that are not needed: unfinished ones, and old ones. The one in
use is kept, and by default one more: the newest that was verified. The last one
that was verified is never deleted.

Of source builds it deletes compilers that were not used for 30 days, and what was
left behind; the wheels stay. With --builds all compilers go: they come back from
packages when something is compiled again."""
EXAMPLE = """\
bnbenv gc --keep 0    keep only what is in use
bnbenv gc --builds    and delete the compilers of source builds"""
EXITS = "0 done, 2 unreadable input, 8 another bnbenv is at work"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_env(parser)
    what = "how many to keep beside the one in use (default: 1)"
    parser.add_argument("--keep", metavar="N", type=whole_number, default=1, help=what)
    parser.add_argument("--builds", action="store_true", help="delete the compilers of source builds as well")


def superfluous(known: list[Generation], current: int | None, keep: int) -> list[Generation]:
    """The generations to delete, when ``keep`` are to stay beside the one in use. Pure.

    Those that were verified are kept first, then the newest; and one of them where the one in use has not been. Where
    nothing is in use, what is there may be all there is. One that was adopted is not bnbenv's to delete.
    """
    if current is None:
        return []
    ours = (one for one in known if not one.newer and not one.adopted)
    others = sorted((one for one in ours if one.number != current), key=_worth)
    in_use = next((one for one in known if one.number == current), None)
    if keep == 0 and others and _verified(others[-1]) and (in_use is None or not _verified(in_use)):
        keep = 1
    return sorted(others[: max(0, len(others) - keep)], key=lambda one: one.number)


def _worth(generation: Generation) -> tuple[bool, int]:
    return _verified(generation), generation.number


def _verified(generation: Generation) -> bool:
    return generation.usable and generation.record is not None and generation.record.verified


def run(args: argparse.Namespace, ctx: Context) -> Outcome:
    from bnbenv.build.tidy import tidy
    from bnbenv.envs.generations import clean_up, clear_strays, generations, remove
    from bnbenv.paths import data_home

    project = project_of(args, ctx)
    rows = []
    with holding(project, ctx):
        names = env_names(project, args.env)
        if args.env is None:
            clear_strays(project, names)
        for env in names:
            removed = clean_up(project, env)
            for generation in superfluous(generations(project, env), in_use(project, env).generation, args.keep):
                remove(generation)
                removed.append(generation.number)
            rows.append({"env": env, "removed": removed, "kept": [g.number for g in generations(project, env)]})
    tidied = tidy(data_home(ctx.environ) / "builds", args.builds)
    builds = {"deleted": [one._asdict() for one in tidied.deleted], "kept": list(tidied.kept)}
    return Outcome(Exit.DONE, {"schema": "bnbenv.gc/1", "environments": rows, "builds": builds})
