"""``bnbenv solve``: one choice or a refusal, from facts, matrix and wishes."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, get_args

import msgspec

from bnbenv.cli.command import Context, Outcome
from bnbenv.cli.common import add_build, add_wishes, check_driver, facts_of, project_of, setting_of
from bnbenv.errors import Exit, UsageError
from bnbenv.solve.model import KEEP, Availability, FamilyName, Request, Solution
from bnbenv.solve.situation import with_request

if TYPE_CHECKING:
    from bnbenv.facts.model import HostFacts

SUMMARY = """\
Say which torch and bitsandbytes (or, with --family, which torch and gptqmodel or
autoawq) fit this host or recorded facts, and on which evidence; or why none do,
and what would change that.

Where no published wheel fits, bitsandbytes is compiled. It judges on the
compatibility matrix alone; with --reachable it takes only what the package
sources offer now, as plan, lock and sync always do, and compiles only what it can. With --torch keep
the torch that is there (a container's, a cluster's, conda's) is measured where it
lies, and bitsandbytes is chosen for it."""
EXAMPLE = """\
bnbenv solve --driver 590.44.01 --torch '>=2.9'
bnbenv solve --family awq --package 'autoawq[kernels]'
bnbenv solve --torch keep"""
EXITS = "0 solved, 2 an option or file cannot be read, 4 refused, 6 reboot required"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_wishes(parser, keep=True)
    parser.add_argument("--facts", metavar="FILE", help="recorded facts (bnbenv facts --json) instead of this host")
    parser.add_argument(
        "--driver", metavar="VERSION", help='as if this driver were installed, such as "590.44" or "590"'
    )
    add_build(parser)
    families = get_args(FamilyName)
    parser.add_argument("--family", choices=families, default=families[0], help=f"{', '.join(families)} (torch alone)")
    parser.add_argument(
        "--package", metavar="REQUIREMENT", help="of gptq and awq: which package, such as 'gptqmodel>=7' or auto-gptq"
    )
    parser.add_argument("--reachable", action="store_true", help="take only what the package sources offer now")
    parser.add_argument("--shipped", action="store_true", help="judge by what came with bnbenv alone")
    parser.add_argument("--all", action="store_true", help="list everything passed over, and whole digests")


def run(args: argparse.Namespace, ctx: Context) -> Outcome:
    from bnbenv.envs.resolve import user_matrix, would_compile
    from bnbenv.envs.survey import survey
    from bnbenv.envs.wishes import EnvWish, Wishes
    from bnbenv.matrix.load import load_matrix
    from bnbenv.solve.ahead import driver_change
    from bnbenv.solve.package_sets import wish_of
    from bnbenv.solve.solver import solve

    request = request_of(args)
    request = with_request(request, build=args.build or "auto")
    facts = facts_of(ctx, args.facts)
    matrix = load_matrix() if args.shipped else user_matrix(ctx.environ)
    if request.package:
        wish_of(request, matrix)
    found = Availability()
    if args.reachable:  # only then it matters for which project
        setting = setting_of(project_of(args, ctx), Wishes(envs={"bnb": EnvWish(family=args.family)}), facts, ctx)
        found, sources, setting = survey(setting, args.family)
        matrix = matrix if args.shipped else setting.matrix
    found = with_existing(found, request, facts, args, ctx)
    answer = solve(facts, matrix, request, found)
    if args.reachable and would_compile(answer, request):
        from bnbenv.envs.builds import survey_builds

        found = msgspec.structs.replace(found, builds=survey_builds(setting, sources, request, found)[0])
        answer = solve(facts, matrix, request, found)
    solved = isinstance(answer, Solution)
    change = driver_change(facts, matrix, request, found, answer)
    view = {
        "everything": args.all or args.verbose,
        "asked": args.reachable,
        "elsewhere": args.facts is not None,
        "driver": args.driver,
        "make": _made_by(request),
    }
    return Outcome(Exit.DONE if solved else Exit.NO_COMBINATION, answer.document(change), view)


def _made_by(request: Request) -> str | None:
    """The command that makes an environment of another family with these wishes."""
    from bnbenv.solve.wording import arguments_of, command

    if request.family == "bitsandbytes":
        return None
    return command({key: value for key, value in arguments_of(request).items() if key != "--driver"})


def request_of(args: argparse.Namespace) -> Request:
    """The wishes among the options as a request. Raises InputError, UsageError."""
    from bnbenv.solve.situation import read_gpus
    from bnbenv.solve.versions import read_specifier

    if args.driver is not None:
        check_driver(args.driver)
    family: FamilyName = getattr(args, "family", "bitsandbytes")
    if family != "bitsandbytes" and (args.bitsandbytes or args.build):
        given = "--bitsandbytes" if args.bitsandbytes else "--build and --no-build"
        message = f"{given} {'is' if args.bitsandbytes else 'are'} for the family bitsandbytes, and this is {family}"
        raise UsageError("other-family", message, "Leave it out; --package names what a family is about.")
    package = getattr(args, "package", None) or ""
    request = Request(driver=args.driver, backend=args.backend or "auto", family=family, package=package)
    for name in ("torch", "bitsandbytes", "python"):
        text = getattr(args, name, None)
        if text is not None:
            keep = name == "torch" and text.strip() == KEEP
            request = with_request(request, **{name: KEEP if keep else read_specifier(text, f"--{name}", "")})
    if args.gpus is not None:
        request = with_request(request, gpus=read_gpus(args.gpus, "--gpus", ""))
    return request


def with_existing(
    found: Availability, request: Request, facts: HostFacts, args: argparse.Namespace, ctx: Context
) -> Availability:
    """The torch that is there, where it is to be kept, or on a Jetson could be. Raises InputError, UsageError."""
    on_a_jetson = facts.platform.jetson is not None and args.facts is None
    if request.torch != KEEP and not on_a_jetson:
        return found
    from bnbenv.envs.existing import find_existing
    from bnbenv.progress import during

    project = project_of(args, ctx) if request.torch == KEEP else None
    with during(ctx.progress, "measuring the torch that is there"):
        existing, why = find_existing(ctx.environ, facts, ctx.runner, project)
    return msgspec.structs.replace(found, existing=existing, no_existing=why)
