"""What a desk keeps of a fleet: by class its locks, and the bundles made of them. In ``.bnbenv/fleet`` of its project.

    locks/<class id>/<env>.<sha256>.toml   a lock, whose name tells whether it is whole
    locks/<class id>/bundle                the key of the bundle that the class has
    bundles/<sha256>.tar                   a bundle
    bundles/<key>.json                     which bundle is the one for a key, written last

Nothing is believed by its place: a lock is compared with its name each time, a bundle with its sha256 as soon as
anybody has touched it. Who writes holds the folder.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from bnbenv.bundle.archive import file_sha256
from bnbenv.envs.hold import hold
from bnbenv.envs.project import Project
from bnbenv.envs.record import digest
from bnbenv.errors import Failed
from bnbenv.paths import write_atomically
from bnbenv.progress import shown_size

WAIT = 5.0  # seconds for another bnbenv that is at work on the same bundles
FORGET = 60 * 86400.0  # seconds after which the locks and the bundle of a class that no host is in any more are deleted
NEW = "new.tar"  # a bundle that is being made

_LOCK = re.compile(r"([A-Za-z0-9][A-Za-z0-9_-]{0,99})\.([0-9a-f]{64})\.toml")
_HEX = re.compile(r"[0-9a-f]{12,64}")

Say = Callable[[str], None]


class Kept(msgspec.Struct, frozen=True):
    """A bundle as it was when it was last compared with its sha256. ``stamp``: time and inode; each write changes it.

    ``size`` is in bytes.
    """

    sha256: str
    size: int
    stamp: tuple[int, int, int]


class Home(NamedTuple):
    """The folder of a fleet at the desk."""

    root: Path

    @property
    def locks(self) -> Path:
        return self.root / "locks"

    @property
    def bundles(self) -> Path:
        return self.root / "bundles"

    def of(self, class_id: str) -> Path:
        """The folder of a class."""
        assert _HEX.fullmatch(class_id), class_id
        return self.locks / class_id


def home_of(project: Project) -> Home:
    return Home(project.home / "fleet")


@contextlib.contextmanager
def holding(project: Project, environ: Mapping[str, str], say: Say) -> Iterator[Home]:
    """The folder, held against a second bnbenv. Raises Busy, Failed where it cannot be written."""
    home = home_of(project)
    with writing(home.root):
        home.bundles.mkdir(parents=True, exist_ok=True)
        ignore = project.home / ".gitignore"
        if not ignore.exists():
            write_atomically(ignore, "*\n")
    with hold(home.bundles, f"the bundles of {project.root}", WAIT, environ, say):
        yield home


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turns what the disk says into an error for people. Raises Failed."""
    try:
        yield
    except OSError as error:
        what = f"{folder} cannot be written ({(error.strerror or type(error).__name__).lower()})"
        raise Failed("cannot-write", what, "Free some space there, or see who may write into it.") from None


def read_locks(home: Home, class_id: str, say: Say) -> dict[str, str]:
    """The texts of a class's locks, by environment; of what is not what its name says it is told, and it is deleted."""
    found: dict[str, str] = {}
    for path, env, sha256 in _lock_files(home.of(class_id)):
        try:
            data = path.read_bytes()
        except OSError as error:
            say(f"{path} cannot be read ({(error.strerror or '').lower()}): the lock is made anew")
            continue
        if digest(data) != sha256:
            say(f"{path.name} of class {class_id} was damaged or changed: the lock is made anew")
            with contextlib.suppress(OSError):
                path.unlink()
            continue
        with contextlib.suppress(UnicodeDecodeError):
            found[env] = data.decode()
    return found


def peek_locks(home: Home, class_id: str) -> dict[str, str]:
    """As ``read_locks``, for those who do not hold the folder: nothing is told or deleted."""
    found: dict[str, str] = {}
    for path, env, sha256 in _lock_files(home.of(class_id)):
        with contextlib.suppress(OSError, UnicodeDecodeError):
            data = path.read_bytes()
            if digest(data) == sha256:
                found[env] = data.decode()
    return found


def all_locks(home: Home, say: Say) -> list[tuple[str, str]]:
    """The environment and text of every lock of every class, each text once, in an order that depends on them alone."""
    try:
        ids = [entry.name for entry in os.scandir(home.locks) if _HEX.fullmatch(entry.name)]
    except OSError:
        return []
    texts = {(env, text) for one in ids for env, text in read_locks(home, one, say).items()}
    return sorted(texts, key=lambda pair: (pair[0], digest(pair[1].encode())))


def keep_lock(home: Home, class_id: str, env: str, text: str) -> None:
    """Keep the lock of a class's environment in the place of any other. Raises Failed."""
    folder = home.of(class_id)
    path = folder / f"{env}.{digest(text.encode())}.toml"
    with writing(folder):
        write_atomically(path, text)
        for other, own, _ in _lock_files(folder):
            if own == env and other != path:
                other.unlink(missing_ok=True)


def _lock_files(folder: Path) -> list[tuple[Path, str, str]]:
    """The locks of a class, the oldest first: where a kill left two, the later one is taken."""
    with contextlib.suppress(OSError):
        names = [found for entry in os.scandir(folder) if (found := _LOCK.fullmatch(entry.name))]
        rows = [(folder / one[0], one[1], one[2]) for one in names]
        return sorted(rows, key=lambda row: (row[0].stat().st_mtime_ns, row[0].name))
    return []


def find_bundle(home: Home, key: str, say: Say) -> tuple[Path, Kept] | None:
    """The bundle that was made for a key, if it is there and whole; of a damaged one it is told, and it is deleted."""
    row = home.bundles / f"{key}.json"
    try:
        kept = msgspec.json.decode(row.read_bytes(), type=Kept)
        if not re.fullmatch(r"[0-9a-f]{64}", kept.sha256):
            return None
        path = home.bundles / f"{kept.sha256}.tar"
        found = path.stat()
        if (found.st_size, _stamp(found)) == (kept.size, kept.stamp):
            return path, kept
        with path.open("rb") as stream:
            whole = found.st_size == kept.size and file_sha256(stream) == kept.sha256
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None
    if not whole:
        say(f"the bundle {path.name[:12]} was damaged or changed: it is made anew")
        path.unlink(missing_ok=True)
        return None
    return path, keep_bundle(home, key, path, kept.sha256)


def keep_bundle(home: Home, key: str, made: Path, sha256: str) -> Kept:
    """Put a bundle that was just written or compared into its place. Raises OSError."""
    path = home.bundles / f"{sha256}.tar"
    made.replace(path)
    found = path.stat()
    kept = Kept(sha256, found.st_size, _stamp(found))
    write_atomically(home.bundles / f"{key}.json", msgspec.json.encode(kept))
    return kept


def _stamp(found: os.stat_result) -> tuple[int, int, int]:
    """What nobody can write a file without changing: ctime is the kernel's own."""
    return found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def use(home: Home, class_id: str, key: str) -> None:
    """Note that a class has the bundle of a key, today. Raises OSError."""
    note = home.of(class_id) / "bundle"
    try:
        if note.read_text() == key:
            os.utime(note)
            return
    except (OSError, UnicodeDecodeError):
        pass
    write_atomically(note, key)


def seen(home: Home, class_id: str) -> None:
    """Note that there are hosts of a class today, so that its locks stay, though nobody needs its bundle."""
    with contextlib.suppress(OSError):
        os.utime(home.of(class_id) / "bundle")


def clear(home: Home, say: Say) -> None:
    """Delete the bundles that no class has any more, and tell how much that was.

    Of a class that no host was in for ``FORGET`` seconds the locks go as well.
    """
    keys = set()
    for folder in _folders(home.locks):
        note = folder / "bundle"
        with contextlib.suppress(OSError, UnicodeDecodeError):
            if time.time() - note.stat().st_mtime < FORGET:
                keys.add(note.read_text())
                continue
            for path in (*(row[0] for row in _lock_files(folder)), note):
                path.unlink()
            folder.rmdir()
    held = set()
    for row in home.bundles.glob("*.json"):
        if row.stem in keys:
            with contextlib.suppress(OSError, msgspec.DecodeError, UnicodeDecodeError):
                held.add(msgspec.json.decode(row.read_bytes(), type=Kept).sha256)
        else:
            row.unlink(missing_ok=True)
    gone = [path for path in home.bundles.glob("*.tar") if path.stem not in held]
    freed = 0
    for path in gone:
        with contextlib.suppress(OSError):
            size = path.stat().st_size
            path.unlink()
            freed += size
    if gone:
        what = f"{len(gone)} bundles" if len(gone) > 1 else "a bundle"
        say(f"deleted {what} that no class has any more: {shown_size(freed)}")


def _folders(folder: Path) -> list[Path]:
    try:
        return [Path(entry.path) for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []
