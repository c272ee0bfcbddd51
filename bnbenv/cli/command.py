"""What a command is given and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnbenv.errors import Exit

if TYPE_CHECKING:
    from bnbenv.process import Runner


@dataclass(frozen=True)
class Context:
    """The effects a command may use. ``say`` prints one line of progress to standard error."""

    environ: Mapping[str, str]
    cwd: Path
    runner: Runner
    say: Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """A command's result: the exit code, and the document that ``--json`` prints and the renderer shows."""

    exit: Exit
    document: dict[str, Any]
