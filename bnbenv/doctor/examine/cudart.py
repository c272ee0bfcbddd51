"""Where bitsandbytes through 0.40.0 looks for a libcudart, whose release then decides which library it loads.

Source: ``bitsandbytes/cuda_setup/main.py`` and ``env_vars.py`` in the wheels of 0.37.2, 0.38.1 and 0.39.1.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from bnbenv.paths import Sysroot

_NAMES = ("libcudart.so", "libcudart.so.11.0", "libcudart.so.12.0")  # through 0.37 the first alone
_FIRST = ("CONDA_PREFIX", "LD_LIBRARY_PATH")
_SHELL = ["PWD", "OLDPWD", "HOME", "SHELL", "MAIL", "PATH", "TMUX", "LESSOPEN", "LESSCLOSE", "_"]
_SESSION = ["SSH_AUTH_SOCK", "SSH_TTY", "XDG_DATA_DIRS", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS"]
_IGNORED = frozenset(_SHELL + _SESSION)
_LAST = "/usr/local/cuda/lib64"


def libcudarts(environ: Mapping[str, str], sysroot: Sysroot) -> tuple[str, ...]:
    """The files, by their real names, of the first place that has any; of several it takes one by chance."""
    for folders in _places(environ, sysroot):
        found = [path for folder in folders for name in _NAMES if _is_file(path := folder / name)]
        if found:
            return tuple(dict.fromkeys(os.path.realpath(path) for path in found))
    return ()


def _places(environ: Mapping[str, str], sysroot: Sysroot) -> Iterator[list[Path]]:
    if environ.get("CONDA_PREFIX"):
        yield [Path(environ["CONDA_PREFIX"], "lib")]
    yield _folders(environ.get("LD_LIBRARY_PATH", ""))
    others = [
        value
        for name, value in environ.items()
        if "/" in value and name not in _FIRST and "CONDA" not in name and name not in _IGNORED
    ]
    yield [folder for value in others for folder in _folders(value)]
    yield [sysroot.path(_LAST)]


def _folders(value: str) -> list[Path]:
    return [Path(part) for part in value.split(":") if part]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False
