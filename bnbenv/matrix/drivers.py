"""What a driver runs, by its version alone: CUDA majors and GPU architectures. Pure, and quick to import."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from bnbenv.matrix.model import CudaDriver, GpuArch


@lru_cache(maxsize=4096)
def number(text: str) -> tuple[int, ...]:
    """A dotted number such as a driver or libc version as integers: ``580.65.06`` -> (580, 65, 6)."""
    parts: list[int] = []
    for part in text.split("."):
        digits = "".join(c for c in part if c.isascii() and c.isdigit())
        if not digits:
            break
        parts.append(int(digits[:18]))
    return tuple(parts)


@lru_cache(maxsize=4096)
def at_least(have: str, need: str) -> bool:
    """Whether a dotted number is not below another; missing places count as zero."""
    left, right = number(have), number(need)
    width = max(len(left), len(right))
    return left + (0,) * (width - len(left)) >= right + (0,) * (width - len(right))


class Unsupported(NamedTuple):
    """Why a driver does not run an architecture, and which one does: one of a last branch, or a first one."""

    because: str
    last_branch: int | None = None
    first_driver: str | None = None


def unsupported(arch: GpuArch | None, version: str | None, windows: bool) -> Unsupported | None:
    """Why a driver does not run an architecture; None: nothing is known against it.

    A Windows driver of a branch has a number up to nine higher: 581.29 is of R580, 591.44 of R590.
    """
    if arch is None or version is None or not number(version):
        return None
    family = f"{arch.generation} (compute capability {arch.compute_capability})"
    last = arch.last_branch
    if last is not None and number(version)[0] > last + (9 if windows else 0):
        return Unsupported(f"driver {version} no longer supports {family}; {last} is the last branch", last_branch=last)
    first = arch.first_driver_windows if windows else arch.first_driver_linux
    if first and not at_least(version, first):
        because = f"driver {version} does not support {family} yet; {first} is the first that does"
        return Unsupported(because, first_driver=first)
    return None


def family_minimum(rows: Iterable[CudaDriver], cuda: str) -> CudaDriver | None:
    """The row of a CUDA version, or of another one of its major: any driver of the family runs all its releases."""
    major = cuda.partition(".")[0] + "."
    family = [row for row in rows if row.cuda.startswith(major)]
    return next((row for row in family if row.cuda == cuda), family[0] if family else None)


def too_old(rows: Iterable[CudaDriver], cuda: str, version: str, windows: bool) -> str | None:
    """The oldest driver for a CUDA version, where a driver is older than that."""
    row = family_minimum(rows, cuda)
    need = None if row is None else row.family_min_windows if windows else row.family_min_linux
    return need if need and not at_least(version, need) else None


def known_releases(drivers: Iterable[CudaDriver], archs: Iterable[GpuArch], windows: bool) -> list[str]:
    """Every driver release that stands in the matrix, the oldest first."""
    found: set[str | None] = set()
    for row in drivers:
        pair = (row.family_min_windows, row.bundled_windows) if windows else (row.family_min_linux, row.bundled_linux)
        found.update(pair)
    found.update(arch.first_driver_windows if windows else arch.first_driver_linux for arch in archs)
    return sorted((text for text in found if text), key=number)


def newest_of(version: str, known: Iterable[str]) -> str:
    """A branch or the beginning of a version (``580``, ``590.44``) as the newest known release of it."""
    own = number(version)
    return max((text for text in known if number(text)[: len(own)] == own), key=number, default=version)
