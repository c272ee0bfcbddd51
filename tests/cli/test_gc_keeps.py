"""Which generations ``gc`` deletes: never the last one that is known to work."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from bnbenv.cli.commands.gc import superfluous
from bnbenv.envs.generations import Generation
from bnbenv.envs.project import env_python
from bnbenv.envs.record import Record


def made(folder: Path, marks: str) -> list[Generation]:
    """Generations by their marks: ``v``erified, ``n``ot verified, ``d``amaged record, without ``p``ython."""
    found = []
    for number, mark in enumerate(marks, 1):
        python = env_python(folder / str(number))
        if mark != "p":
            python.parent.mkdir(parents=True)
            python.symlink_to(sys.executable)
        blank: list[Any] = [number, "", "", "", None, [], "", {}, {}, {}, {}, {}, mark in "vp", {}]
        found.append(Generation(number, folder, None if mark == "d" else Record(*blank)))
    return found


@pytest.mark.parametrize(
    ("marks", "current", "keep", "deleted"),
    [
        ("vvvdn", 4, 1, [1, 2, 5]),  # the record of the one in use is damaged
        ("vvvdn", 4, 0, [1, 2, 5]),
        ("vvvv", 4, 1, [1, 2]),
        ("vvvv", 4, 0, [1, 2, 3]),
        ("vvnn", 4, 1, [1, 3]),
        ("vvnn", 4, 0, [1, 3]),
        ("vvnn", 4, 2, [3]),
        ("vvpv", 4, 1, [1, 3]),  # without its Python it is no way back
        ("nnn", 3, 0, [1, 2]),
        ("nnn", 3, 1, [1]),
        ("vvv", None, 0, []),
    ],
)
def test_what_is_deleted(marks: str, current: int | None, keep: int, deleted: list[int], tmp_path: Path) -> None:
    assert [one.number for one in superfluous(made(tmp_path, marks), current, keep)] == deleted
