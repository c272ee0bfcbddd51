"""Every decoder and parser of bnbenv, with what has to hold of it and documents to start from.

tests/fuzz runs a few inputs of each in every test run, scripts/fuzz.py as many as there is time for.
"""

from __future__ import annotations

from . import binaries, commands, envs, facts, installed, wheels
from .edits import Edit, edited
from .large import large
from .oracle import Fault, Target, bounded, check

TARGETS: dict[str, Target] = {
    target.name: target for module in (facts, envs, installed, binaries, wheels, commands) for target in module.TARGETS
}

__all__ = ["TARGETS", "Edit", "Fault", "Target", "bounded", "check", "edited", "large"]
