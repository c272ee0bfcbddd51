"""Where hooks are kept: the system's, which root installs, or a user's own. Standard library only: a fast path."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from bnbenv.errors import UsageError
from bnbenv.paths import Sysroot, data_home, user_home

SYSTEM_FOLDER = "/var/lib/bnbenv"
SERVICE = "bnbenv-sync"  # a user's own unit; the system's is a template, bnbenv-sync@<uid>

# What stands unquoted in the files of five programs, each of which quotes otherwise.
_PLAIN = re.compile(r"[A-Za-z0-9_./+,@-]*")


class Place(NamedTuple):
    """``folder`` holds the scripts, the registry and what was noted; ``root`` is where the system's files are.

    ``home`` and ``config`` are the user's home and configuration folders, ``uid`` is the one who runs this.
    """

    user: bool
    root: Path
    folder: Path
    home: Path
    config: Path
    uid: int

    def system_path(self, absolute: str) -> Path:
        """A path of the system, below the prefix."""
        return self.root / absolute.lstrip("/")

    @property
    def hook_script(self) -> Path:
        return self.folder / "hook.sh"

    @property
    def tell_script(self) -> Path:
        return self.folder / "tell.sh"

    @property
    def manifest(self) -> Path:
        return self.folder / "installed.json"

    @property
    def projects(self) -> Path:
        return self.folder / "projects.json"

    @property
    def noted(self) -> Path:
        return self.folder / "noted.json"

    @property
    def boxes(self) -> Path:
        return self.folder / "users"

    def box(self, uid: int) -> Path:
        """What one user is told, and was told; it belongs to that user."""
        return self.boxes / str(uid)


def place_of(environ: Mapping[str, str], user: bool) -> Place:
    """The system's place, below ``BNBENV_SYSROOT`` where that is set, or the user's own.

    Raises UsageError where the user has no home, or root has another user's (sudo can leave HOME as it is): what root
    wrote there its owner could not change. So too where the prefix has signs that not every package manager's file can
    hold.
    """
    root = Sysroot.from_environment(environ).prefix.absolute()
    if not user and not _PLAIN.fullmatch(str(root)):
        message = f'the path {root} has other signs than letters, digits and "_./+,@-"'
        raise UsageError("odd-path", message, "Name another folder with BNBENV_SYSROOT.")
    home = user_home()
    config = Path(environ.get("XDG_CONFIG_HOME") or "")
    config = config if config.is_absolute() else home / ".config"  # as its specification says
    folder = data_home(environ).absolute() / "hooks" if user else root / SYSTEM_FOLDER.lstrip("/")
    uid = os.geteuid() if hasattr(os, "geteuid") else 0
    if user and uid == 0 and home.is_dir() and home.stat().st_uid != 0:
        raise UsageError("not-yours", f"the home folder {home} is not root's", "Run it as its owner, without sudo.")
    return Place(user, root, folder, home, config, uid)


def changeable(path: Path) -> tuple[Path, os.stat_result] | None:
    """What of a path, links followed and not, somebody else than root may change; None: nothing.

    A folder like /tmp, in which only owners may replace what is theirs, is none. Raises OSError.
    """
    for part in _chain(path):
        found = part.stat()
        sticky = stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX
        writable = found.st_mode & stat.S_IWOTH or (found.st_mode & stat.S_IWGRP and found.st_gid != 0)
        if found.st_uid != 0 or (writable and not sticky):
            return part, found
    return None


def closed(path: Path) -> Path | None:
    """What of a path not every user may enter or run; None: all may. Raises OSError."""
    return next((part for part in _chain(path) if not part.stat().st_mode & stat.S_IXOTH), None)


def _chain(path: Path) -> Iterator[Path]:
    """A path and all above it, then the same of what it leads to."""
    for one in dict.fromkeys((path.absolute(), path.resolve())):
        yield from (one, *one.parents)
