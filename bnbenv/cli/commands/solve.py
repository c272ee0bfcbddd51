"""``bnbenv solve``: one choice or a refusal, from facts, matrix and wishes."""

from __future__ import annotations

import argparse

import msgspec

from bnbenv.cli.command import Context, Outcome
from bnbenv.cli.common import add_wishes, check_driver, facts_of, project_of, setting_of, wishes_from
from bnbenv.errors import Exit, UsageError
from bnbenv.solve.model import Availability, Request, Solution

SUMMARY = """\
Say which torch and bitsandbytes fit this host (or recorded facts), and on
which evidence; or why none do, and what would change that.

It judges on the compatibility matrix alone; with --reachable it takes only what
the package sources offer now, as plan, lock and sync always do."""
EXAMPLE = "bnbenv solve --driver 590.44.01 --torch '>=2.9'"
EXITS = "0 solved, 2 an option or file cannot be read, 4 refused, 6 reboot required"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_wishes(parser)
    parser.add_argument("--facts", metavar="FILE", help="recorded facts (bnbenv facts --json) instead of this host")
    parser.add_argument(
        "--driver", metavar="VERSION", help='as if this driver were installed, such as "590.44" or "590"'
    )
    build = parser.add_mutually_exclusive_group()
    build.add_argument("--build", action="store_true", help="ask for a source build of bitsandbytes")
    build.add_argument("--no-build", action="store_true", help="published wheels only")
    parser.add_argument("--reachable", action="store_true", help="take only what the package sources offer now")
    parser.add_argument("--shipped", action="store_true", help="judge by what came with bnbenv alone")
    parser.add_argument("--all", action="store_true", help="list everything passed over, and whole digests")


def run(args: argparse.Namespace, ctx: Context) -> Outcome:
    from bnbenv.envs.resolve import survey, user_matrix
    from bnbenv.envs.wishes import EnvWish, Wishes
    from bnbenv.matrix.load import load_matrix
    from bnbenv.solve.solver import solve

    request = _request(args)
    facts = facts_of(ctx, args.facts)
    matrix = load_matrix() if args.shipped else user_matrix(ctx.environ)
    found = Availability()
    if args.reachable:  # only then it matters for which project
        setting = setting_of(project_of(args, ctx), Wishes(envs={"bnb": EnvWish()}), facts, ctx)
        found, _ = survey(setting)
    answer = solve(facts, matrix, request, found)
    solved = isinstance(answer, Solution)
    view = {
        "everything": args.all or args.verbose,
        "asked": args.reachable,
        "elsewhere": args.facts is not None,
        "driver": args.driver,
    }
    return Outcome(Exit.DONE if solved else Exit.NO_COMBINATION, answer.document(), view)


def _request(args: argparse.Namespace) -> Request:
    """The options as a request. Raises InputError, UsageError."""
    from bnbenv.solve.situation import read_gpus
    from bnbenv.solve.versions import read_specifier

    if args.torch is not None and args.torch.strip() == "keep":
        step = "Name the version that is there, such as --torch 2.9.1."
        raise UsageError("keep", "--torch keep: this bnbenv chooses torch itself", step)
    if args.driver is not None:
        check_driver(args.driver)
    changes = wishes_from(args)
    request = Request(driver=args.driver, build="always" if args.build else "never" if args.no_build else "auto")
    for name in ("torch", "bitsandbytes", "python"):
        if name in changes:
            spec = read_specifier(changes[name], f"--{name}", "")
            request = msgspec.structs.replace(request, **{name: spec})
    if args.gpus is not None:
        request = msgspec.structs.replace(request, gpus=read_gpus(args.gpus, "--gpus", ""))
    return msgspec.structs.replace(request, backend=args.backend or "auto")
