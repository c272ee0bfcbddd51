"""``bnbenv path``: where the environment in use is."""

from __future__ import annotations

import argparse

from bnbenv.cli.command import Context, Outcome
from bnbenv.cli.common import add_one_env, project_of
from bnbenv.envs.check import in_use
from bnbenv.envs.generations import check_link
from bnbenv.envs.project import env_python
from bnbenv.errors import Exit, Failed

SUMMARY = "Print the path of the environment in use, for scripts."
EXAMPLE = '"$(bnbenv path --python)" train.py'
EXITS = "0 printed, 1 there is no environment yet, 2 unreadable input"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_one_env(parser)
    parser.add_argument("--python", action="store_true", help="the path of its interpreter")


def run(args: argparse.Namespace, ctx: Context) -> Outcome:
    project = project_of(args, ctx)
    use = in_use(project, args.env)
    if use.problem is not None:
        check_link(project, args.env)
        raise Failed(use.problem.code, use.problem.because, "Make it with: bnbenv sync")
    link = project.link(args.env)
    document = {
        "schema": "bnbenv.path/1",
        "env": args.env,
        "path": str(link),
        "python": str(env_python(link)),
        "generation": use.generation,
        "shown": "python" if args.python else "path",
    }
    return Outcome(Exit.DONE, document)
