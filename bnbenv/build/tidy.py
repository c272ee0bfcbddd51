"""What source builds keep and nobody needs: compilers that were not used for long, and what builds left behind.

Wheels stay, since locks name them; the rest comes back by itself when something is compiled again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from bnbenv.build.attempt import clear_old
from bnbenv.build.held import held
from bnbenv.build.packaged import Kept, kept
from bnbenv.errors import Busy
from bnbenv.progress import Quiet

UNUSED = 30 * 24 * 3600.0  # seconds after which a compiler is deleted


class Deleted(NamedTuple):
    """A toolchain that was deleted (``cu130``). ``freed`` and ``shared`` are bytes: of files that were its own alone,
    and of those that uv's cache or another folder still holds.
    """

    name: str
    freed: int
    shared: int


class Tidied(NamedTuple):
    deleted: tuple[Deleted, ...]
    kept: tuple[str, ...]


def tidy(home: Path, everything: bool = False, now: float | None = None) -> Tidied:
    """Delete the toolchains that were not used for 30 days, or with ``everything`` all; none while something is built.

    ``home`` is the folder of builds, ``now`` in seconds since the epoch. Raises OSError.
    """
    moment = time.time() if now is None else now
    clear_old(home, moment)
    deleted, left = [], []
    for one in kept(home):
        found = _delete(home, one) if everything or moment - one.used > UNUSED else None
        if found is None:
            left.append(one.name)
        else:
            deleted.append(found)
    return Tidied(tuple(deleted), tuple(left))


def _at_work(home: Path) -> bool:
    """Whether something is being compiled: which toolchain it uses is not told."""
    with contextlib.suppress(OSError):
        for lock in sorted((home / "locks").glob("*.lock")):
            try:
                with held(lock, "a build", 0, Quiet()):
                    pass
            except Busy:
                return True
    return False


def _delete(home: Path, one: Kept) -> Deleted | None:
    """None where another bnbenv is making it just now, or compiles."""
    try:
        with held(one.folder.with_name(f"{one.name}.lock"), one.name, 0, Quiet()):
            # A build that begins from here on waits for this lock, before it uses a toolchain.
            if _at_work(home):
                return None
            one.record.unlink(missing_ok=True)  # what has no record is made anew
            freed, shared = 0, 0
            for size, own in _sizes(one.folder):
                freed, shared = (freed + size, shared) if own else (freed, shared + size)
            shutil.rmtree(one.folder, ignore_errors=True)
    except Busy:
        return None
    return Deleted(one.name, freed, shared)


def _sizes(folder: Path) -> Iterator[tuple[int, bool]]:
    """Of each file its size, and whether no other name leads to it."""
    for base, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                found = os.lstat(f"{base}/{name}")
                yield found.st_size, found.st_nlink == 1
