"""A stand-in for bitsandbytes that is imported without torch."""

from bitsandbytes.cextension import lib

__version__ = "0.50.9"


def add(one: float, other: float) -> float:
    """Calls the compiled code."""
    result: float = lib.cadd_cpu(one, other)
    return result
