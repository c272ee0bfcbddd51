"""``bnbenv why-not``: every rule against versions that somebody names, or what is preferred to them."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from bnbenv.cli.command import Context, Outcome
from bnbenv.cli.commands.solve import request_of, with_existing
from bnbenv.cli.common import facts_of
from bnbenv.decode import shown
from bnbenv.errors import Exit, InputError, UsageError
from bnbenv.solve.model import KEEP, Availability, Request
from bnbenv.solve.situation import with_request

if TYPE_CHECKING:
    from packaging.requirements import Requirement

SUMMARY = """\
Say why these versions of torch, bitsandbytes and Python do not fit this host (or
recorded facts): every rule against them, with its source. If they fit, what is
preferred to them, why, and the command that takes them all the same."""
EXAMPLE = """\
bnbenv why-not bitsandbytes==0.46.1 'torch==2.9.*'
bnbenv why-not bitsandbytes==0.46.1 --torch keep"""
EXITS = "0 it fits, 2 an option or file cannot be read, 4 something stands against it, 6 reboot required"

NAMES = ("bitsandbytes", "torch", "python")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "requirements", nargs="+", metavar="REQUIREMENT", help="of bitsandbytes, torch or python, such as torch==2.9.*"
    )
    parser.add_argument("--torch", metavar="keep", choices=(KEEP,), help='"keep": with the torch that is there')
    parser.add_argument("--python", metavar="SPEC", help="a version or specifier of Python")
    parser.add_argument("--gpus", metavar="WHICH", help='which GPUs: "all", indices "0,1", or UUIDs')
    parser.add_argument("--backend", choices=("auto", "cuda", "cpu"), help="auto, cuda or cpu")
    parser.add_argument("--facts", metavar="FILE", help="recorded facts (bnbenv facts --json) instead of this host")
    parser.add_argument("--driver", metavar="VERSION", help='as if this driver were installed, such as "590"')
    parser.add_argument("--shipped", action="store_true", help="judge by what came with bnbenv alone")
    parser.add_argument("--all", action="store_true", help="list every candidate, and whole digests")


def run(args: argparse.Namespace, ctx: Context) -> Outcome:
    from bnbenv.envs.resolve import user_matrix
    from bnbenv.matrix.load import load_matrix
    from bnbenv.solve.explain import why_not

    request = _named(args.requirements, request_of(args))
    facts = facts_of(ctx, args.facts)
    matrix = load_matrix() if args.shipped else user_matrix(ctx.environ)
    found = with_existing(Availability(), request, facts, args, ctx)
    answer = why_not(facts, matrix, request, found)
    view = {"everything": args.all or args.verbose, "elsewhere": args.facts is not None}
    return Outcome(Exit.DONE if answer.fits else Exit.NO_COMBINATION, answer.document(), view)


def _named(texts: list[str], request: Request) -> Request:
    """The requirements as wishes; several about one package all hold. Raises InputError, UsageError."""
    wishes: dict[str, list[str]] = {}
    for text in texts:
        requirement = _read(text)
        name = requirement.name.lower()
        if name == "torch" and request.torch == KEEP:
            raise UsageError("usage", "--torch keep names the torch already", "Leave one of the two out.")
        wishes.setdefault(name, []).extend(map(str, requirement.specifier))
    if request.python != ">=3.10" and "python" in wishes:
        wishes["python"].append(request.python)
    for name, parts in wishes.items():
        parts = [_series(part) for part in parts] if name == "python" else parts
        if parts:
            request = with_request(request, **{name: ",".join(sorted(set(parts)))})
    return request


def _read(text: str) -> Requirement:
    """One requirement on torch, bitsandbytes or Python, without extras, markers or addresses."""
    from packaging.requirements import InvalidRequirement, Requirement

    step = "See: bnbenv why-not --help"
    try:
        if len(text) > 1000:
            raise InvalidRequirement("too long")
        requirement = Requirement(text)
    except InvalidRequirement:
        expected = f'expected a requirement such as "bitsandbytes==0.46.1", found "{shown(text)}"'
        raise InputError("REQUIREMENT", "", expected, step) from None
    if requirement.name.lower() not in NAMES:
        expected = f"expected bitsandbytes, torch or python, found {shown(requirement.name)}"
        raise InputError("REQUIREMENT", "", expected, step)
    if requirement.extras or requirement.marker or requirement.url:
        expected = f'expected versions alone, found "{shown(text)}"'
        raise InputError("REQUIREMENT", "", expected, step)
    return requirement


def _series(part: str) -> str:
    """Of Python a version such as ``==3.11`` means each of its releases."""
    return f"{part}.*" if part.startswith("==") and part.count(".") == 1 and not part.endswith("*") else part
