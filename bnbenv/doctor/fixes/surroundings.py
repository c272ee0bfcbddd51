"""What to do about a Python that is gone, and about files that are imported in place of packages. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from bnbenv.doctor.fixes.install import own_generation
from bnbenv.doctor.fixes.model import Treatment
from bnbenv.doctor.fixes.patient import Patient, shell, told


def anew(patient: Patient) -> Treatment:
    """An environment is bound to the Python that it was made with."""
    if patient.own:
        return own_generation(patient, "with a Python that is there.")
    return told(
        "Make the environment anew with a Python that is there, and install its packages again.",
        "What is in it by name: look at the .dist-info folders in its site-packages.",
        "With bnbenv: in a new folder, bnbenv init, then bnbenv sync.",
        "Or install the Python that it was made with again; then it works as it was.",
    )


def elsewhere(patient: Patient) -> Treatment:
    """A script, a notebook and python -m look into their own folder first."""
    return told(
        "Rename that file or folder, or start from another folder.",
        "A script's own folder comes first; for python -m, python -c and notebooks it is the current one.",
        "From Python 3.11 on, python -P leaves it out. Delete a __pycache__ that is left beside a renamed file.",
    )


def garbled(patient: Patient) -> Treatment:
    """A .pth file that Python cannot decode."""
    path = (patient.examination.conditions.get("pth-garbled", "") if patient.examination else "").partition(": ")[0]
    if patient.own:
        return own_generation(patient, "it has no such file.")
    return told(
        "Move that .pth file away, and install the package that it is of again.",
        "Its name says which package wrote it; what that added to sys.path is missing until then.",
        command=shell("mv", path, f"{path}.damaged") if path else None,
    )


def as_locked(patient: Patient) -> Treatment:
    """What pip did in an environment of bnbenv's own holds until the next sync."""
    return own_generation(patient, "it holds what the lock names.")


Write = Callable[[Patient], Treatment]

BY_CODE: Mapping[str, Write] = {
    "python-gone": anew,
    "python-changed": anew,
    "pth-garbled": garbled,
    "shadowed-here": elsewhere,
    "changed-behind-lock": as_locked,
}
