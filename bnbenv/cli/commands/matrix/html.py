"""``bnbenv matrix html``: the matrix as one page to look at."""

from __future__ import annotations

import argparse
from hashlib import sha256
from pathlib import Path

from bnbenv.cli.command import Context, Outcome
from bnbenv.errors import Exit, UsageError

SUMMARY = """\
Write one page to look at: pick driver, GPUs, platform and torch, and see which
bitsandbytes runs there, with reasons, evidence and the command to run.

The page is a single file. It needs no server and asks nothing of any network."""
EXAMPLE = "bnbenv matrix html matrix.html"
EXITS = "0 written, 1 it could not be written, 2 there is another file of that name"

_OURS = b'<meta name="generator" content="bnbenv '
_HEAD = 2048  # bytes of a page in which that stands


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", metavar="OUT", help="the file to write, or a folder, which then gets an index.html")
    parser.add_argument("--shipped", action="store_true", help="only the rows that came with bnbenv")


def run(args: argparse.Namespace, ctx: Context) -> Outcome:
    from bnbenv.cli.page import make_page
    from bnbenv.envs.resolve import user_matrix
    from bnbenv.matrix.load import load_matrix
    from bnbenv.paths import write_atomically
    from bnbenv.progress import during
    from bnbenv.solve.grid import draw_grid

    path = _place(args.out, ctx.cwd)
    matrix = load_matrix() if args.shipped else user_matrix(ctx.environ)
    with during(ctx.progress, "asking the rules about every platform, driver and GPU"):
        text = make_page(draw_grid(matrix))
    write_atomically(path, text)
    content = text.encode()
    document = {
        "schema": "bnbenv.matrix-html/1",
        "path": str(path),
        "bytes": len(content),
        "sha256": sha256(content).hexdigest(),
        "rows": {"bitsandbytes": len(matrix.bitsandbytes), "torch": len(matrix.torch)},
    }
    return Outcome(Exit.DONE, document)


def _place(out: str, cwd: Path) -> Path:
    """The file to write. Raises UsageError where something else lies there than an earlier page of this command."""
    from bnbenv.paths import expand

    path = cwd / expand(out)
    if path.is_dir() or out.endswith(("/", "\\")):
        path = path / "index.html"
    if path.exists():
        with path.open("rb") as stream:
            head = stream.read(_HEAD)
        if head and _OURS not in head:
            message = f"{path} is there already and is no page of bnbenv; it was left alone"
            raise UsageError("in-the-way", message, "Name another file, such as matrix.html.")
    return path
