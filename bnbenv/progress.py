"""The port through which work tells what it is doing. How that looks is the command line's business."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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


@dataclass(frozen=True)
class About:
    """Tells of one thing among several: its name stands first in each line."""

    progress: Progress
    name: str

    def say(self, line: str) -> None:
        self.progress.say(f"{self.name}: {line}")

    def detail(self, line: str) -> None:
        self.progress.detail(f"{self.name}: {line}")

    def at(self, text: str) -> None:
        self.progress.at(f"{self.name}: {text}" if text else "")


@contextmanager
def during(progress: Progress, text: str) -> Iterator[None]:
    """While the body runs, this is at hand."""
    progress.at(text)
    try:
        yield
    finally:
        progress.at("")


def shown_size(size: int) -> str:
    """A number of bytes for people: ``293.8 MB``, ``1.4 GB``."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
