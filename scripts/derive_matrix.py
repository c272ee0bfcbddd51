#!/usr/bin/env python3
"""Measure the wheels on the package index that the matrix does not know yet, and write their rows into matrices/.

    python scripts/derive_matrix.py                                  all that is new
    python scripts/derive_matrix.py --torch none --bitsandbytes '==0.50.2'

Known rows are told by their sha256 and kept, and the document is written after each wheel, so that it can be
interrupted and resumed. With --pytorch-index the builds there are measured too, and what was declared of them is
dropped. Exits 1 where a wheel could not be measured; the others are written all the same.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from deriving import ended
from packaging.specifiers import InvalidSpecifier, SpecifierSet

from bnbenv.matrix.index import index_endpoint, index_session
from bnbenv.matrix.load import load_matrix
from bnbenv.matrix.model import TorchBuild
from bnbenv.matrix.news import Place
from bnbenv.matrix.store import Store, drop_declared
from bnbenv.matrix.update import Wish, look, pytorch_places, refresh
from bnbenv.progress import Quiet


class Lines(Quiet):
    """Each row in a line."""

    def say(self, line: str) -> None:
        print(line, flush=True)


def derive(given: argparse.Namespace) -> int:
    """Raises BnbenvError, OSError."""
    store = Store(given.out)
    declared: list[TorchBuild] = []
    variants: tuple[Place, ...] = ()
    if given.pytorch_index:
        shipped = load_matrix()
        declared = [row for row in shipped.torch if row.evidence.level == "declared"]
        variants = pytorch_places(given.pytorch_index, shipped.torch, (row.cuda for row in shipped.drivers))
    default = Place(index_endpoint(os.environ, given.index))
    wish = Wish(given.bitsandbytes, given.torch, default, variants)
    found = look(wish, store.wheels(), [*store.builds(), *declared], index_session)
    for missed in found.silent:
        print(f"not read {missed.filename}: {missed.because}")
    for missed in found.gone:
        print(f"gone {missed.filename}: {missed.because}; its row is kept")
    report = refresh(found, store, index_session, Lines(), given.jobs)
    if given.pytorch_index:
        drop_declared(given.out, store.builds())
    for missed in report.left_out:
        print(f"left out {missed.filename}: {missed.because}")
    for missed in report.failed:
        print(f"failed {missed.filename}: {missed.because}", file=sys.stderr)
    return 1 if report.failed else 0


def versions(text: str) -> SpecifierSet | None:
    """A version range; ``none`` is no version at all."""
    try:
        return None if text == "none" else SpecifierSet(text)
    except InvalidSpecifier:
        raise argparse.ArgumentTypeError(f"{text!r} is no version range such as '>=2.0'") from None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--bitsandbytes", type=versions, default=">=0.37.0", metavar="SPEC", help="versions, or none (%(default)s)"
    )
    parser.add_argument(
        "--torch", type=versions, default=">=2.0.0", metavar="SPEC", help="versions, or none (%(default)s)"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "matrices", metavar="DIR")
    parser.add_argument("--index", metavar="URL", help="a simple index (default: as uv or pip is configured)")
    parser.add_argument("--pytorch-index", metavar="URL", help="PyTorch's own index, whose builds are measured too")
    parser.add_argument("--jobs", type=int, default=3, metavar="N", help="wheels at a time (%(default)s)")
    given = parser.parse_args()
    return ended(lambda: derive(given))


if __name__ == "__main__":
    sys.exit(main())
