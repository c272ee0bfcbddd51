"""Every decoder and parser of bnbenv, with what has to hold of it and documents to start from.

tests/fuzz runs a few inputs of each in every test run, scripts/fuzz.py as many as there is time for.
"""

from __future__ import annotations

from . import binaries, commands, envs, facts, fleet, installed, models, sources, texts, wheels
from .edits import Edit, edited
from .large import large
from .oracle import Fault, Target, bounded, check

_MODULES = (facts, fleet, envs, installed, binaries, wheels, sources, commands, texts, models)
TARGETS: dict[str, Target] = {target.name: target for module in _MODULES for target in module.TARGETS}

__all__ = ["TARGETS", "Edit", "Fault", "Target", "bounded", "check", "edited", "large"]
