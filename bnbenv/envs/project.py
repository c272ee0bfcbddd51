"""Where a project's files are. Standard library only: the fast path imports this."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from bnbenv.errors import InputError, UsageError
from bnbenv.paths import config_home, data_home, expand

CONFIG = "bnbenv.toml"
DEFAULT_ENV = "bnb"
ADOPTED = 0  # the number of the generation that is an environment made by others

_ENV_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")


class Project(NamedTuple):
    """A folder with environments: ``root`` holds the links and locks, ``config`` is its bnbenv.toml (may be absent)."""

    root: Path
    config: Path
    user: bool = False

    @property
    def home(self) -> Path:
        """bnbenv's own folder: generations, the lock against a second bnbenv, logs."""
        return self.root / ".bnbenv"

    @property
    def unpacked(self) -> Path:
        """Where files of a bundle lie while a sync installs from it."""
        return self.home / "bundle"

    @property
    def switching(self) -> Path:
        """What several environments are being switched to, from that moment until they are."""
        return self.home / "switching.json"

    def link(self, env: str) -> Path:
        """The link to the generation in use."""
        return self.root / f".venv-{env}"

    def lock(self, env: str) -> Path:
        """The PEP 751 lock."""
        return self.root / f"pylock.{env}.toml"

    def generations(self, env: str) -> Path:
        return self.home / "generations" / env

    def envs_made(self) -> tuple[str, ...]:
        """The names of the environments that have generations."""
        try:
            return tuple(sorted(entry.name for entry in os.scandir(self.home / "generations") if entry.is_dir()))
        except OSError:
            return ()


def find_project(cwd: Path, environ: Mapping[str, str], explicit: str | None = None) -> Project:
    """The project of a folder: ``--project``, else the nearest folder with a bnbenv.toml, else the user's own.

    Raises UsageError if ``explicit`` is no folder.
    """
    if explicit is not None:
        root = (cwd / expand(explicit)).resolve()
        if not explicit or not root.is_dir():
            what = f"{root} is not a folder" if explicit else "--project: expected a folder, found nothing"
            raise UsageError("no-project", what, "Create it first, or name another one.")
        return Project(root, root / CONFIG)
    for folder in (cwd, *cwd.parents):
        if os.path.lexists(folder / CONFIG):  # whatever it is: what cannot be read is told, not passed over
            return Project(folder, folder / CONFIG)
    return Project(data_home(environ) / "default", config_home(environ) / CONFIG, user=True)


def check_env_name(name: str, file: str, where: str) -> str:
    """An environment's name as it may stand in file names. Raises InputError."""
    if not _ENV_NAME.fullmatch(name):
        raise InputError(file, where, f'expected letters, digits, "-" and "_", found "{name[:60]}"')
    return name


def env_python(prefix: Path) -> Path:
    """The interpreter of an environment."""
    return prefix / "Scripts" / "python.exe" if os.name == "nt" else prefix / "bin" / "python"


def site_packages(prefix: Path) -> Path | None:
    """The environment's site-packages, or None where there is none."""
    if os.name == "nt":
        folder = prefix / "Lib" / "site-packages"
        return folder if folder.is_dir() else None
    try:
        names = sorted(name for name in os.listdir(prefix / "lib") if name.startswith("python"))
    except OSError:
        return None
    found = [folder for name in names if (folder := prefix / "lib" / name / "site-packages").is_dir()]
    if len(found) > 1:  # of an environment that others upgraded to another Python in place; conda adds a link python3.1
        real = os.path.basename(os.path.realpath(env_python(prefix)))  # noqa: PTH119 - quicker
        found.sort(key=lambda folder: folder.parent.name != real)
    return found[0] if found else None
