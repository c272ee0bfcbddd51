"""Where a project has several environments: which of them an error is about, and commands that mean just that one."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence

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


def of_several(failed: dict[str, BnbenvError], done: Sequence[str]) -> BnbenvError:
    """One error for the environments that failed: the first one's, with what is to be said of the others."""
    first, *more = failed.values()
    for other in more:
        first.message = f"{first.message}; {other.message}"
        first.detail = "\n".join(part for part in (first.detail, other.detail) if part)
    if done:
        first.message = f"{first.message} (in sync now: {', '.join(done)})"
    return first


def meaning(env: str, step: str) -> str:
    """A next step whose commands name the environment."""
    return _COMMAND.sub(rf"bnbenv \1 --env {env}", step)
