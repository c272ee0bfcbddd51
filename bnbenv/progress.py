"""The port through which work tells what it is doing. How that looks is the command line's business."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """What happens, while it happens. All of it goes to standard error and to the log of the run."""

    def say(self, line: str) -> None:
        """A line that stays."""

    def detail(self, line: str) -> None:
        """A line for those who want to know more (``-v``), and for the log."""

    def at(self, text: str) -> None:
        """What is at hand now, in place of what was before; empty: nothing. May be called many times a second."""


class Quiet:
    """Tells nobody."""

    def say(self, line: str) -> None: ...

    def detail(self, line: str) -> None: ...

    def at(self, text: str) -> None: ...
