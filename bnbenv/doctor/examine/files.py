"""Reading what may be anything: only regular files are opened, since a pipe in their place would never end."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def head(path: Path, limit: int) -> bytes:
    """The first bytes of a regular file. Raises OSError, for a path that none can have as well."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise OSError(errno.EINVAL, "no regular file", str(path))
        with path.open("rb") as stream:
            return stream.read(limit)
    except ValueError as error:  # a NUL in its name
        raise OSError(errno.EINVAL, str(error), str(path)) from None


def text(path: Path, limit: int) -> str | None:
    """The first bytes as text; null where there is no such file, or it cannot be read."""
    try:
        return head(path, limit).decode("utf-8", "replace")
    except OSError:
        return None


def names(folder: Path) -> list[str]:
    """The names in a folder, sorted; none where it cannot be listed."""
    try:
        return sorted(os.listdir(folder))
    except (OSError, ValueError):
        return []
