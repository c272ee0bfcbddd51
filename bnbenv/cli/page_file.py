"""The option ``--html`` of fleet commands: where the report goes, and writing it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from bnbenv.cli.command import Context
from bnbenv.errors import UsageError


def add_html(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--html", metavar="FILE", help="write a report as one page as well")


def page_file(name: str | None, ctx: Context) -> Path | None:
    """Where the report goes; known before hosts are asked or changed. Raises UsageError."""
    from bnbenv.paths import check_output, expand

    if name is None:
        return None
    path = ctx.cwd / expand(name)
    if not name or path.is_dir() or not path.parent.is_dir():
        raise UsageError("no-file", f"--html: {path} is no file that can be written", "Name one in a folder.")
    check_output(path)
    return path


def write_page(path: Path, document: dict[str, Any], ctx: Context) -> bool:
    """Whether it could be written; where not, that is said: what was done stays done."""
    from bnbenv.fleet.report import page
    from bnbenv.paths import write_atomically

    try:
        write_atomically(path, page(document))
    except OSError as error:
        ctx.progress.say(f"warning: {path} cannot be written ({(error.strerror or type(error).__name__).lower()})")
        return False
    ctx.progress.say(f"wrote {path}")
    return True
