"""Which binary code runs on which GPU, and with which driver. Pure.

Sources of the rules: CUDA C++ Programming Guide, "Binary Compatibility" and "PTX Compatibility"; CUDA Compatibility,
"Minor Version Compatibility" (SASS of a toolkit runs on every driver of its major family, PTX needs the toolkit's own).
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

_TARGET = re.compile(r"(sm|compute)_([0-9]{1,3})([0-9])([af]?)")

# Integrated (Tegra) GPUs: the guide's binary compatibility across minors "is not supported for Tegra", nor between
# Tegra and desktop, so their code must be for exactly them.
_TEGRA = frozenset({(5, 3), (6, 2), (7, 2), (8, 7), (10, 1)})


class Target(NamedTuple):
    """A compile target: ``sm_90a`` is (sass, 9, 0, "a")."""

    kind: str
    major: int
    minor: int
    suffix: str


@lru_cache(maxsize=512)
def target(name: str) -> Target | None:
    """``sm_90``, ``compute_120`` and the like; None for anything else."""
    match = _TARGET.fullmatch(name)
    if not match:
        return None
    kind, major, minor, suffix = match.groups()
    return Target("sass" if kind == "sm" else "ptx", int(major), int(minor), suffix)


@lru_cache(maxsize=4096)
def sass_for(capability: tuple[int, int], names: tuple[str, ...]) -> str | None:
    """The closest SASS target that runs on a compute capability: same major, same or lower minor.

    An ``a`` target runs on exactly its own capability; an ``f`` target within its family, which is the same major at
    the same or a higher minor.
    """
    best: tuple[int, str] | None = None
    for name in names:
        code = target(name)
        if code is None or code.kind != "sass" or code.major != capability[0] or code.minor > capability[1]:
            continue
        if (code.suffix == "a" or capability in _TEGRA or (code.major, code.minor) in _TEGRA) and (
            code.minor != capability[1]
        ):
            continue
        if best is None or code.minor > best[0]:
            best = (code.minor, name)
    return best[1] if best else None


@lru_cache(maxsize=4096)
def ptx_for(capability: tuple[int, int], names: tuple[str, ...]) -> str | None:
    """The highest PTX target that the driver can compile for a compute capability: the same or lower."""
    best: tuple[tuple[int, int], str] | None = None
    for name in names:
        code = target(name)
        if code is None or code.kind != "ptx" or (code.major, code.minor) > capability:
            continue
        if code.suffix == "a" and (code.major, code.minor) != capability:
            continue
        if code.suffix == "f" and code.major != capability[0]:
            continue
        if best is None or (code.major, code.minor) > best[0]:
            best = ((code.major, code.minor), name)
    return best[1] if best else None
