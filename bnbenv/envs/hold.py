"""Holding a project against a second bnbenv, on file systems that have locks and on those that have none.

The kernel frees a lock when its process ends, however it ends. A network file system may have no locks, or such as
hold on one machine only: there a marker file is used, which names the process and the machine that made it. One of a
dead process on this machine is taken away; of another machine nobody here can know whether it is still at work.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bnbenv.build.held import take
from bnbenv.errors import Busy

if TYPE_CHECKING:
    from filelock import BaseFileLock

MARKER = "lock.held"


def kernel_lock(path: Path) -> BaseFileLock:
    """The system's own lock on a file. Its ``acquire`` raises OSError or NotImplementedError where there is none."""
    from filelock import FileLock

    # filelock would take the very file for a marker, and one that an earlier run left for held.
    return FileLock(path, fallback_to_soft=False)


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
    marker = SoftFileLock(folder / MARKER)
    with contextlib.ExitStack() as holding:
        try:
            locked = None if mount and mount.locks_here_only else take(lock(folder / "lock"), wait)
        except Timeout:
            raise _busy(what) from None
        if locked is not None:
            holding.callback(locked.release)
        try:
            if locked is None:
                marker.acquire(timeout=wait)
                holding.callback(marker.release)
            elif mount and mount.network and os.path.lexists(folder / MARKER):
                # Of a machine that mounts this without locks. One of a dead process is taken away so.
                marker.acquire(timeout=wait)
                marker.release()
        except Timeout:
            raise _busy(what, folder / MARKER) from None
        if locked is None:
            say(
                f"the {kind} of {folder} has no locks that all machines see: the file {MARKER} there keeps a second"
                " bnbenv out; should this machine go down meanwhile, delete it"
            )
        yield


def _busy(what: str, marker: Path | None = None) -> Busy:
    """``marker``: the file that keeps this bnbenv out, if it is one."""
    step = "Wait until it has finished, then run it again."
    if marker is not None:
        step = f"Wait until it has finished; if none is at work on any machine: rm {marker}"  # it may name nobody
        with contextlib.suppress(OSError, ValueError):
            number, host, *_ = marker.read_text(encoding="utf-8", errors="replace").split()
            host = host.partition("?")[0]
            step = f"Wait for process {number} on {host}; if that machine was restarted: rm {marker}"
    return Busy("busy", f"another bnbenv is at work on {what}", step)
