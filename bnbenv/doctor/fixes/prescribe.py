"""What to do about a cause, on this machine where it is known, in general where only a text is. Pure."""

from __future__ import annotations

from bnbenv.doctor.fixes.model import Chosen, Treatment
from bnbenv.doctor.model import Cause, Examination, Fix, Said


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
    return Treatment(Fix(summary="Run bnbenv sync for an environment that fits this machine.", command="bnbenv sync"))
