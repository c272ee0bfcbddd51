"""What became of each attempt, and whether there is to be another one. Pure.

A command is started again only where that can do no harm: the cause passes by itself, nobody asked the command to end,
it ended before it can have done much (``within``), and its standard input can be given to it from the beginning.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bnbenv.doctor.running.sizes import show_seconds


@dataclass(frozen=True)
class Limits:
    """How often and how long. Seconds. ``within``: what ran longer is not started again, for it may have done work.

    The pause before the n-th retry is ``first`` * 2**(n-1), at most ``longest``, of which a random half is left out:
    programs that were in each other's way do not meet again. All pauses together are at most ``total``.
    """

    retries: int = 3
    within: float = 300.0
    first: float = 5.0
    longest: float = 60.0
    total: float = 600.0


@dataclass(frozen=True)
class Judged:
    """Why it failed: the code of a signature and what is known of it. ``fix`` has summary, command and steps.

    ``transient``: it passes by itself. ``memory``: memory was the cause.
    """

    cause: str
    code: str
    title: str
    explanation: str
    evidence: tuple[str, ...]
    fix: dict[str, Any]
    reference: str
    transient: bool
    memory: bool

    def document(self) -> dict[str, Any]:
        """The finding in ``--json``."""
        return {
            "cause": self.cause,
            "code": self.code,
            "title": self.title,
            "evidence": list(self.evidence),
            "explanation": self.explanation,
            "fix": self.fix,
            "reference": self.reference,
        }


@dataclass(frozen=True)
class Attempt:
    """One run of the command. ``returncode`` is negative for a signal; ``judged`` is None where it needs no cause."""

    returncode: int
    signal: str | None
    seconds: float
    interrupted: bool
    judged: Judged | None

    def document(self) -> dict[str, Any]:
        return {
            "exit_code": None if self.signal else self.returncode,
            "signal": self.signal,
            "seconds": round(self.seconds, 3),
            "cause": self.judged.cause if self.judged else None,
            "code": self.judged.code if self.judged else None,
            "transient": self.judged is not None and self.judged.transient,
        }


def pause(limits: Limits, retry: int, chance: float) -> float:
    """Seconds before a retry, counted from 1; ``chance`` is at random from 0 to 1."""
    return min(limits.longest, limits.first * 2.0 ** min(retry - 1, 30)) * (0.5 + chance / 2)


def worth_another(attempt: Attempt) -> bool:
    """Whether the cause passes by itself."""
    return attempt.judged is not None and attempt.judged.transient and not attempt.interrupted


def why_no_other(attempt: Attempt, limits: Limits, made: int, paused: float, repeatable: bool) -> str | None:
    """Why an attempt that is ``worth_another`` is the last one all the same; None: there may be another one.

    ``made``: retries so far; ``paused``: seconds waited between them; ``repeatable``: standard input can begin again.
    """
    if made >= limits.retries:
        times = "once" if made == 1 else f"{made} times"
        return f"it was tried again {times} (--retries)" if made else ""
    if attempt.seconds > limits.within:
        ran = show_seconds(attempt.seconds)
        return f"not tried again: it ran for {ran} and may have done work (--retry-within)"
    if not repeatable:
        return "not tried again: its standard input cannot be given twice (</dev/null, or a file, can)"
    if paused >= limits.total:
        return f"not tried again: {show_seconds(paused)} were waited already"
    return None
