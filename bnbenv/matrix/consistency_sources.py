"""Checks across the rows about bitsandbytes' sources; one sentence for each fault."""

from __future__ import annotations

import re
from collections.abc import Iterator

from packaging.version import InvalidVersion, Version

from bnbenv.matrix.model import Matrix, SourceTag

_COMMIT = re.compile(r"[0-9a-f]{40}")
_ARCH = re.compile(r"sm_([0-9]{2,3})[af]?")
_RELEASE = re.compile(r"[0-9]+\.[0-9]+")


def source_faults(matrix: Matrix) -> Iterator[str]:
    """Each release can be compiled with some toolkit, and asks for the Pythons that its wheels ask for."""
    for row in matrix.source_releases:
        yield from _row_faults(row)
        rows = [wheel for wheel in matrix.bitsandbytes if wheel.version == row.version]
        if not rows:
            yield f"source {row.tag}: no wheel was published of it"
        if any(wheel.requires_python != row.requires_python for wheel in rows if wheel.requires_python):
            asked = " ".join(sorted({str(wheel.requires_python) for wheel in rows}))
            yield f"source {row.tag} is for Python {row.requires_python}, its wheels for {asked}"
        older = [name for wheel in rows for one in wheel.libraries for name in one.sass if _older(name, row.sass_min)]
        if older:
            yield f"source {row.tag} is for {row.sass_min} and newer, a wheel of it has {older[0]}"
        if not any(_number(row.cuda_min) <= _number(kit.cuda) < _number(row.cuda_end) for kit in matrix.toolkits):
            yield f"source {row.tag} compiles with no toolkit that there is a row of"


def _row_faults(row: SourceTag) -> Iterator[str]:
    try:
        same = Version(row.tag) == Version(row.version)
    except InvalidVersion:
        same = False
    if not same:
        yield f"source {row.tag} is said to be the version {row.version}"
    if not _COMMIT.fullmatch(row.commit) or row.commit not in row.evidence.source:
        yield f"source {row.tag}: its evidence is of another commit"
    if not _RELEASE.fullmatch(row.cuda_min) or not _RELEASE.fullmatch(row.cuda_end):
        yield f"source {row.tag}: {row.cuda_min} to {row.cuda_end} is no range of CUDA releases"


def _older(name: str, oldest: str | None) -> bool:
    number, least = (_ARCH.fullmatch(text or "") for text in (name, oldest))
    return number is not None and least is not None and int(number[1]) < int(least[1])


def _number(dotted: str) -> tuple[int, ...]:
    return tuple(int(part) for part in dotted.split(".") if part.isdigit())
