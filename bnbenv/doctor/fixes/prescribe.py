"""What to do about a cause, on this machine where it is known, in general where only a text is. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from bnbenv.doctor.fixes import (
    companions,
    compiling,
    driver,
    install,
    leftovers,
    memory,
    models,
    settings,
    surroundings,
    windows,
)
from bnbenv.doctor.fixes.model import Chosen, Treatment
from bnbenv.doctor.fixes.patient import Patient, shell, told
from bnbenv.doctor.model import Cause, Examination, Fix, Said

Write = Callable[[Patient], Treatment]

# A rule's or signature's own fix goes before that of its cause.
BY_CODE: Mapping[str, Write] = {
    **driver.BY_CODE,
    **install.BY_CODE,
    **leftovers.BY_CODE,
    **settings.BY_CODE,
    **surroundings.BY_CODE,
    **companions.BY_CODE,
    **models.BY_CODE,
    **compiling.BY_CODE,
}
BY_CAUSE: Mapping[Cause, Write] = {
    **driver.BY_CAUSE,
    **install.BY_CAUSE,
    **settings.BY_CAUSE,
    **companions.BY_CAUSE,
    **memory.BY_CAUSE,
    **models.BY_CAUSE,
    **windows.BY_CAUSE,
}

# What no other package mends where there is no NVIDIA GPU.
NEEDS_GPU: frozenset[Cause] = frozenset({"cpu_only_torch", "no_kernel_image"})


def prescribe(
    code: str, cause: Cause, examination: Examination | None, said: Said | None, chosen: Chosen | None
) -> Fix:
    """The fix for a finding. ``code`` is the rule's or signature's name, ``said`` what a text says of its machine.

    Without an examination (only a text) it is in general terms. What it calls automatic, ``chosen`` has checked.
    """
    return treat(code, cause, examination, said, chosen).fix


def treat(
    code: str, cause: Cause, examination: Examination | None, said: Said | None, chosen: Chosen | None
) -> Treatment:
    """The same with the actions that carry it out."""
    patient = Patient(code, cause, examination, said or Said(), chosen or Chosen())
    write = BY_CODE.get(code) or BY_CAUSE.get(cause) or _not_known
    if cause in NEEDS_GPU and examination is not None and examination.target.kind != "none":
        facts = examination.facts
        write = _without_gpu if not facts.gpus and facts.driver.state == "absent" else write
    return write(patient)


def _without_gpu(patient: Patient) -> Treatment:
    """A text says that CUDA was asked for, and here nothing has it."""
    return told(
        "No NVIDIA GPU or driver is known on this machine: run it on the CPU here, or where a GPU is.",
        'On the CPU: device_map="cpu", no .cuda() and no .to("cuda"). What insists on CUDA cannot run here.',
        "Is there a GPU? bnbenv facts says what is known of it, and why not more.",
        "A text of another machine: run bnbenv doctor there.",
    )


def _not_known(patient: Patient) -> Treatment:
    """A cause that is named and has no fix of its own, or a failure that nobody knows."""
    target = patient.examination.target if patient.examination else None
    named = () if patient.own else (target.prefix or "PATH",) if target else ("PATH",)
    return told(
        "Let the environment itself be looked at, and its kernels be run: that tells what the text does not.",
        "Look at the environment that the text is from: bnbenv doctor PATH",
        "Run its kernels: bnbenv verify --python PATH",
        "If both find nothing, start the program again and give its whole output, from its first line: "
        "CMD 2>&1 | bnbenv doctor --log -",
        command=shell("bnbenv", "doctor", "--deep", *named),
    )
