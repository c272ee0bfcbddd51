"""What was fetched before: commits as tar files and tarballs by their sha256, below ``sources`` of the builds' folder.

Every file has its own sha256 in its name and appears in one rename, so nothing half or damaged is taken for whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from bnbenv.build.refs import Refs, is_commit
from bnbenv.paths import write_atomically

PART = ".part-"
OLD = 24 * 3600.0  # seconds after which what a killed bnbenv left is removed


@dataclass(frozen=True)
class Store:
    """The folder of sources."""

    home: Path

    def refs(self, address: str) -> Refs:
        """The tags, branches and HEAD of a repository that were fetched, as they were then."""
        found: dict[str, str] = {}
        for path in _entries(self._place(address) / "refs"):
            with contextlib.suppress(OSError, UnicodeDecodeError):
                commit = path.read_text().strip()
                if is_commit(commit) and not path.name.startswith("."):
                    found[unquote(path.name)] = commit
        head = found.pop("HEAD", None)
        here = {path.name.partition("-")[0] for path in _entries(self._place(address))}
        return Refs({name: commit for name, commit in found.items() if commit in here}, head if head in here else None)

    def commit(self, address: str, begun: str) -> str | None:
        """The commit that was fetched and begins so, if there is one and no other."""
        names = {path.name.partition("-")[0] for path in _entries(self._place(address))}
        found = [name for name in names if is_commit(name) and name.startswith(begun)]
        return found[0] if len(found) == 1 else None

    def tar(self, address: str, commit: str) -> Path | None:
        """The files of a commit; one that is damaged is removed."""
        for path in _entries(self._place(address)):
            match = re.fullmatch(r"([0-9a-f]+)-([0-9a-f]{64})\.tar", path.name)
            if match and match[1] == commit:
                if _sha256(path) == match[2]:
                    return path
                path.unlink(missing_ok=True)
        return None

    def keep(self, address: str, shown: str, name: str | None, commit: str, tar: Path) -> Path:
        """Take a tar file in, and remember what led to it (``refs/tags/0.50.1``). Raises OSError."""
        place = self._place(address)
        (place / "refs").mkdir(parents=True, exist_ok=True)
        write_atomically(place / "address", f"{shown}\n")
        target = place / f"{commit}-{_sha256(tar)}.tar"
        _flush(tar)
        tar.replace(target)
        self.remember(address, name, commit)
        return target

    def remember(self, address: str, name: str | None, commit: str) -> None:
        """What leads to a commit now."""
        if name is not None:
            write_atomically(self._place(address) / "refs" / quote(name, safe=""), f"{commit}\n")

    def tarball(self, sha256: str) -> Path | None:
        """A tarball that was downloaded; one that is damaged is removed."""
        path = self.home / "tarballs" / sha256
        with contextlib.suppress(OSError):
            if _sha256(path) == sha256:
                return path
            path.unlink()
        return None

    def keep_tarball(self, sha256: str, file: Path) -> Path:
        """Take a downloaded file in, whose sha256 was checked. Raises OSError."""
        target = self.home / "tarballs" / sha256
        target.parent.mkdir(parents=True, exist_ok=True)
        _flush(file)
        file.replace(target)
        return target

    def _place(self, address: str) -> Path:
        return self.home / hashlib.sha256(os.fsencode(address)).hexdigest()[:20]


@contextlib.contextmanager
def part(folder: Path) -> Iterator[Path]:
    """A folder for what is not whole yet; what is left in it goes with the body."""
    folder.mkdir(parents=True, exist_ok=True)
    clear(folder, PART)
    made = Path(tempfile.mkdtemp(prefix=PART, dir=folder))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def clear(folder: Path, prefix: str) -> None:
    """Remove what killed runs left: what begins so and is a day old."""
    for path in _entries(folder):
        with contextlib.suppress(OSError):
            if path.name.startswith(prefix) and time.time() - path.lstat().st_mtime > OLD:
                shutil.rmtree(path)


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _sha256(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def _flush(path: Path) -> None:
    """A rename can reach the disk before the bytes do."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
