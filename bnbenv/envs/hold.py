"""Holding a project against a second bnbenv, on file systems that have locks and on those that have none.

The kernel frees a lock when its process ends, however it ends. A network file system may have no locks, or such as
hold on one machine only: there a marker file is used, which names the process and the machine that made it. One of a
dead process on this machine is taken away; of another machine nobody here can know whether it is still at work.
"""

from __future__ import annotations

import contextlib
import errno
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bnbenv.errors import Busy

if TYPE_CHECKING:
    from filelock import BaseFileLock

NO_LOCKS = frozenset((errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP))
MARKER = "lock.held"


def kernel_lock(path: Path) -> BaseFileLock:
    """The system's own lock on a file. Its ``acquire`` raises OSError or NotImplementedError where there is none."""
    from filelock import FileLock

    return FileLock(path)


@contextlib.contextmanager
def hold(
    folder: Path,
    what: str,
    wait: float,
    environ: Mapping[str, str],
    say: Callable[[str], None],
    lock: Callable[[Path], BaseFileLock] = kernel_lock,
) -> Iterator[None]:
    """Hold a folder. ``what`` is named to who comes second. Raises Busy after ``wait`` seconds, OSError."""
    from filelock import SoftFileLock, Timeout

    from bnbenv.envs.filesystem import find_mount

    mount = find_mount(folder, environ)
    kind = f"{mount.type} file system" if mount else "file system"
    try:
        holding = None if mount and mount.locks_here_only else _locked(lock(folder / "lock"), wait)
        if holding is None:
            holding = SoftFileLock(folder / MARKER)
            holding.acquire(timeout=wait)
    except Timeout:
        raise _busy(folder, what) from None
    try:
        if isinstance(holding, SoftFileLock):
            name = Path(holding.lock_file).name
            say(
                f"the {kind} of {folder} has no locks that all machines see: the file {name} there keeps a second"
                " bnbenv out; should this machine go down meanwhile, delete it"
            )
        yield
    finally:
        holding.release()


def _locked(lock: BaseFileLock, wait: float) -> BaseFileLock | None:
    """The lock, held; None where the file system has no locks. Raises Timeout, OSError."""
    from filelock import Timeout

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # filelock warns where it takes to a marker by itself
            lock.acquire(timeout=wait)
    except Timeout:
        raise
    except NotImplementedError:
        return None
    except OSError as error:
        if error.errno in NO_LOCKS:
            return None
        raise
    return lock


def _busy(folder: Path, what: str) -> Busy:
    step = "Wait until it has finished, then run it again."
    with contextlib.suppress(OSError, ValueError):
        number, host, *_ = (folder / MARKER).read_text(encoding="utf-8", errors="replace").split()
        host = host.partition("?")[0]
        step = f"Wait for process {number} on {host}; if that machine was restarted: rm {folder / MARKER}"
    return Busy("busy", f"another bnbenv is at work on {what}", step)
