"""Where things are: the system's files (under a prefix, for tests, images and chroots) and bnbenv's own."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from bnbenv.errors import UsageError


class Sysroot(NamedTuple):
    """A prefix for what is read under /proc, /sys, /etc and /usr/lib/wsl (``BNBENV_SYSROOT``); ``/`` by default."""

    prefix: Path = Path("/")

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Sysroot:
        value = environ.get("BNBENV_SYSROOT")
        return cls(Path(value)) if value else cls()

    def path(self, absolute: str) -> Path:
        """The place of an absolute path such as ``/proc/driver/nvidia/version`` below the prefix."""
        return self.prefix / absolute.lstrip("/")

    def read(self, absolute: str, limit: int = 1 << 20) -> str | None:
        """The text of a small system file, or None where it cannot be read (absent, no permission)."""
        try:
            with self.path(absolute).open("rb") as stream:
                return stream.read(limit).decode("utf-8", "replace")
        except OSError:
            return None


def expand(text: str) -> Path:
    """A path with its ``~`` replaced; that of a user who does not exist stays as it is."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)


def exists(path: Path) -> bool:
    """Whether something is there. What cannot be looked at (no permission, too long a name) counts as not there."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def data_home(environ: Mapping[str, str]) -> Path:
    """bnbenv's user data: ``BNBENV_HOME``, else the platform's place for it. Raises UsageError where there is none."""
    value = environ.get("BNBENV_HOME")
    if value:
        return expand(value)
    return _platform_place("user_data_dir")


def config_home(environ: Mapping[str, str]) -> Path:
    """bnbenv's user configuration: ``BNBENV_HOME/config`` where that is set, else the platform's place for it.

    Raises UsageError where there is none.
    """
    value = environ.get("BNBENV_HOME")
    if value:
        return expand(value) / "config"
    return _platform_place("user_config_dir")


def _platform_place(kind: str) -> Path:
    """A container can run under a user that has no name and no home."""
    import platformdirs

    try:
        return Path(getattr(platformdirs, kind)("bnbenv", appauthor=False))
    except RuntimeError:
        message = "this user has no home folder for bnbenv's data"
        raise UsageError("no-home", message, "Set HOME, or BNBENV_HOME to a folder of bnbenv's own.") from None


def user_home() -> Path:
    """The user's home folder, in which pip and uv may be configured; the root where there is none."""
    try:
        return Path.home()
    except RuntimeError:
        return Path(os.sep)


def write_atomically(path: Path, text: str | bytes) -> None:
    """Replace a file in one step, so that a reader sees the old or the new text and a kill leaves one of them.

    It keeps the rights that the former file had. Raises OSError (no space, no permission); that file is then untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    # What lies there is left of a bnbenv with the same number, or a link that somebody put there to be written through.
    partial.unlink(missing_ok=True)
    rights = _rights(path)
    # With O_EXCL no link is followed either.
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o664 if rights is None else rights)
    try:
        with open(descriptor, "wb") as stream:  # noqa: PTH123 - a descriptor
            if rights is not None and os.name != "nt":
                os.fchmod(descriptor, rights)
            stream.write(text.encode() if isinstance(text, str) else text)
            stream.flush()
            os.fsync(descriptor)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def check_output(path: Path) -> None:
    """Raises UsageError where a file that somebody named is a device, a pipe or a folder.

    What is written in one step would take its place: root would have a plain file as /dev/null.
    """
    try:
        found = path.lstat()
        if stat.S_ISLNK(found.st_mode) and path.parent.resolve() != Path("/dev"):  # /dev/stdout may lead to a file
            found = path.stat()
    except OSError:
        return
    if not stat.S_ISREG(found.st_mode):
        raise UsageError("no-file", f"{path} is a device, a pipe or a folder", "Name a file.")


def _rights(path: Path) -> int | None:
    """Who may read and write a file. A bnbenv.toml with a password in an address may be closed to others."""
    try:
        found = path.lstat().st_mode
    except OSError:
        return None
    return stat.S_IMODE(found) & 0o777 if stat.S_ISREG(found) else None
