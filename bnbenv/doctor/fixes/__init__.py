"""Fixes: what to do about a cause, as text and as actions, and carrying those out with a way back.

``prescribe`` is pure. ``choose`` asks the solver, and uv whether what would be installed can be had; it is for when
something was found. ``carry_out`` does it, ``undo`` puts back what was there, ``in_progress`` names what was cut short.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bnbenv.doctor.fixes.model import Chosen, Hands, Mended, Undone
from bnbenv.doctor.fixes.prescribe import prescribe, treat

if TYPE_CHECKING:
    from bnbenv.doctor.model import Cause, Examination, Finding, Said
    from bnbenv.matrix.model import Matrix

__all__ = ["Chosen", "Hands", "Mended", "Undone", "carry_out", "choose", "in_progress", "prescribe", "treat", "undo"]


def choose(
    wanted: Sequence[tuple[str, Cause]], examination: Examination, said: Said | None, matrix: Matrix, hands: Hands
) -> Chosen:
    """What the solver says for this machine, and whether what the fixes of ``wanted`` (code, cause) would install can
    be had: uv resolves it, within a time limit. Nothing is changed, nothing is raised.

    Without any of ``wanted`` that needs it, it costs nothing.
    """
    from bnbenv.doctor.fixes.choose import choose as implementation

    return implementation(wanted, examination, said, matrix, hands)


def carry_out(
    findings: Sequence[Finding], examination: Examination, matrix: Matrix, hands: Hands, *, yes: bool
) -> Mended:
    """Do what ``findings`` ask for, the primary one first; the plan is said on ``hands.progress`` before.

    An environment of bnbenv's own gets a new generation. Anything else is changed with ``yes`` only: what is there is
    recorded first, and put back where the kernels fail after it. Raises Failed (not writable, managed by others, cannot
    be resolved), SourceUnreachable, VerificationFailed (what was there was put back), Busy, RebootRequired.
    """
    from bnbenv.doctor.fixes.carry import carry_out as implementation

    return implementation(findings, examination, matrix, hands, yes=yes)


def undo(record: str | None, hands: Hands) -> Undone:
    """Put back what a record holds (None: the newest that was not put back). Needs no network.

    Raises UsageError (no such record), Failed (what lies there was changed since), Busy.
    """
    from bnbenv.doctor.fixes.undo import undo as implementation

    return implementation(record, hands)


def in_progress(hands: Hands) -> tuple[str, ...]:
    """The records of changes that were cut short (a kill, a crash); ``undo`` mends them. The oldest first."""
    from bnbenv.doctor.fixes.records import in_progress as implementation

    return implementation(hands.environ)
