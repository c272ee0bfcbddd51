"""``bnbenv adopt``: take in an environment that others made, as it is."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from bnbenv.cli.command import Context, Outcome
from bnbenv.cli.common import facts_of, holding, project_of, setting_of, stop_on_mismatch
from bnbenv.envs.check import observe_host
from bnbenv.envs.project import env_python
from bnbenv.errors import Exit

if TYPE_CHECKING:
    from bnbenv.envs.adoption import Adopted
    from bnbenv.envs.project import Project

SUMMARY = """\
Take in a venv, virtualenv or conda environment that others made. It is read,
judged by the rules of solve, and its kernels are run; nothing in it is changed,
now or later. It becomes generation 0: .venv-NAME leads to it, check watches it,
and what sync makes when it no longer fits is planned from what it holds.

One that does not fit this host is adopted all the same, with the reason. Adopted
again while it is in use it is read anew, after somebody changed it on purpose."""
EXAMPLE = """\
bnbenv adopt ~/venvs/train
bnbenv adopt ~/miniforge3/envs/train --env train"""
EXITS = (
    "0 adopted, 1 its Python or torch cannot be used, 2 no such environment, the name is taken or unreadable input,"
    " 6 reboot required, 8 another bnbenv is at work"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", help="the environment's folder, or its Python")
    what = "what it is called here (default: bnb, or its family)"
    parser.add_argument("--env", dest="name", metavar="NAME", help=what)
    parser.add_argument("--no-verify", action="store_true", help="do not run the kernels (check then says unverified)")


def run(args: argparse.Namespace, ctx: Context) -> Outcome:
    from bnbenv.envs.adoption import adopt
    from bnbenv.envs.foreign import read_foreign
    from bnbenv.envs.generations import note_wishes_file
    from bnbenv.envs.project import check_env_name
    from bnbenv.envs.stage import Options
    from bnbenv.envs.wishes import load_wishes

    if args.name is not None:
        check_env_name(args.name, "--env", "")
    project = project_of(args, ctx)
    host = observe_host(ctx.environ, ctx.runner)
    stop_on_mismatch(host, project)
    ctx.progress.at(f"reading {args.path}")
    found = read_foreign(args.path, ctx.cwd, project, ctx.environ, ctx.runner)
    ctx.progress.at("")
    with holding(project, ctx):
        setting = setting_of(project, load_wishes(project), facts_of(ctx), ctx)
        options = Options(verify=not args.no_verify, recorded=bool(ctx.environ.get("BNBENV_FACTS")))
        done = adopt(setting, found, args.name, host, options)
        for env in project.envs_made():
            note_wishes_file(project, env)
    return Outcome(Exit.DONE, _document(project, done))


def _document(project: Project, done: Adopted) -> dict[str, Any]:
    record, found = done.record, done.found
    against = record.decision["against"]
    notes = list(done.notes)
    if project.user:
        notes.append(f"no bnbenv.toml here or above: it belongs to your own project in {project.root}")
    return {
        "schema": "bnbenv.adopt/1",
        "project": str(project.root),
        "env": done.env,
        "generation": record.generation,
        "adopted": record.adopted,
        "kind": found.kind,
        "path": str(project.link(done.env)),
        "python": str(env_python(project.link(done.env))),
        "family": done.wish.family,
        "choice": record.decision["choice"],
        "backend": record.decision["backend"],
        "packages": len(found.dists),
        "requirements": list(done.wish.requirements),
        "config": str(project.config),
        "wrote": done.wrote,
        "reasons": [{"env": done.env, "code": code, "because": text} for code, text in against.items()],
        "verified": record.verified,
        "verification": record.verification or None,
        "notes": notes,
    }
