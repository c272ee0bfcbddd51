"""Every verdict of the solver at once, as tables to look up: for a page that shows them. Pure.

Each rule looks at few things: at the driver and an architecture, at libc, at a wheel and a torch build. So all verdicts
together are small tables. What stands in them the rules themselves said, asked once for each class; whoever reads them
only puts together what is said about the one thing that was picked, and nothing said means that it fits.
"""

from __future__ import annotations

from typing import Any

from bnbenv.matrix.drivers import known_releases, newest_of
from bnbenv.matrix.model import Evidence, Matrix
from bnbenv.solve.grid_parts import MACHINES, Machine, Tables, driver_bounds, libc_bounds
from bnbenv.solve.grid_platform import (
    Platform,
    archs_in_order,
    column,
    library_words,
    rows_of,
    shown,
    torch_words,
    wheel_words,
)
from bnbenv.solve.wording import command

SCHEMA = "bnbenv.grid/1"

# What a pair is preferred for, what counts most first: the order of ``solver``.
PREFERENCE = ("kind", "ptx", "override", "wheel", "torch", "variant")


def draw_grid(matrix: Matrix) -> dict[str, Any]:
    """The tables, as a JSON document: see the module's beginning and ``Tables``."""
    tables = Tables()
    machines = [machine for machine in MACHINES if rows_of(matrix, machine) != ((), ())]
    rows = {machine.rows: _rows(matrix, machine, tables) for machine in machines}
    platforms = [Platform(machine, matrix, tables).document() for machine in machines]
    dates = {wheel.evidence.date for wheel in matrix.bitsandbytes} | {build.evidence.date for build in matrix.torch}
    return {
        "schema": SCHEMA,
        "date": max(dates, default=""),
        "command": command({"--torch": "{torch}", "--bitsandbytes": "{bitsandbytes}"}),
        "preference": PREFERENCE,
        "archs": [
            {
                "arch": arch.arch,
                "capability": arch.compute_capability,
                "generation": arch.generation,
                "products": arch.products,
            }
            for arch in archs_in_order(matrix)
        ],
        "drivers": {name: _drivers(matrix, name == "windows") for name in ("linux", "windows")},
        "glibc": libc_bounds(matrix),
        "rows": rows,
        "platforms": platforms,
        **tables.document(),
    }


def _drivers(matrix: Matrix, windows: bool) -> dict[str, Any]:
    known = known_releases(matrix.drivers, matrix.archs, windows)
    bounds = driver_bounds(matrix, windows)
    branches = {text.partition(".")[0] for text in known}
    return {
        "bounds": bounds,
        "known": known,
        "branches": {branch: newest_of(branch, known) for branch in sorted(branches, key=int)},
    }


def _rows(matrix: Matrix, machine: Machine, tables: Tables) -> dict[str, Any]:
    """What the rows of a platform are called, and what they rest on."""
    wheels, builds = rows_of(matrix, machine)
    return {
        "wheels": [
            {
                "version": wheel.version,
                "evidence": _evidence(wheel.evidence, tables, wheel_words(wheel)),
                "words": wheel_words(wheel),
                "libraries": [{"column": column(library), "words": library_words(library)} for library in shown(wheel)],
            }
            for wheel in wheels
        ],
        "torch": [
            {
                "version": build.version,
                "cuda": build.cuda,
                "index": build.index,
                "evidence": _evidence(build.evidence, tables, torch_words(build)),
                "words": torch_words(build),
            }
            for build in builds
        ],
    }


def _evidence(evidence: Evidence, tables: Tables, words: dict[str, str]) -> list[Any]:
    return [evidence.level, evidence.date, tables.text(evidence.source, words)]
