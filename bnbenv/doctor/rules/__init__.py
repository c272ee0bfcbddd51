"""Everything that may be wrong with a machine and an environment, rule by rule."""

from __future__ import annotations

from bnbenv.doctor.rules.case import NO, Case, Rule, unknown, yes
from bnbenv.doctor.rules.driver import DRIVER
from bnbenv.doctor.rules.installed import INSTALLED
from bnbenv.doctor.rules.natives import NATIVES
from bnbenv.doctor.rules.override import OVERRIDES
from bnbenv.doctor.rules.packages import PACKAGES
from bnbenv.doctor.rules.surroundings import SURROUNDINGS
from bnbenv.doctor.rules.torches import TORCHES

__all__ = ["NO", "RULES", "Case", "Rule", "unknown", "yes"]

RULES: tuple[Rule, ...] = (*DRIVER, *SURROUNDINGS, *TORCHES, *INSTALLED, *OVERRIDES, *NATIVES, *PACKAGES)
