"""``bnbenv matrix show``: what the matrix says: all of it, about a release, or about a GPU."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

import msgspec

from bnbenv.cli.command import Context, Outcome
from bnbenv.errors import Exit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bnbenv.matrix.model import Matrix
    from bnbenv.solve.lookup import Wanted

SUMMARY = """\
Show the compatibility matrix: what each bitsandbytes wheel and torch build
holds, which driver each CUDA release needs, and what is known to go wrong.

Alone it says how much is known. WHAT is a version of bitsandbytes (0.50.2, or
0.50 for all of them), of torch (torch==2.9.1), or of a package of GPTQ or AWQ
(autoawq-kernels). With --json it is the rows themselves: all of them, or those
that are concerned."""
EXAMPLE = """\
bnbenv matrix show 0.50.2
bnbenv matrix show --gpu "RTX 5090" --platform linux-x86_64"""
EXITS = "0 shown, 2 there is no such row"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    parser.add_argument("what", metavar="WHAT", nargs="?", help='such as 0.50.2, torch==2.9.1 or "torch>=2.14"')
    parser.add_argument("--gpu", metavar="GPU", help='a name, "sm_120" or "12.0": what holds code for it')
    parser.add_argument("--platform", metavar="PLATFORM", help="only linux-x86_64, windows-x86_64, linux-aarch64, ...")
    parser.add_argument("--shipped", action="store_true", help="only the rows that came with bnbenv")


def run(args: argparse.Namespace, ctx: Context) -> Outcome:
    """The rows that are concerned. Raises UsageError for what there is no row of."""
    from bnbenv.envs.resolve import user_matrix
    from bnbenv.matrix.load import load_matrix
    from bnbenv.solve.lookup import narrowed, versions

    matrix = load_matrix() if args.shipped else user_matrix(ctx.environ)
    wanted = _wanted(args, matrix)
    rows = narrowed(matrix, wanted)
    view = {
        "project": wanted.project,
        "gpu": args.gpu if wanted.arch else None,
        "versions": {project: versions(matrix, project) for project in ("bitsandbytes", "torch")},
        "own": None if args.shipped or wanted.project or wanted.arch else _own(matrix, load_matrix(), ctx.environ),
    }
    return Outcome(Exit.DONE, {"schema": "bnbenv.matrix/1", **msgspec.to_builtins(rows)}, view)


def _wanted(args: argparse.Namespace, matrix: Matrix) -> Wanted:
    from bnbenv.errors import UsageError
    from bnbenv.solve.lookup import Wanted, find_arch, narrowed, read_platform, read_release

    project, spec = read_release(args.what, matrix) if args.what is not None else (None, "*")
    wanted = Wanted(
        project=project,
        spec=spec,
        arch=find_arch(args.gpu, matrix) if args.gpu is not None else None,
        platform=read_platform(args.platform, matrix) if args.platform is not None else None,
    )
    rows = narrowed(matrix, wanted)
    if project is not None and not (rows.bitsandbytes or rows.torch or rows.packages):
        where = f" on {args.platform}" if args.platform else ""
        gpu = f" with code for {wanted.arch.arch}" if wanted.arch else ""
        release = args.what if project in args.what.lower() else f"{project} {args.what}"
        raise UsageError("no-row", f"the matrix has no {release}{where}{gpu}", "Ask for less at once.")
    return wanted


def _own(matrix: Matrix, shipped: Matrix, environ: Mapping[str, str]) -> dict[str, Any] | None:
    """Where the rows of the user's own lie, how many hold, and the date of the newest. None: a user without a home."""
    from bnbenv.envs.overlay import overlay

    folder = overlay(environ)
    if folder is None:
        return None
    wheels = set(matrix.bitsandbytes) - set(shipped.bitsandbytes)
    builds = set(matrix.torch) - set(shipped.torch)
    dates = [row.evidence.date for row in wheels] + [row.evidence.date for row in builds]
    return {
        "folder": str(folder),
        "bitsandbytes": len(wheels),
        "torch": len(builds),
        "newest": max(dates, default=None),
    }
