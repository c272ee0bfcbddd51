"""Everything that may be wrong with a machine and an environment, rule by rule."""

from __future__ import annotations

from bnbenv.doctor.rules.case import NO, Case, Rule, unknown, yes
from bnbenv.doctor.rules.driver import DRIVER

__all__ = ["NO", "RULES", "Case", "Rule", "unknown", "yes"]

RULES: tuple[Rule, ...] = (*DRIVER,)
