"""How work that is under way looks on standard error."""

from __future__ import annotations

from collections.abc import Callable


class Lines:
    """One line after the other, for a file, a pipe, or a terminal that can do no more."""

    def __init__(self, put: Callable[[str], None]) -> None:
        self._put = put

    def say(self, line: str) -> None:
        self._put(line)

    def detail(self, line: str) -> None: ...

    def at(self, text: str) -> None: ...
