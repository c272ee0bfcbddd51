"""Everything about a project at one glance: no network, no NVML where files tell enough, no torch.

What cannot be read becomes a ``Problem`` or a ``Reason``; all the rest is told all the same.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bnbenv.envs.check import Host, InUse, Reason, check_env, env_names, in_use
from bnbenv.envs.generations import Generation, generations
from bnbenv.envs.hold import MARKER
from bnbenv.envs.project import DEFAULT_ENV, Project
from bnbenv.envs.record import Record, versions_in
from bnbenv.errors import BnbenvError

RUNS = 3  # of the last ones that are told

# 20261121T072004.123Z-sync-4711.log
_LOG_NAME = re.compile(r"([0-9]{4})([0-9]{2})([0-9]{2})T([0-9]{2})([0-9]{2})([0-9]{2})\S*Z-([a-z-]+)-[0-9]+\.log")
_LAST_LINE = re.compile(r"exit ([0-9]{1,3}) after ([0-9.]{1,12}) s\s*\Z")


@dataclass(frozen=True)
class Problem:
    """What keeps status from telling something: a stable code, one sentence, the next step."""

    code: str
    because: str
    next_step: str

    @classmethod
    def of(cls, error: BnbenvError) -> Problem:
        return cls(error.code, error.message, error.next_step)


@dataclass(frozen=True)
class Seen:
    """One environment: what is in use, why it is not in sync, and which other generations there are."""

    env: str
    use: InUse
    reasons: tuple[Reason, ...]
    others: tuple[Generation, ...]


@dataclass(frozen=True)
class Disk:
    """Bytes on the disk, each file once however many links it has; ``own`` is what deleting it all would free."""

    total: int
    own: int


@dataclass(frozen=True)
class Run:
    """One run of bnbenv by its log. ``exit`` and ``seconds`` are None where it has not ended, or was killed."""

    started: str
    command: str
    exit: int | None
    seconds: float | None


def names(project: Project, only: str | None) -> tuple[tuple[str, ...], tuple[Problem, ...]]:
    """The environments to tell of; where bnbenv.toml cannot be read, those that were made."""
    try:
        return env_names(project, only), ()
    except BnbenvError as error:
        return (only,) if only else project.envs_made() or (DEFAULT_ENV,), (Problem.of(error),)


def look(project: Project, env: str, host: Host | None) -> Seen:
    """One environment; with ``host`` None (it cannot be told) all but the host is compared."""
    use = in_use(project, env)
    if host is None:
        host = Host("unknown", use.record.host if use.record else {})
    try:
        reasons = check_env(project, env, host)
    except BnbenvError as error:  # of bnbenv.toml, which ``names`` tells in full
        reasons = (Reason(env, error.code, f"{project.config.name} cannot be read"),)
    others = tuple(one for one in generations(project, env) if one.number != use.generation)
    return Seen(env, use, reasons, others)


def disk(prefixes: Iterable[Path]) -> Disk:
    """What some generations take. Reads the size of every file in them: some seconds on a cold disk."""
    links: dict[tuple[int, int], int] = {}
    sizes: dict[tuple[int, int], tuple[int, int]] = {}
    for prefix in prefixes:
        for stat in _files(prefix):
            key = (stat.st_dev, stat.st_ino)
            links[key] = links.get(key, 0) + 1
            sizes[key] = (stat.st_blocks * 512 if hasattr(stat, "st_blocks") else stat.st_size, stat.st_nlink)
    own = sum(size for key, (size, count) in sizes.items() if count <= links[key])
    return Disk(sum(size for size, _ in sizes.values()), own)


def _files(folder: Path) -> Iterator[os.stat_result]:
    waiting = [str(folder)]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    yield entry.stat(follow_symlinks=False)
        except OSError:  # deleted in the meantime, or not ours to read
            continue


def runs(project: Project, most: int = RUNS) -> tuple[Run, ...]:
    """The last runs by their logs, the newest first; none where there are no logs."""
    try:
        found = sorted((entry.name for entry in os.scandir(project.home / "log")), reverse=True)
    except OSError:
        return ()
    told: list[Run] = []
    for name in found:
        match = _LOG_NAME.fullmatch(name)
        if match and len(told) < most:
            year, month, day, hour, minute, second, command = match.groups()
            ended = _LAST_LINE.search(_end(project.home / "log" / name))
            started = f"{year}-{month}-{day}T{hour}:{minute}:{second}+00:00"
            told.append(Run(started, command, int(ended[1]) if ended else None, _number(ended[2]) if ended else None))
    return tuple(told)


def _end(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - 200))
            return stream.read(200).decode("utf-8", "replace")
    except OSError:
        return ""


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def at_work(project: Project) -> bool:
    """Whether a bnbenv holds the project right now; its lock is tried and let go at once. False where none can tell."""
    path = project.home / "lock"
    try:
        if sys.platform == "win32":
            return path.exists() and _held_on_windows(path)
        import fcntl  # as filelock does, which takes as long to import as all the rest

        with path.open("rb") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
    except OSError:  # there is none, or it is not ours to try
        pass
    return _marked(project.home / MARKER)


def _marked(marker: Path) -> bool:
    """Where a file system has no locks, a file names the process that is at work, and its machine."""
    try:
        number, host, *_ = marker.read_text(encoding="utf-8", errors="replace").split()
        import platform

        if host.partition("?")[0] == platform.node():
            os.kill(int(number), 0)
    except ProcessLookupError:
        return False
    except (OSError, ValueError, OverflowError):
        return marker.exists()
    return True


def _held_on_windows(path: Path) -> bool:
    from filelock import FileLock, Timeout

    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True


def verified_on(record: Record) -> list[dict[str, Any]]:
    """On which devices the kernels ran, and how many checks agreed. What is damaged in a record is left out."""
    devices = record.verification.get("devices")
    found = []
    for device in devices if isinstance(devices, list) else []:
        if isinstance(device, dict) and isinstance(device.get("steps"), list):
            checks = sum(1 for step in device["steps"] if isinstance(step, dict) and step.get("ok") is True)
            found.append({"device": str(device.get("device")), "name": str(device.get("name")), "checks": checks})
    return found


def made_for(record: Record) -> dict[str, Any]:
    """The driver and the GPUs that a generation was solved for; none of both: the CPU."""
    if record.decision.get("backend") != "cuda":
        return {"driver": None, "gpus": []}
    from bnbenv.envs import lost

    gpus = lost.made_for(record)
    named = [{"index": gpu.index, "name": gpu.name, "arch": f"sm_{gpu.capability.replace('.', '')}"} for gpu in gpus]
    return {"driver": lost.driver_of(record), "gpus": named}


def holds(record: Record) -> dict[str, Any]:
    """The versions in a generation, and the native library that is loaded there; None where a record says nothing.

    ``packages`` maps those of another family than bitsandbytes to their versions.
    """
    choice, versions = record.decision.get("choice", {}), versions_in(record.decision)
    torch, wheel = choice.get("torch", {}), choice.get("bitsandbytes")
    known = {
        "python": choice.get("python"),
        "torch": torch.get("version"),
        "cuda": torch.get("cuda"),
        "bitsandbytes": versions.pop("bitsandbytes", None),
        "library": wheel.get("library") if isinstance(wheel, dict) else None,
    }
    texts = {name: value if isinstance(value, str) else None for name, value in known.items()}
    return {**texts, "packages": versions}


def decision(record: Record) -> dict[str, Any] | None:
    """The solver's answer as it was recorded, read strictly; None where that cannot be done."""
    import msgspec

    from bnbenv.solve.model import Solution

    try:
        solution = msgspec.convert(record.decision, Solution)
    except (msgspec.ValidationError, RecursionError):
        return None
    found: dict[str, Any] = msgspec.to_builtins(solution)
    return found
