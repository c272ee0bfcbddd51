"""What stands around an environment: the Python below it, and files that are imported in place of its packages."""

from __future__ import annotations

from bnbenv.doctor.model import Verdict
from bnbenv.doctor.rules.case import NO, Case, Rule, yes


def _condition(case: Case, name: str) -> Verdict:
    found = case.examination.conditions.get(name)
    return yes(found) if found is not None else NO


def python_gone(case: Case) -> Verdict:
    return _condition(case, "python-gone")


def python_changed(case: Case) -> Verdict:
    """What was installed for another Python lies in a folder into which this one does not look."""
    bare = case.examination.torch is None or case.examination.bitsandbytes is None
    return _condition(case, "python-changed") if bare else NO


def pth_garbled(case: Case) -> Verdict:
    return _condition(case, "pth-garbled")


def shadowed_here(case: Case) -> Verdict:
    return _condition(case, "shadowed-here")


def changed_behind(case: Case) -> Verdict:
    return _condition(case, "changed-behind-lock")


SURROUNDINGS = (
    Rule("python-gone", python_gone),
    Rule("python-changed", python_changed),
    Rule("pth-garbled", pth_garbled),
    Rule("shadowed-here", shadowed_here),
    Rule("changed-behind-lock", changed_behind),
)
