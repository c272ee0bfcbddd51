"""The Pythons of the host: one quick call of ``uv python list``, with version managers' shims left out.

A shim is a script that may or may not lead to a Python; the real interpreters behind it are in the manager's folder of
versions, whether or not one of them is chosen at the moment.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from bnbenv.facts.model import Python, Unknown
from bnbenv.process import Command, Runner

LIMIT = 20.0  # seconds; uv asks each interpreter it has not met before
_32_BIT = frozenset({"i686", "x86", "armv7l", "armv7"})

# Folders of versions below the home directory (and the variable that moves the manager's root).
_MANAGERS = (
    ("PYENV_ROOT", ".pyenv", "versions"),
    ("ASDF_DATA_DIR", ".asdf", "installs/python"),
    ("MISE_DATA_DIR", ".local/share/mise", "installs/python"),
)
# ``3.12.4``, ``3.14.0rc2``
_VERSION = re.compile(r"(?!.*[0-9]{6})[0-9]+(\.[0-9]+){1,2}[0-9a-z.+-]{0,16}")
_CONDA_HOMES = ("miniconda3", "miniforge3", "anaconda3", "mambaforge", "micromamba")


def find_pythons(
    environ: Mapping[str, str], runner: Runner, running: Python | None, system: str, limit: float = LIMIT
) -> tuple[tuple[Python, ...], tuple[Unknown, ...]]:
    """CPythons of 64 bits, newest first, each once, by their real path; none that is free-threaded.

    The wheels for 3.13 do not run on 3.13t, and uv can download the usual one.

    ``running`` is the interpreter bnbenv itself runs on, which is one of them.
    """
    import uv

    separator = ";" if system == "win32" else ":"
    search = separator.join(search_path(environ, separator))
    changes = {**environ, "PATH": search}
    try:
        argv = (uv.find_uv_bin(), "python", "list", "--only-installed", "--output-format", "json")
        finished = runner.run(Command((*argv, "--offline", "--no-config"), timeout=limit, env=changes))
    except OSError as error:
        return _with_running((), running, f"uv could not be started ({error})")
    if finished.timed_out:
        return _with_running((), running, f"uv did not list the Pythons within {limit:g} s")
    if not finished.ok:
        said = " ".join(finished.stderr.split())[:200]
        return _with_running((), running, f"uv did not list the Pythons: {said}")
    return _with_running(parse_list(finished.stdout), running, "uv found no CPython of 64 bits that runs usual wheels")


def search_path(environ: Mapping[str, str], separator: str = ":") -> list[str]:
    """PATH without shims, then each version's folder of pyenv, asdf, mise and conda."""
    folders = [folder for folder in environ.get("PATH", "").split(separator) if folder and not _holds_shims(folder)]
    home = environ.get("HOME") or environ.get("USERPROFILE")
    roots = []
    for variable, usual, versions in _MANAGERS:
        root = environ.get(variable) or (str(Path(home) / usual) if home else None)
        if root:
            roots.append(Path(root) / versions)
    if home:
        roots.append(Path(home) / ".pyenv" / "pyenv-win" / "versions")
    found = [folder for root in roots for version in _listing(root) for folder in _executables(version)]
    conda = [environ.get("CONDA_PREFIX"), environ.get("CONDA_ROOT"), environ.get("MAMBA_ROOT_PREFIX")]
    conda += [str(Path(home) / name) for name in _CONDA_HOMES] if home else []
    found += [folder for prefix in conda if prefix for folder in _executables(Path(prefix))]
    return list(dict.fromkeys([*folders, *found]))


def parse_list(text: str) -> tuple[Python, ...]:
    """The interpreters in uv's JSON; rows of another shape are ignored."""
    try:
        rows = msgspec.json.decode(text)
    except (msgspec.MsgspecError, RecursionError):
        return ()
    found: dict[str, Python] = {}
    for row in rows if isinstance(rows, list) else ():
        python = _read_row(row)
        if python is not None:
            found.setdefault(python.path, python)
    return tuple(found.values())


def _read_row(row: Any) -> Python | None:
    if not isinstance(row, dict) or row.get("implementation") != "cpython" or str(row.get("arch")) in _32_BIT:
        return None
    if "freethreaded" in str(row.get("variant")):
        return None
    path, version = row.get("path"), row.get("version")
    if not isinstance(path, str) or "\0" in path or not isinstance(version, str):
        return None
    if not _VERSION.fullmatch(version):
        return None
    return Python(os.path.realpath(path), version)


def _with_running(
    found: tuple[Python, ...], running: Python | None, reason: str
) -> tuple[tuple[Python, ...], tuple[Unknown, ...]]:
    unknown = () if found else (Unknown("pythons", reason),)
    if running is not None and all(python.path != running.path for python in found):
        found = (*found, running)
    return tuple(sorted(found, key=_newest_first)), unknown


def _newest_first(python: Python) -> tuple[list[int], str]:
    numbers = [int("".join(c for c in part if c.isdigit()) or "0") for part in python.version.split(".")]
    return [-number for number in numbers], python.path


def _holds_shims(folder: str) -> bool:
    """pyenv's, asdf's and mise's folder of shims, by its name; pyenv-virtualenv has one below plugins."""
    return Path(folder).name == "shims"


def _executables(prefix: Path) -> list[str]:
    """Where a Python installation keeps its interpreter: bin, or on Windows the prefix itself."""
    if (prefix / "bin" / "python").exists():
        return [str(prefix / "bin")]
    return [str(prefix)] if (prefix / "python.exe").exists() else []


def _listing(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.is_symlink())
    except OSError:
        return []
