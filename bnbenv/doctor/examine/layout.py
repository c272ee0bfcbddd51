"""How a Python is laid out: which version it is, below which prefix, and whether it is a venv, conda or the system's.

Told by files alone, as the interpreter itself finds it (getpath and site of CPython); it is asked only where its
layout is an unusual one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from bnbenv.doctor.examine.files import names, text
from bnbenv.process import Command, Runner

LIMIT = 5.0  # seconds for an interpreter that has to be asked
LARGEST = 1 << 16  # bytes of a pyvenv.cfg or patchlevel.h

_NAMED = re.compile(r"python(3\.\d{1,3})t?(?:\.exe)?")
_FOLDER = re.compile(r"python(3\.\d{1,3})t?")
_DLL = re.compile(r"python3(\d{1,3})t?\.dll", re.IGNORECASE)
_CONDA = re.compile(r"python-(3\.\d{1,3}\.\d{1,3})-.*\.json")
_PATCH = re.compile(r'^#define\s+PY_VERSION\s+"(3\.\d{1,3}\.\d{1,3})', re.MULTILINE)
_ASK = "import json, sys; print(json.dumps([sys.version.split()[0], sys.base_prefix, sys.executable]))"


@dataclass(frozen=True)
class Layout:
    """A Python as its files show it.

    ``prefix`` is its own, ``base`` that of the Python below it (the same where it is no venv), ``minor`` such as
    ``3.11``, ``version`` the full one where it is known. ``system_site``: a venv that lets the base's packages in.
    ``gone``: its interpreter is missing, or a link that leads nowhere. ``made_for`` is the version its venv was made
    for where that is another one than the interpreter's.
    """

    kind: Literal["venv", "conda", "system"]
    prefix: Path
    base: Path
    minor: str | None
    version: str | None = None
    python: Path | None = None
    system_site: bool = False
    gone: bool = False
    made_for: str | None = None
    windows: bool = False


def of_prefix(prefix: Path, runner: Runner) -> Layout | None:
    """The Python of a folder (venv, conda environment, installation); None where it is none."""
    windows = (prefix / "Lib" / "site-packages").is_dir() and not (prefix / "bin").is_dir()
    usual = ("Scripts/python.exe", "python.exe") if windows else ("bin/python", "bin/python3")
    python = next((prefix / name for name in usual if os.path.lexists(prefix / name)), None)
    if python is None and not windows:
        python = next((prefix / "bin" / name for name in names(prefix / "bin") if _NAMED.fullmatch(name)), None)
    config = prefix / "pyvenv.cfg"
    if config.is_file():
        return _venv(prefix, python, config, windows, runner)
    if python is None:
        return None
    return _installation(python, prefix, windows, runner)


def of_interpreter(python: Path, runner: Runner, again: bool = False) -> Layout | None:
    """The Python that an interpreter is; None where nothing tells.

    A venv is recognized by the pyvenv.cfg beside the interpreter or above it, links not followed, as CPython does.
    """
    folder = python.parent
    windows = python.suffix.lower() == ".exe"
    for prefix in (folder, folder.parent):
        if (prefix / "pyvenv.cfg").is_file():
            return _venv(prefix, python, prefix / "pyvenv.cfg", windows, runner)
    if windows:
        return _installation(python, folder, True, runner)
    for start in (python, Path(os.path.realpath(python))):
        prefix = _prefix(start.parent)
        if start.parent.name == "bin" and (_stdlib(prefix) or _conda_version(prefix)):
            return _installation(python, prefix, False, runner)
    asked = _asked(python, runner)
    if asked is None:
        return None
    version, prefix, real = asked
    if not again and real.is_file() and real.parent != python.parent:  # a shim or a script that starts another one
        return of_interpreter(real, runner, again=True)
    return Layout("system", prefix, prefix, _minor(version), version, python)


def parse_pyvenv(content: str) -> dict[str, str]:
    """The keys of a pyvenv.cfg, lower-cased, as site.py reads them: ``home = /usr/bin``."""
    pairs = (line.partition("=") for line in content.splitlines() if "=" in line)
    return {key.strip().lower(): value.strip() for key, _, value in pairs}


def _venv(prefix: Path, python: Path | None, config: Path, windows: bool, runner: Runner) -> Layout:
    known = parse_pyvenv(text(config, LARGEST) or "")
    base = _base(Path(known["home"]), windows) if known.get("home") else prefix
    recorded = next((known[key] for key in ("version_info", "version") if re.match(r"3\.\d", known.get(key, ""))), None)
    recorded = ".".join(recorded.split(".")[:3]) if recorded else None
    gone = python is None or not python.exists()
    running = None if gone or python is None else _running(python, base, windows)
    if running is None and recorded is None and python is not None and not gone:
        asked = _asked(python, runner)
        running = _minor(asked[0]) if asked else None
    own = _minor(recorded)
    minor = running or own or next(iter(_versions(prefix)), None)
    return Layout(
        kind="conda" if _conda_version(prefix) else "venv",
        prefix=prefix,
        base=base,
        minor=minor,
        version=recorded if minor == own else _patch(base, minor) or minor,
        python=python,
        # Without the key CPython takes it for true.
        system_site=known.get("include-system-site-packages", "true").lower() == "true",
        gone=gone,
        made_for=own if own and minor != own else None,
        windows=windows,
    )


def _installation(python: Path, prefix: Path, windows: bool, runner: Runner) -> Layout:
    conda = _conda_version(prefix)
    minor = _minor(conda) or _running(python, prefix, windows)
    version = conda or _patch(prefix, minor)
    if minor is None:
        asked = _asked(python, runner)
        version, minor = (asked[0], _minor(asked[0])) if asked else (None, None)
    kind: Literal["conda", "system"] = "conda" if (prefix / "conda-meta").is_dir() else "system"
    gone = not python.exists()
    return Layout(kind, prefix, prefix, minor, version or minor, python, gone=gone, windows=windows)


def _running(python: Path, base: Path, windows: bool) -> str | None:
    """The version of the interpreter that a link leads to, by its name, by its DLL, or by its standard library."""
    real = Path(os.path.realpath(python))
    named = _NAMED.fullmatch(real.name)
    if named:
        return named[1]
    if windows:
        folders = (real.parent, base)
        found = [f"3.{match[1]}" for one in folders for name in names(one) if (match := _DLL.fullmatch(name))]
        return next(iter(found), None)
    known = list(_stdlib(real.parent.parent)) or list(_stdlib(base))
    return known[0] if len(known) == 1 else None


def _base(home: Path, windows: bool) -> Path:
    """The prefix of the Python in ``home``, which holds its interpreter: links are followed where that is not it."""
    if windows:
        return home
    if home.name == "bin" and not any(_stdlib(_prefix(home))):
        for name in ("python3", "python"):
            real = Path(os.path.realpath(home / name))
            if real.parent.name == "bin" and any(_stdlib(real.parent.parent)):
                return real.parent.parent
    return _prefix(home) if home.name == "bin" else home


def _prefix(folder: Path) -> Path:
    """The prefix of a folder bin. Where /bin is a link to /usr/bin, that is /usr and not the root."""
    return folder.parent if folder.parent != Path("/") else Path(os.path.realpath(folder)).parent


def _stdlib(prefix: Path) -> tuple[str, ...]:
    """The versions whose standard library lies below a prefix."""
    return tuple(one for one in _versions(prefix) if any(_is_library(folder) for folder in _libraries(prefix, one)))


def _libraries(prefix: Path, minor: str) -> Iterator[Path]:
    for library in ("lib", "lib64"):
        for suffix in ("", "t"):
            yield prefix / library / f"python{minor}{suffix}"


def _is_library(folder: Path) -> bool:
    return (folder / "os.py").is_file() or (folder / "os.pyc").is_file()


def _versions(prefix: Path) -> list[str]:
    there = {*names(prefix / "lib"), *names(prefix / "lib64")}
    found = {match[1] for name in there if (match := _FOLDER.fullmatch(name))}
    return sorted(found, key=lambda one: int(one.partition(".")[2]))


def _conda_version(prefix: Path) -> str | None:
    """The Python that conda's own record says was installed: conda-meta/python-3.11.9-h955ad1f_0.json."""
    return next((match[1] for name in names(prefix / "conda-meta") if (match := _CONDA.fullmatch(name))), None)


def _patch(prefix: Path, minor: str | None) -> str | None:
    """The full version, where Python's headers lie beside it; pyenv and uv name it in the folder as well."""
    if minor is None:
        return None
    for folder in (f"python{minor}", f"python{minor}t"):
        match = _PATCH.search(text(prefix / "include" / folder / "patchlevel.h", LARGEST) or "")
        if match and _minor(match[1]) == minor:
            return match[1]
    named = re.search(rf"(?<![\d.]){re.escape(minor)}\.\d{{1,3}}(?![\d.])", prefix.name)
    return named[0] if named else None


def _minor(version: str | None) -> str | None:
    return ".".join(version.split(".")[:2]) if version else None


def _asked(python: Path, runner: Runner) -> tuple[str, Path, Path] | None:
    """Version, base prefix and executable as the interpreter says, with none of its packages started (-I -S)."""
    try:
        finished = runner.run(Command((str(python), "-I", "-S", "-c", _ASK), timeout=LIMIT))
        if not finished.ok:
            return None
        version, prefix, executable = msgspec.json.decode(finished.stdout, type=tuple[str, str, str])
    except (OSError, ValueError, msgspec.MsgspecError):
        return None
    return (version, Path(prefix), Path(executable)) if re.match(r"3\.\d", version) else None
