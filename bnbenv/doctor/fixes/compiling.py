"""Fixes that compile bitsandbytes, where no published wheel fits what is there. Pure."""

from __future__ import annotations

from bnbenv.build.order import of_version
from bnbenv.doctor.fixes.model import Action, Compile, Treatment
from bnbenv.doctor.fixes.patient import Patient, done_by, shell
from bnbenv.matrix.native import library_cuda
from bnbenv.solve.versions import public


def compiled(patient: Patient) -> Treatment:
    """bitsandbytes compiled for the torch and the GPUs that are there; nothing else changes."""
    action = _chosen(patient)
    on = ", ".join(action.archs)
    summary = f"Compile bitsandbytes {action.release} for {on}: no published wheel fits torch {patient.torch} here."
    return _treatment(patient, action, summary)


def compiled_again(patient: Patient) -> Treatment | None:
    """The same again, for a bitsandbytes that bnbenv compiled: no index has it. None for any other."""
    order = of_version(patient.bitsandbytes or "")
    if order is None or not patient.chosen.stays:
        return None
    action = Compile(release=order.ref or "", cuda=order.cuda, archs=order.archs)
    summary = f"Install bitsandbytes {patient.bitsandbytes} again, which was compiled for {', '.join(order.archs)}."
    return _treatment(patient, action, summary)


def line_of(patient: Patient) -> str:
    """The command that makes the wheel which the solver would have compiled."""
    return _chosen(patient).line


def _chosen(patient: Patient) -> Compile:
    build = patient.chosen.build
    assert build is not None
    cuda = library_cuda(build.bitsandbytes.library) or build.torch.cuda or ""
    return Compile(release=str(public(build.bitsandbytes.version)), cuda=cuda, archs=patient.chosen.build_archs)


def _treatment(patient: Patient, action: Compile, summary: str) -> Treatment:
    needs = patient.chosen.build.environment if patient.chosen.build is not None else {}
    steps = [
        f"It takes about a minute, and the wheel is kept; then: {patient.pip('--no-deps', 'WHEEL')}",
        *(f"Set {shell(f'{name}={value}')} before Python starts." for name, value in needs.items()),
    ]
    actions: tuple[Action, ...] = () if needs else (action,)  # what has to be set, only people can
    return done_by(patient, actions, summary, action.line, steps)
