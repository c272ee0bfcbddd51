"""``bnbenv list``: the generations."""

from __future__ import annotations

import argparse

from bnbenv.cli.command import Context, Outcome
from bnbenv.cli.common import add_env, project_of
from bnbenv.envs.check import env_names, in_use
from bnbenv.envs.record import versions_in
from bnbenv.errors import Exit

SUMMARY = """\
List the generations of the environments: when they were made, what they hold,
and which one is in use."""
EXAMPLE = "bnbenv list"
EXITS = "0 done, 2 unreadable input"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_env(parser)


def run(args: argparse.Namespace, ctx: Context) -> Outcome:
    from bnbenv.envs.generations import generations

    project = project_of(args, ctx)
    rows = []
    for env in env_names(project, args.env):
        current = in_use(project, env).generation
        for generation in generations(project, env):
            record = generation.record
            choice = record.decision.get("choice", {}) if record else {}
            versions = versions_in(record.decision) if record else {}
            rows.append(
                {
                    "env": env,
                    "generation": generation.number,
                    "in_use": generation.number == current,
                    "finished": record is not None,
                    "newer": generation.newer,
                    "usable": generation.usable,
                    "verified": bool(record and record.verified),
                    "created": record.created if record else None,
                    "python": choice.get("python"),
                    "torch": choice.get("torch", {}).get("version"),
                    "bitsandbytes": versions.pop("bitsandbytes", None),
                    "packages": versions,
                    "adopted": generation.adopted,
                    "path": str(generation.prefix),
                }
            )
    return Outcome(Exit.DONE, {"schema": "bnbenv.list/1", "project": str(project.root), "generations": rows})
