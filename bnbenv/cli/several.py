"""Where a project has several environments: which of them an error is about, and commands that mean just that one."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from bnbenv.errors import BnbenvError

_COMMAND = re.compile(r"\bbnbenv (sync|lock|plan|rollback|verify)\b(?![^;,()]*--env\b)")


@contextlib.contextmanager
def about(env: str, several: bool) -> Iterator[None]:
    """Work on one environment: with ``several`` its errors begin with its name."""
    try:
        yield
    except BnbenvError as error:
        if several:
            error.message = f"{env}: {error.message}"
            error.next_step = meaning(env, error.next_step)
        raise


def meaning(env: str, step: str) -> str:
    """A next step whose commands name the environment."""
    return _COMMAND.sub(rf"bnbenv \1 --env {env}", step)
