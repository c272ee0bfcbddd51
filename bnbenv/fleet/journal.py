"""What was rolled out when: a file for each run, written before each wave and at the end, for people and for order.

Nothing is resumed from it: hosts tell what they have. The hosts that failed before are merely the last of their class
in the next run, so that one of them is not its canary for ever.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import msgspec

from bnbenv.fleet.rollout import FAILED
from bnbenv.paths import write_atomically

KEPT = 100  # files
READ = 10  # of which the newest tell who failed
LONGEST = 64 << 20  # bytes of a file that is read


class _Row(msgspec.Struct, frozen=True):
    host: str
    state: str


class _Written(msgspec.Struct, frozen=True):
    hosts: tuple[_Row, ...]


def name_of(started: datetime) -> str:
    """The name of a run's file: its start in UTC, to the microsecond, so that names sort by time."""
    return started.astimezone(timezone.utc).strftime("%Y%m%dT%H%M%S.%fZ.json")


def write(folder: Path, name: str, document: Mapping[str, Any]) -> Path:
    """Write a run's document, in place of what was there; of runs before, the newest stay. Raises OSError."""
    path = folder / name
    write_atomically(path, msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n")
    for old in _newest_first(folder)[KEPT:]:
        with contextlib.suppress(OSError):
            old.unlink()
    return path


def failures(folder: Path) -> dict[str, int]:
    """By host in how many of the last runs it failed. A file that cannot be read tells nothing."""
    return dict(Counter(host for path in _newest_first(folder)[:READ] for host in _failed(path)))


def _failed(path: Path) -> Iterator[str]:
    with contextlib.suppress(OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        if path.stat().st_size > LONGEST:
            return
        rows = msgspec.json.decode(path.read_bytes(), type=_Written).hosts
        yield from {row.host for row in rows if row.state in FAILED | {"interrupted"}}


def _newest_first(folder: Path) -> list[Path]:
    try:
        return sorted(folder.glob("[0-9]*T*Z.json"), reverse=True)
    except OSError:
        return []
