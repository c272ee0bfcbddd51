"""Holding a folder of builds, for two bnbenvs not to fill it at once. The kernel frees it however a process ends."""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from bnbenv.errors import Busy
from bnbenv.progress import Progress

if TYPE_CHECKING:
    from filelock import BaseFileLock, FileLock, SoftFileLock

_NO_LOCKS = frozenset((errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP))
_TURN = 0.2  # seconds between two tries


@contextlib.contextmanager
def held(file: Path, what: str, wait: float, progress: Progress) -> Iterator[None]:
    """Hold a lock file, which stays. ``what`` is named to who waits ("the compiler of CUDA 13.0").

    Raises Busy where another bnbenv still holds it after ``wait`` seconds, OSError.
    """
    from filelock import FileLock, SoftFileLock, Timeout

    file.parent.mkdir(parents=True, exist_ok=True)
    # filelock would take the very file for a marker where the file system has no locks, and one left of an earlier run
    # for held. Its marker beside it is taken away once the process that made it is dead.
    lock = FileLock(file, fallback_to_soft=False)
    marker = SoftFileLock(file.with_name(f"{file.name}.held"))
    end, taken = time.monotonic() + wait, None
    try:
        while taken is None:
            try:
                taken = _taken(lock, marker)
            except Timeout:
                if time.monotonic() > end:
                    step = "Wait until it has finished, then run it again."
                    raise Busy("busy", f"another bnbenv is at work on {what}", step) from None
                progress.at(f"waiting for another bnbenv that is at work on {what}")
                time.sleep(_TURN)
        progress.at("")
        yield
    finally:
        if taken is not None:
            taken.release()


def _taken(lock: FileLock, marker: SoftFileLock) -> BaseFileLock:
    """The lock that was taken: the kernel's, or a marker where there is none. Raises Timeout, OSError."""
    found = take(lock, 0)
    if found is not None:
        return found
    marker.acquire(timeout=0)
    return marker


def take(lock: BaseFileLock, wait: float) -> BaseFileLock | None:
    """The lock, held; None where the file system has no locks. Raises Timeout after ``wait`` seconds, OSError."""
    try:
        lock.acquire(timeout=wait)
    except NotImplementedError:
        return None
    except OSError as error:  # a Timeout is one
        if isinstance(error, TimeoutError) or error.errno not in _NO_LOCKS:
            raise
        return None
    return lock
