"""Which environment loads the model, and what is installed in it: read from files, no Python is started."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import msgspec

from bnbenv.envs.check import in_use
from bnbenv.envs.project import DEFAULT_ENV, Project, env_python
from bnbenv.errors import Failed, UsageError

PACKAGES: Final = ("torch", "bitsandbytes", "transformers", "accelerate", "safetensors", "peft")


class Environment(msgspec.Struct, frozen=True):
    """An environment that models are loaded in.

    ``python`` is its interpreter, ``called`` what it is in words ("the environment bnb"), ``versions`` those of
    ``PACKAGES`` that are installed. ``untouched``: nothing is to be written into it, not even bytecode.
    """

    python: Path
    called: str
    versions: Mapping[str, str]
    untouched: bool = False

    @property
    def transformers(self) -> str | None:
        return self.versions.get("transformers")

    def require(self, *packages: str) -> None:
        """Raises Failed (``missing-packages``) where one of these is not installed in it."""
        missing = [name for name in packages if name not in self.versions]
        if missing:
            step = f"Add to requirements in bnbenv.toml: {', '.join(missing)}; then run: bnbenv sync"
            raise Failed("missing-packages", f"{self.called} has no {' and no '.join(missing)}", step)


def find_environment(
    project: Project, cwd: Path, environ: Mapping[str, str], env: str | None = None, python: str | None = None
) -> Environment | None:
    """The environment that is meant, or None where there is none.

    ``python`` names an interpreter or a folder, ``env`` an environment of the project. With neither: the project's
    ``bnb``, else the environment that is activated (VIRTUAL_ENV, CONDA_PREFIX), else the one that bnbenv runs in,
    where transformers is installed there.
    Raises UsageError (``no-such-python``), Failed (``no-environment``, for one that was asked for).
    """
    from bnbenv.paths import expand

    if python is not None:
        path = cwd / expand(python)
        if path.is_dir():
            path = env_python(path)
        if not path.is_file():
            message = f"there is no Python {path}"
            raise UsageError("no-such-python", message, "Give the path of an environment's Python.")
        return _environment(path, str(path))
    use = in_use(project, env or DEFAULT_ENV)
    if use.record is not None:
        untouched = bool(use.record.adopted or use.record.base)
        name = env or DEFAULT_ENV
        return _environment(env_python(project.link(name)), f"the environment {name}", untouched)
    if env is not None:
        because = use.problem.because if use.problem else f"there is no environment {env}"
        raise Failed("no-environment", because, "Make it with: bnbenv sync, or name another one with --python PATH")
    for prefix in _active(environ):
        found = _environment(env_python(prefix), str(prefix), untouched=True)
        if found.transformers is not None:
            return found
    return None


def _active(environ: Mapping[str, str]) -> Iterator[Path]:
    for name in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        if environ.get(name) and env_python(Path(environ[name])).is_file():
            yield Path(environ[name])
    yield Path(sys.prefix)


def _environment(python: Path, called: str, untouched: bool = False) -> Environment:
    return Environment(python, called, _versions(python.parent.parent), untouched)


def _versions(prefix: Path) -> dict[str, str]:
    """The first of each in the order in which its Python finds them: its own, then those of the Python below it."""
    from bnbenv.envs.existing import of_prefix

    found: dict[str, str] = {}
    for place in of_prefix(prefix, ""):
        try:
            names = sorted(os.listdir(place.folder))
        except OSError:
            continue
        for name in names:
            stem, _, ending = name.rpartition(".")
            package, _, version = stem.partition("-")
            if ending == "dist-info" and package.lower() in PACKAGES and version:
                found.setdefault(package.lower(), version)
    return found
