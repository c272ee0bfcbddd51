"""systemd, where it runs: it is told of units, and asked to start them, which it does as their users. A fast path."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bnbenv.hooks.place import SERVICE, Place

if TYPE_CHECKING:
    from bnbenv.process import Runner

_PATIENCE = 10  # seconds for systemctl, which only leaves a message


def systemd_runs(place: Place, environ: Mapping[str, str]) -> bool:
    """Whether systemd manages this machine, or this user's session."""
    if place.user:
        return bool(environ.get("XDG_RUNTIME_DIR")) and Path(environ["XDG_RUNTIME_DIR"], "systemd").is_dir()
    return place.system_path("/run/systemd/system").is_dir()


def start(place: Place, uids: Iterable[int], runner: Runner) -> bool:
    """Ask systemd to sync the projects of these users, without waiting for it. Returns whether it took that in."""
    names = [f"{SERVICE}.service"] if place.user else [f"{SERVICE}@{uid}.service" for uid in sorted(set(uids))]
    return bool(names) and _systemctl(place, runner, "start", "--no-block", *names)


def read_again(place: Place, environ: Mapping[str, str], runner: Runner) -> list[str]:
    """Have systemd read its units again; where it does not, it does so at its next start, and that is noted."""
    if not systemd_runs(place, environ) or _systemctl(place, runner, "daemon-reload"):
        return []
    user = " --user" if place.user else ""
    return [f"systemd did not read its units again; it does at its next start, or with: systemctl{user} daemon-reload"]


def _systemctl(place: Place, runner: Runner, *words: str) -> bool:
    from bnbenv.process import Command

    with contextlib.suppress(OSError):
        return runner.run(Command(("systemctl", *(("--user",) if place.user else ()), *words), timeout=_PATIENCE)).ok
    return False
