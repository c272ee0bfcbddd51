"""``bnbenv bundle``: gather everything that machines without a network need, in one file."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from bnbenv.cli.command import Context, Outcome
from bnbenv.cli.common import add_env, facts_of, project_of, selected, setting_of, stop_on_mismatch
from bnbenv.errors import Exit

if TYPE_CHECKING:
    from bnbenv.bundle.gather import Wanted

SUMMARY = """\
Write one file with everything that machines in a closed network need: for each
of them the locks of the environments, every package of these with its hash,
bnbenv and uv themselves, and the rows that the choice rests on.

Without --for it is for this machine. Machines that need the same share it."""
EXAMPLE = """\
bnbenv bundle lab.tar                               for machines like this one
bnbenv bundle lab.tar --for a.json --for b.json     for recorded ones"""
EXITS = (
    "0 written, 1 failed, 2 unreadable input, 4 no known-good combination for one of the machines, 6 reboot "
    "required, 7 a package source cannot be reached"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", metavar="OUT", help="the file to write, such as lab.tar")
    parser.add_argument(
        "--for",
        dest="machines",
        metavar="FACTS",
        action="append",
        help="for the machine of a recorded facts file (again for each; default: this machine)",
    )
    add_env(parser)


def run(args: argparse.Namespace, ctx: Context) -> Outcome:
    from bnbenv.bundle.make import make
    from bnbenv.envs.check import observe_host
    from bnbenv.envs.wishes import load_wishes
    from bnbenv.errors import UsageError
    from bnbenv.paths import check_output

    project = project_of(args, ctx)
    out = Path(os.path.normpath(ctx.cwd / args.out))
    if out.is_dir() or not args.out or not out.parent.is_dir():
        what = f"{out.parent} is no folder" if not out.parent.is_dir() else f"{out} is a folder"
        raise UsageError("no-file", what, "Name the file to write, such as: bnbenv bundle lab.tar")
    check_output(out)
    machines = list(_machines(args.machines, ctx))
    if not args.machines:
        stop_on_mismatch(observe_host(ctx.environ, ctx.runner), project)
    wishes = load_wishes(project)
    names = selected(wishes, args.env, project)
    setting = setting_of(project, wishes, machines[0].facts, ctx)
    return Outcome(Exit.DONE, make(setting, machines, names, out))


def _machines(files: Iterable[str] | None, ctx: Context) -> Iterator[Wanted]:
    """The machines that are meant, each once by its name. Raises InputError, UsageError."""
    from pathlib import Path

    from bnbenv.bundle.gather import Wanted
    from bnbenv.errors import UsageError

    if not files:
        yield Wanted("", facts_of(ctx))
        return
    seen: set[str] = set()
    for file in files:
        name = "standard input" if file == "-" else Path(file).name
        if Path(file).name == "facts.json" and Path(file).absolute().parent.name:
            name = f"{Path(file).absolute().parent.name}/facts.json"  # many are called so
        if name in seen:
            raise UsageError("twice", f"two facts files are called {name}", "Give one of them another name.")
        seen.add(name)
        yield Wanted(name, facts_of(ctx, file))
