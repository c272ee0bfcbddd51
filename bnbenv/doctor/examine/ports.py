"""What an examination is given: which environment is meant, and the ways to look at the machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bnbenv.envs.project import Project
from bnbenv.paths import Sysroot
from bnbenv.process import Runner


@dataclass(frozen=True)
class Where:
    """Which environment is meant: ``path``, else ``env`` of ``project``, else the one that is found in use.

    ``path`` is a folder (venv, conda, a Python's prefix) or an interpreter, relative to ``cwd``. With nothing given it
    is the project's environment in use (``bnb`` before others), else VIRTUAL_ENV, CONDA_PREFIX, the python on PATH that
    has torch or bitsandbytes, else none. ``cwd`` is the folder in which the program that failed would be started.
    """

    cwd: Path
    project: Project | None = None
    env: str | None = None
    path: str | None = None


@dataclass(frozen=True)
class Ports:
    """The effects of an examination: the environment's variables, programs, system files, the user's home folder.

    Everything of the system (/proc, /sys, /dev, /etc, /usr/lib/wsl, C:/Windows) is read below ``sysroot``; the
    environment that is examined and ``home`` are paths as they are.
    """

    environ: Mapping[str, str]
    runner: Runner
    sysroot: Sysroot
    home: Path
