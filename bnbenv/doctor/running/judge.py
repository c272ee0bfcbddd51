"""From the end of a command's output to the cause and its fix. Imported when something failed."""

from __future__ import annotations

import io
from collections.abc import Callable

import msgspec

from bnbenv.doctor.causes import about
from bnbenv.doctor.fixes import prescribe
from bnbenv.doctor.model import Examination, Said
from bnbenv.doctor.running.attempts import Judged
from bnbenv.doctor.text import diagnose, memory, transient
from bnbenv.redact import redact


def judge(tail: bytes, examined: Callable[[], Examination | None]) -> Judged | None:
    """What the output says; None where nothing in it speaks of a failure that is known.

    ``examined`` gives the environment that the command ran in: it is asked only where there is something to mend.
    """
    found = diagnose(io.BytesIO(tail))
    primary = next((seen for seen in found.seen if seen.role == "primary"), None)
    if primary is None or primary.cause == "unknown":
        return None
    lines = tuple(redact(text.strip()) for _, text in primary.lines)
    return _judged(primary.code, found.said, lines, examined())


def judge_kill() -> Judged:
    """The kernel's out-of-memory killer ended it."""
    evidence = "the kernel's out-of-memory killer ended a process meanwhile (oom_kill in /proc/vmstat rose)"
    return _judged("host-out-of-memory", None, (evidence,), None)


def _judged(code: str, said: Said | None, evidence: tuple[str, ...], examination: Examination | None) -> Judged:
    known = about(code)
    fix = msgspec.to_builtins(prescribe(code, known.cause, examination, said, None))
    return Judged(
        known.cause,
        code,
        known.title,
        known.explanation,
        evidence,
        fix,
        known.reference,
        transient(code),
        memory(code),
    )
