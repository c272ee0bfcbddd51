"""What a fix is made for, and how its lines are written. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass

from bnbenv.doctor.fixes.model import Action, Chosen, Install, Treatment
from bnbenv.doctor.model import Cause, Examination, Fix, Package, Said


@dataclass(frozen=True)
class Patient:
    """A finding's code and cause, and all that is known of the machine that it is about.

    ``examination`` is None where there is only a text, ``chosen`` where the solver was not asked.
    """

    code: str
    cause: Cause
    examination: Examination | None
    said: Said
    chosen: Chosen

    @property
    def own(self) -> str | None:
        """The name of the environment, where bnbenv made it."""
        target = self.examination.target if self.examination else None
        return target.env if target and target.kind == "bnbenv" else None

    @property
    def python(self) -> str | None:
        """The environment's interpreter; None where there is no environment, or only a text."""
        target = self.examination.target if self.examination else None
        return target.python if target else None

    @property
    def foreign(self) -> bool:
        """There is an environment here, and bnbenv did not make it."""
        return self.python is not None and self.own is None

    @property
    def os(self) -> str:
        if self.examination is not None:
            return self.examination.facts.platform.os
        return self.said.os or "linux"

    @property
    def torch(self) -> str | None:
        found = self.examination.torch if self.examination else None
        return found.version if found else self.said.torch

    @property
    def torch_cuda(self) -> str | None:
        if self.examination is not None:
            return self.examination.torch.cuda if self.examination.torch else None
        return self.said.torch_cuda

    @property
    def bitsandbytes(self) -> str | None:
        found = self.examination.bitsandbytes if self.examination else None
        return found.version if found else self.said.bitsandbytes

    def package(self, name: str) -> Package | None:
        return self.examination.package(name) if self.examination else None

    def pip(self, *words: str) -> str:
        """A line that installs into the environment; in general terms where none is known."""
        if self.python is None:
            return shell("python", "-m", "pip", "install", *words)
        return shell("uv", "pip", "install", "--python", self.python, *words)

    @property
    def sync(self) -> str:
        """The line that makes a new generation of an environment of bnbenv's own."""
        return shell("bnbenv", "sync", "--fresh", "--env", self.own or "bnb")


def shell(*words: str) -> str:
    """Words as a line for a shell, quoted where they have to be."""
    return " ".join(shlex.quote(word) for word in words)


def told(summary: str, *steps: str, command: str | None = None) -> Treatment:
    """A fix that people carry out."""
    return Treatment(Fix(summary=summary, command=command, steps=tuple(step for step in steps if step)))


def done_by(
    patient: Patient, actions: Iterable[Action], summary: str, command: str, steps: Iterable[str] = ()
) -> Treatment:
    """A fix that ``bnbenv doctor --fix`` carries out, as far as each of its actions was checked and can be."""
    actions = tuple(actions)
    against = [patient.chosen.checked[one.key] for one in actions if patient.chosen.checked.get(one.key)]
    automatic = bool(actions) and all(one.key in patient.chosen.checked for one in actions) and not against
    lines = [*(f"Not done by bnbenv here, since {reason}" for reason in dict.fromkeys(against)), *steps]
    # What uv refuses here, or must not do, is no line to type either.
    line = None if against and any(isinstance(one, Install) for one in actions) else command
    return Treatment(Fix(summary=summary, command=line, automatic=automatic, steps=tuple(lines)), actions)
