"""The folder that a build works in: taken up again after an interruption, or made new where anything is doubtful.

``work/<order>/<number>/`` is one attempt. No two attempts share a folder, since compilers of a bnbenv that was killed
can still be writing into theirs.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bnbenv.build.cache import FORMAT
from bnbenv.paths import Sysroot, write_atomically

STATE = "state.json"
KEPT = 24 * 3600.0  # seconds for which what was interrupted is kept
FETCHED = 2 * 3600.0  # and a tree that was fetched: longer than anybody waits with one for another bnbenv
MOST_LOGS = 30
_PROCESSES = 100_000  # that are looked at


class _State(msgspec.Struct, frozen=True):
    """What an attempt is of, and the start of the machine it is of: a power cut leaves files that were not written."""

    key: str
    boot: str
    host: str
    format: int = FORMAT


@dataclass(frozen=True)
class Attempt:
    """``tree`` is the source, in which libraries come to lie. ``resumed``: an earlier bnbenv began it."""

    folder: Path
    resumed: bool

    @property
    def tree(self) -> Path:
        return self.folder / "tree"

    def discard(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # another attempt, of which something was still in use
            self.folder.parent.rmdir()


def begin(home: Path, order_key: str, key: str, source: Path, sysroot: Sysroot) -> Attempt:
    """Take up what was interrupted of the same, or begin; ``source`` is then moved into it.

    The caller holds the lock of this order. Raises OSError.
    """
    place = home / "work" / order_key
    place.mkdir(parents=True, exist_ok=True)
    state = _State(key, (sysroot.read("/proc/sys/kernel/random/boot_id") or "").strip(), platform.node())
    earlier = sorted((path for path in place.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))
    found = [path for path in reversed(earlier) if state.boot and _state(path) == state and not _in_use(path, sysroot)]
    for path in earlier:
        if path not in found[:1]:
            shutil.rmtree(path, ignore_errors=True)
    if found:
        shutil.rmtree(source, ignore_errors=True)
        os.utime(found[0])  # for ``clear_old`` of others
        return Attempt(found[0], resumed=True)
    attempt = Attempt(place / str(int(earlier[-1].name) + 1 if earlier else 1), resumed=False)
    while True:
        try:
            attempt.folder.mkdir()
            break
        except FileExistsError:  # it could not be deleted
            attempt = Attempt(place / str(int(attempt.folder.name) + 1), resumed=False)
    source.rename(attempt.tree)
    write_atomically(attempt.folder / STATE, msgspec.json.encode(state))
    return attempt


def clear_old(home: Path, now: float | None = None) -> None:
    """Delete what builds left that nobody took up again, and old logs; ``now`` in seconds since 1970. Never raises."""
    now = time.time() if now is None else now
    for path in _listed(home / "work"):
        attempts = [one for one in _listed(path) if (one / STATE).is_file()]
        # What is at work changes something in its folders long before that.
        changed = max(_changed(one) for one in (path, *attempts, *(file for one in attempts for file in _listed(one))))
        if changed < now - (KEPT if attempts else FETCHED):
            shutil.rmtree(path, ignore_errors=True)
    logs = sorted(_listed(home / "logs"), key=_changed, reverse=True)
    for path in logs[MOST_LOGS:]:
        with contextlib.suppress(OSError):
            path.unlink()


def _state(folder: Path) -> _State | None:
    try:
        return msgspec.json.decode((folder / STATE).read_bytes(), type=_State)
    except (OSError, ValueError):
        return None


def _in_use(folder: Path, sysroot: Sysroot) -> bool:
    """Whether a process works in a folder: a compiler can outlive a bnbenv that was killed."""
    inside = f"{os.path.realpath(folder)}{os.sep}"
    try:
        processes = [name for name in os.listdir(sysroot.path("/proc")) if name.isdigit()]
    except OSError:
        return True
    for name in processes[:_PROCESSES]:
        try:
            place = os.readlink(sysroot.path(f"/proc/{name}/cwd"))
        except OSError:
            continue  # it ended, or is another user's
        if f"{place}{os.sep}".startswith(inside):
            return True
    return False


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _changed(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except OSError:
        return 0.0
