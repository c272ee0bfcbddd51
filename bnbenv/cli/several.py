"""Where a project has several environments: which of them an error is about, and commands that mean just that one."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence

from bnbenv.errors import BnbenvError

_WISH = r"(?= --(?:torch|bitsandbytes|package|python|gpus|backend|build|no-build)\b)"
_ADD = re.compile(rf"\bbnbenv add (?:bitsandbytes|gptq|awq|none){_WISH}")
_MAKE = re.compile(rf"\bbnbenv (?:sync|add (?:bitsandbytes|gptq|awq|none)){_WISH}")
_COMMAND = re.compile(r"\bbnbenv (sync|lock|plan|rollback|verify)\b(?![^;,()]*--env\b)")


@contextlib.contextmanager
def about(env: str, several: bool) -> Iterator[None]:
    """Work on one environment: with ``several`` its errors begin with its name."""
    try:
        yield
    except BnbenvError as error:
        error.next_step = _ADD.sub(f"bnbenv sync --env {env}", error.next_step)
        if several:
            error.message = f"{env}: {error.message}"
            error.next_step = meaning(env, error.next_step)
        raise


@contextlib.contextmanager
def adding(family: str, env: str, named: bool) -> Iterator[None]:
    """Work on an environment that is to be added: what would help has to be given to ``bnbenv add``.

    ``named``: it has another name than its family's.
    """
    try:
        yield
    except BnbenvError as error:
        error.message = f"{env}: {error.message}"
        again = f"bnbenv add {family} --env {env}" if named else f"bnbenv add {family}"
        error.next_step = _MAKE.sub(again, error.next_step)
        raise


def of_several(failed: dict[str, BnbenvError], done: Sequence[str], what: str = "in sync now") -> BnbenvError:
    """One error for the environments that failed: the first one's, with what is to be said of the others."""
    first, *more = failed.values()
    for other in more:
        first.message = f"{first.message}; {other.message}"
        first.detail = "\n".join(part for part in (first.detail, other.detail) if part)
    if done:
        first.message = f"{first.message} ({what}: {', '.join(done)})"
    return first


def meaning(env: str, step: str) -> str:
    """A next step whose commands name the environment."""
    return _COMMAND.sub(rf"bnbenv \1 --env {env}", _ADD.sub(f"bnbenv sync --env {env}", step))
