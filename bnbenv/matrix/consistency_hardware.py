"""Checks across the rows about drivers, architectures and toolkits; one sentence for each fault."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

from bnbenv.matrix.model import CudaDriver, Matrix, Toolkit

FIRST_TOOLKIT = (11, 8)  # of older ones no package holds a compiler, and no build is made with them
_ARCH = re.compile(r"sm_(\d+)(\d)$")
_CUDA = re.compile(r"\d+\.\d+")


def driver_faults(matrix: Matrix) -> Iterator[str]:
    """A newer CUDA never needs an older driver, and the releases of one major all need the same one."""
    for row in matrix.drivers:
        if not _CUDA.fullmatch(row.cuda):
            yield f'"{row.cuda}" is no CUDA version'
    ordered = sorted((row for row in matrix.drivers if _CUDA.fullmatch(row.cuda)), key=lambda row: _number(row.cuda))
    for field in ("family_min_linux", "family_min_windows", "bundled_linux", "bundled_windows"):
        rows = [(row.cuda, value) for row in ordered if (value := _driver(row, field)) is not None]
        for (cuda, driver), (newer, needs) in itertools.pairwise(rows):
            if _number(needs) < _number(driver):
                yield f"{field}: CUDA {newer} needs the driver {needs}, the older CUDA {cuda} a newer one ({driver})"
    for field in ("family_min_linux", "family_min_windows"):
        families: dict[str, set[str]] = {}
        for row in ordered:
            families.setdefault(row.cuda.split(".")[0], set()).add(str(_driver(row, field)))
        for major, drivers in families.items():
            if len(drivers) > 1:
                yield f"{field}: CUDA {major} is one family, but needs {' and '.join(sorted(drivers))}"


def arch_faults(matrix: Matrix) -> Iterator[str]:
    """Names and compute capabilities agree, and no architecture is dropped before it is known."""
    for row in matrix.archs:
        match = _ARCH.match(row.arch)
        if match is None or row.compute_capability != f"{match[1]}.{match[2]}":
            yield f"{row.arch} has the compute capability {row.compute_capability}"
        for first in (row.first_driver_linux, row.first_driver_windows):
            if first and row.last_branch is not None and _number(first)[0] > row.last_branch:
                yield f"{row.arch}: its first driver {first} is newer than its last branch R{row.last_branch}"


def toolkit_faults(matrix: Matrix) -> Iterator[str]:
    """Every CUDA that torch is built with has a toolkit, and a newer one takes no fewer host compilers."""
    rows = {row.cuda: row for row in matrix.toolkits}
    for row in matrix.toolkits:
        if not _CUDA.fullmatch(row.cuda) or not row.ptxas.startswith(f"{row.cuda}."):
            yield f"toolkit {row.cuda} has the assembler {row.ptxas}"
        if not row.sass or not row.ptx:
            yield f"toolkit {row.cuda} compiles to nothing"
    for cuda in sorted({build.cuda for build in matrix.torch if build.cuda}, key=_number):
        if _number(cuda) >= FIRST_TOOLKIT and cuda not in rows:
            yield f"torch is built with CUDA {cuda}, which has no toolkit row"
    ordered = sorted((row for row in matrix.toolkits if _CUDA.fullmatch(row.cuda)), key=lambda row: _number(row.cuda))
    for field in ("gcc_max", "clang_max", "msc_end"):
        known = [(row.cuda, limit) for row in ordered if (limit := _limit(row, field)) is not None]
        for (cuda, limit), (newer, least) in itertools.pairwise(known):
            if least < limit:
                yield f"{field}: toolkit {newer} takes {least}, the older toolkit {cuda} {limit}"


def _driver(row: CudaDriver, field: str) -> str | None:
    value: str | None = getattr(row, field)
    return value


def _limit(row: Toolkit, field: str) -> int | None:
    value: int | None = getattr(row, field)
    return value


def _number(dotted: str) -> tuple[int, ...]:
    return tuple(int(part) for part in dotted.split("."))
