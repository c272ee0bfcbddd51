"""Files of a run at the desk: what Ansible is given, private and deleted at its end, and what it tells meanwhile."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from bnbenv.errors import Failed
from bnbenv.fleet.events import Event, read_events
from bnbenv.fleet.model import Job

_PREFIX, _HELD = "bnbenv-fleet-", "held"
_NEW = 5.0  # seconds


class Follower:
    """Reads the events of a run while they are written."""

    def __init__(self, path: Path, take: Callable[[Event], None], passwords: Iterable[Path]) -> None:
        self._stream = path.open("rb")
        self._rest = b""
        self._take = take
        self._passwords = passwords
        self.started = False
        self.results = 0

    def __enter__(self) -> Follower:
        return self

    def __exit__(self, *_: object) -> None:
        self.follow()
        self._stream.close()

    def follow(self) -> None:
        events, self._rest = read_events(self._rest + self._stream.read())
        for event in events:
            if event.event == "start":
                self.started = True
                for file in self._passwords:  # Ansible has read them
                    file.unlink(missing_ok=True)
            self.results += event.event in ("ok", "failed", "unreachable", "skipped")
            self._take(event)


@contextmanager
def private_folder(environ: Mapping[str, str]) -> Iterator[Path]:
    """A folder that only this user can look into, deleted at the end; in memory where the system has such a place.

    What a desk left there that was killed, passwords among it, is deleted by the next one. Raises Failed.
    """
    import fcntl  # not on Windows, which is no desk

    runtime = environ.get("XDG_RUNTIME_DIR")
    place = runtime if runtime and os.access(runtime, os.W_OK | os.X_OK) else None
    try:
        _sweep(Path(place or tempfile.gettempdir()))
        made = tempfile.TemporaryDirectory(prefix=_PREFIX, dir=place)
        with made as folder, Path(folder, _HELD).open("x") as held:
            fcntl.flock(held, fcntl.LOCK_EX)  # until this desk is done, or killed
            yield Path(folder)
    except OSError as error:
        where = place or environ.get("TMPDIR") or "the folder for temporary files"
        message = f"{where} cannot be written ({(error.strerror or str(error)).lower()})"
        raise Failed("cannot-write", message, "Free some space there, or name another place: TMPDIR.") from None


def _sweep(place: Path) -> None:
    """Delete this user's folders that nobody holds. One that is just being made is not held yet."""
    import fcntl

    for folder in place.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            found = folder.lstat()
            if found.st_uid != os.geteuid() or not stat.S_ISDIR(found.st_mode) or time.time() - found.st_mtime < _NEW:
                continue
            with suppress(FileNotFoundError), (folder / _HELD).open() as held:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)


def write_passwords(folder: Path, passwords: Mapping[str, str]) -> dict[str, Path]:
    files = {}
    for number, (kind, password) in enumerate(passwords.items()):
        files[kind] = path = folder / f"password-{number}"
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as stream:  # noqa: PTH123
            stream.write(f"{password}\n")
    return files


def write_jobs(folder: Path, jobs: Sequence[Job]) -> Path:
    """What each host gets, for the lookup ``bnbenv.fleet.job``. Links have the names that bundles have on hosts."""
    rows = {}
    for job in jobs:
        content = job.content
        if not re.fullmatch("[0-9a-f]{64}", content.sha256):
            raise ValueError(f"no sha256: {content.sha256[:80]}")
        source = folder / f"{content.sha256}.tar"
        with suppress(FileExistsError):
            source.symlink_to(Path(content.path).absolute())
        rows[job.host] = {
            "sha256": content.sha256,
            "size": content.size,
            "source": str(source),
            "expect": job.expect,
            "in_use": job.in_use,
        }
    path = folder / "jobs.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def digest(path: Path) -> str:
    """The sha256 of a file of the desk. Raises Failed."""
    total = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while part := stream.read(1 << 20):
                total.update(part)
    except OSError as error:
        raise Failed("no-bundle", f"{path} cannot be read ({(error.strerror or str(error)).lower()})") from None
    return total.hexdigest()


def text_of(file: str | None) -> str:
    try:
        return Path(file).read_text(encoding="utf-8", errors="replace") if file else ""
    except OSError:
        return ""
