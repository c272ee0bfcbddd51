"""What a rule is given and what it answers: one small pure function a cause.

A rule says yes with the evidence, no, or unknown with the reason; unknown is never treated as no, nor as yes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from bnbenv.doctor.examine.devices import visible
from bnbenv.doctor.families import families_in
from bnbenv.doctor.model import Examination, LibraryFile, Setting, Verdict
from bnbenv.facts.model import Gpu
from bnbenv.matrix.model import Matrix
from bnbenv.solve.model import FamilyName
from bnbenv.solve.situation import Situation

NO = Verdict("no")

OVERRIDE = "BNB_CUDA_VERSION"
VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Case:
    """What rules judge: the examination, the host as the solver sees it, and the matrix.

    ``made_for``: what an environment of bnbenv's own was made for, ``family`` what is asked for in it; null for others.
    """

    examination: Examination
    situation: Situation
    matrix: Matrix
    made_for: Literal["cuda", "cpu"] | None = None
    family: FamilyName | None = None

    @property
    def bitsandbytes(self) -> str | None:
        """The version of the bitsandbytes that an import takes."""
        found = self.examination.bitsandbytes
        return (found.version or found.own_version) if found is not None else None

    @property
    def families(self) -> tuple[FamilyName, ...]:
        """The families that the environment is for, by what is in it; of one of bnbenv's own, by what was asked for."""
        found = families_in(self.examination, self.matrix.families)
        return found if self.family is None or self.family in found else (self.family, *found)

    @property
    def torch(self) -> str | None:
        """The version of the torch that an import takes, where it is whole."""
        found = self.examination.torch
        return found.version if found is not None else None

    @property
    def loaded(self) -> LibraryFile | None:
        """The native library that bitsandbytes loads here, if it is known and there."""
        name = self.examination.loads.library if self.examination.loads is not None else None
        wheel = self.examination.bitsandbytes
        return next((one for one in wheel.libraries if one.name == name), None) if wheel is not None else None

    @property
    def uses_gpus(self) -> bool:
        """Whether the environment is meant for NVIDIA GPUs: made for them, or its torch is built for CUDA."""
        torch = self.examination.torch
        return self.made_for == "cuda" or (self.made_for is None and torch is not None and torch.cuda is not None)

    @property
    def for_cpu(self) -> bool:
        """Whether the environment makes no use of GPUs, and is meant to."""
        return self.made_for == "cpu"

    def settings(self, name: str) -> tuple[Setting, ...]:
        """Where a variable is set: what this process has comes first."""
        found = [one for one in self.examination.settings if one.name == name]
        return tuple(sorted(found, key=lambda one: one.file is not None))

    def visible(self) -> tuple[Gpu, ...]:
        """The GPUs that a program of this environment sees."""
        gpus = self.examination.facts.gpus
        prefix = self.examination.target.prefix
        for setting in self.settings(VISIBLE):
            # Of files only the environment's own decides: in which shells the others are read is not known.
            if setting.file is None or (prefix is not None and setting.file.startswith(prefix)):
                return visible(gpus, setting.value)
        return gpus


@dataclass(frozen=True)
class Rule:
    """A cause's name, which ``causes.toml`` knows, and what finds it."""

    code: str
    judge: Callable[[Case], Verdict]


def yes(*evidence: str) -> Verdict:
    """It is so; each line of evidence is a sentence without its full stop."""
    return Verdict("yes", evidence)


def absent(case: Case, because: str) -> Verdict:
    """A package is nowhere to be found; it cannot be told where a folder of the environment could not be read."""
    found = case.examination
    own = f"search {found.target.prefix}"
    unread = [one.reason for one in found.unknown if one.fact.startswith(own)]
    return unknown(unread[0]) if unread else yes(because)


def unknown(because: str) -> Verdict:
    """It cannot be told."""
    return Verdict("unknown", (), because)


def first(*verdicts: Verdict) -> Verdict:
    """Yes with all their evidence if any says so; else unknown if any is; else no."""
    evidence = tuple(line for one in verdicts if one.answer == "yes" for line in one.evidence)
    if evidence:
        return Verdict("yes", evidence)
    return next((one for one in verdicts if one.answer == "unknown"), NO)


def place(setting: Setting) -> str:
    """Where a variable is set, for the end of a sentence."""
    if setting.file is None:
        return "in the environment of this process"
    return f"in {setting.file}" + (f", line {setting.line}" if setting.line else "")
