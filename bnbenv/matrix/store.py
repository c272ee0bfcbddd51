"""Rows in a folder of their own: what was measured, one row a line, written after each."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from bnbenv.errors import InputError
from bnbenv.matrix.load import BITSANDBYTES, TORCH, TORCH_DECLARED, build_keys, wheel_keys
from bnbenv.matrix.model import BitsandbytesWheel, TorchBuild
from bnbenv.matrix.rows import check_row
from bnbenv.paths import write_atomically

R = TypeVar("R", BitsandbytesWheel, TorchBuild)
Row = BitsandbytesWheel | TorchBuild

_SCHEMAS = {
    BITSANDBYTES: "bnbenv.matrix.bitsandbytes/1",
    TORCH: "bnbenv.matrix.torch/1",
    TORCH_DECLARED: "bnbenv.matrix.torch/1",
}


class Store:
    """The documents ``bitsandbytes.json`` and ``torch.json`` of a folder.

    ``guard`` holds the folder while one of them is read and written, so that no other bnbenv's rows are lost.
    """

    def __init__(self, folder: Path, guard: Callable[[], AbstractContextManager[Any]] = nullcontext) -> None:
        self.folder, self._guard = folder, guard

    def wheels(self) -> list[BitsandbytesWheel]:
        """The rows about bitsandbytes; none where there is no document. Raises InputError."""
        return _read(self.folder / BITSANDBYTES, BitsandbytesWheel)

    def builds(self) -> list[TorchBuild]:
        """The rows about torch; none where there is no document. Raises InputError."""
        return _read(self.folder / TORCH, TorchBuild)

    def add(self, row: Row) -> None:
        """Keep a row, in place of those about the same thing. Raises InputError, Busy, OSError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._guard():
            if isinstance(row, BitsandbytesWheel):
                wheels = [one for one in self.wheels() if not {*wheel_keys(one)} & {*wheel_keys(row)}]
                _write(self.folder / BITSANDBYTES, [*wheels, row])
            else:
                builds = [one for one in self.builds() if not {*build_keys(one)} & {*build_keys(row)}]
                _write(self.folder / TORCH, [*builds, row])


def _read(path: Path, kind: type[R]) -> list[R]:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    try:
        document = msgspec.json.decode(content, type=dict[str, msgspec.Raw])
        rows = msgspec.json.decode(document["rows"], type=list[kind])  # type: ignore[valid-type]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError) as error:
        raise InputError(str(path), "", f"expected a document of rows ({error})", "Move it away.") from None
    for position, row in enumerate(rows):
        check_row(row, str(path), f"rows[{position}]", "Move it away.")
    return rows


def _write(path: Path, rows: list[Any]) -> None:
    """In an order that depends on nothing but the rows."""
    lines = ",\n".join(msgspec.json.encode(row).decode() for row in sorted(rows, key=_order))
    write_atomically(path, f'{{"schema": "{_SCHEMAS[path.name]}", "rows": [\n{lines}\n]}}\n')


def _order(row: Row) -> tuple[object, ...]:
    """Newest first, then by platform."""
    from packaging.version import Version

    version = Version(row.version)
    newest_first = tuple(-part for part in (*version.release, 0, 0, 0)[:4])
    return newest_first, -(version.post or 0), row.os, row.machine, row.evidence.source


def drop_declared(folder: Path, measured: list[TorchBuild]) -> None:
    """Take out of ``torch-declared.json`` what has been measured. Raises InputError, OSError."""
    known = {key for row in measured for key in build_keys(row)}
    path = folder / TORCH_DECLARED
    rows = _read(path, TorchBuild)
    kept = [row for row in rows if not {*build_keys(row)} & known]
    if len(kept) < len(rows):
        _write(path, kept)
