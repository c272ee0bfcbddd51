"""What a command is given and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bnbenv.errors import Exit

if TYPE_CHECKING:
    from bnbenv.process import Runner
    from bnbenv.progress import Progress


class Context(NamedTuple):
    """The effects a command may use. ``progress`` tells, on standard error, what is being done.

    ``log_to`` has this run's log kept below a project's ``.bnbenv``: commands that change something call it.
    """

    environ: Mapping[str, str]
    cwd: Path
    runner: Runner
    progress: Progress
    log_to: Callable[[Path], None] = lambda home: None


class Outcome(NamedTuple):
    """A command's result: the exit code, and the document that ``--json`` prints and the renderer shows.

    ``view`` is what the renderer is told beside it: which parts of the document people asked to see. The exit code of a
    command that runs another one is that one's, negative for the signal that ended it.
    """

    exit: Exit | int
    document: dict[str, Any]
    view: Mapping[str, Any] = {}
