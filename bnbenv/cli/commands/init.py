"""``bnbenv init``: a commented bnbenv.toml."""

from __future__ import annotations

import argparse

from bnbenv.cli.command import Context, Outcome
from bnbenv.envs.project import CONFIG, Project, find_project
from bnbenv.errors import Exit, Failed

SUMMARY = """\
Write a bnbenv.toml into this folder, with every wish in it as a comment.

The file is not needed for the defaults. One that exists is kept."""
EXAMPLE = "bnbenv init && bnbenv sync"
EXITS = "0 written, 1 there is one already"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    return


def run(args: argparse.Namespace, ctx: Context) -> Outcome:
    from bnbenv.envs.wishes import write_template

    project = find_project(ctx.cwd, ctx.environ, args.project) if args.project else Project(ctx.cwd, ctx.cwd / CONFIG)
    if project.config.exists():
        raise Failed("exists", f"{project.config} exists already, and was kept", "Edit it, then run: bnbenv sync")
    write_template(project.config)
    return Outcome(Exit.DONE, {"schema": "bnbenv.init/1", "path": str(project.config)})
