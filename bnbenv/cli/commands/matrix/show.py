"""``bnbenv matrix show``: what the matrix says: all of it, about a bitsandbytes version, or about a GPU."""

from __future__ import annotations

import argparse

import msgspec

from bnbenv.cli.command import Context, Outcome
from bnbenv.errors import Exit

SUMMARY = """\
Show the compatibility matrix: what each bitsandbytes wheel and torch build
holds, which driver each CUDA release needs, and what is known to go wrong."""
EXAMPLE = "bnbenv matrix show --json"
EXITS = "0 shown, 2 there is no such row"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shipped", action="store_true", help="only the rows that came with bnbenv")


def run(args: argparse.Namespace, ctx: Context) -> Outcome:
    from bnbenv.envs.resolve import user_matrix
    from bnbenv.matrix.load import load_matrix

    matrix = load_matrix() if args.shipped else user_matrix(ctx.environ)
    return Outcome(Exit.DONE, {"schema": "bnbenv.matrix/1", **msgspec.to_builtins(matrix)})
