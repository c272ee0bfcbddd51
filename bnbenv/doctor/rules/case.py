"""What a rule is given and what it answers: one small pure function a cause.

A rule says yes with the evidence, no, or unknown with the reason; unknown is never treated as no, nor as yes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bnbenv.doctor.model import Examination, Verdict
from bnbenv.matrix.model import Matrix
from bnbenv.solve.situation import Situation

NO = Verdict("no")


@dataclass(frozen=True)
class Case:
    """What rules judge: the examination, the host as the solver sees it, and the matrix.

    ``wants_gpu``: the environment was made for GPUs, or somebody asked for them.
    """

    examination: Examination
    situation: Situation
    matrix: Matrix
    wants_gpu: bool = False


@dataclass(frozen=True)
class Rule:
    """A cause's name, which ``causes.toml`` knows, and what finds it."""

    code: str
    judge: Callable[[Case], Verdict]


def yes(*evidence: str) -> Verdict:
    """It is so; each line of evidence is a sentence without its full stop."""
    return Verdict("yes", evidence)


def unknown(because: str) -> Verdict:
    """It cannot be told."""
    return Verdict("unknown", (), because)
