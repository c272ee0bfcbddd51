"""The rows of the matrix that a bundle's locks rest on: taken along, and known to another bnbenv for one run."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from bnbenv.bundle.gather import Group
from bnbenv.bundle.manifest import MATRIX
from bnbenv.envs.lockfile import known_wheels
from bnbenv.matrix.load import BITSANDBYTES, TORCH, build_keys, wheel_keys
from bnbenv.matrix.model import BitsandbytesWheel, Matrix, TorchBuild
from bnbenv.matrix.store import Store

Row = BitsandbytesWheel | TorchBuild


def rows_of(matrix: Matrix, groups: Iterable[Group], work: Path) -> dict[str, bytes]:
    """The documents of rows, by their names in the bundle. ``matrix`` also knows what was measured for the locks.

    Raises OSError.
    """
    rows: dict[bytes, Row] = {}
    for group in groups:
        for locked in group.locks.values():
            wheel, torch = locked.packages.get("bitsandbytes"), locked.decision.torch
            found: list[Row] = [*known_wheels(matrix, wheel, group.platform)] if wheel else []
            keys = {*build_keys(torch)}
            found += [row for row in matrix.torch if keys & {*build_keys(row)}]
            rows |= {msgspec.json.encode(row): row for row in found}
    store = Store(work / MATRIX)
    for _, row in sorted(rows.items()):
        store.add(row)
    names = [name for name in (BITSANDBYTES, TORCH) if (work / MATRIX / name).is_file()]
    return {f"{MATRIX}/{name}": (work / MATRIX / name).read_bytes() for name in names}


def unknown_rows(matrix: Matrix, folder: Path) -> list[Row]:
    """The rows in a folder about what a matrix does not know. Raises InputError."""
    store = Store(folder)
    wheels = {key for row in matrix.bitsandbytes for key in wheel_keys(row)}
    builds = {key for row in matrix.torch for key in build_keys(row)}
    new: list[Row] = [row for row in store.wheels() if not wheels & {*wheel_keys(row)}]
    return [*new, *(row for row in store.builds() if not builds & {*build_keys(row)})]


def with_rows(matrix: Matrix, rows: Iterable[Row]) -> Matrix:
    """A matrix and these rows."""
    some = list(rows)
    wheels = tuple(row for row in some if isinstance(row, BitsandbytesWheel))
    builds = tuple(row for row in some if isinstance(row, TorchBuild))
    return msgspec.structs.replace(matrix, bitsandbytes=matrix.bitsandbytes + wheels, torch=matrix.torch + builds)
