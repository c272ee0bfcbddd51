"""Which environment a model is loaded in, and which releases are installed there. No process is started."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from bnbenv.envs.check import in_use
from bnbenv.envs.keep.observe import versions_below
from bnbenv.envs.project import DEFAULT_ENV, Project, env_python, site_packages
from bnbenv.errors import Failed, UsageError


class Environment(NamedTuple):
    """An environment's Python and the versions of what is installed, by normalized name.

    ``closed``: nothing but what lies in it can be imported there, so what is missing in ``versions`` is not there.
    ``env`` is its name in the project, None for one that was named by its path. ``changes`` are for processes of it.
    """

    python: Path
    versions: Mapping[str, str]
    closed: bool
    env: str | None = None
    changes: Mapping[str, str | None] = {}

    def version(self, name: str) -> str | None:
        return self.versions.get(name)


def environment(
    project: Project | None, env: str | None, python: Path | None, environ: Mapping[str, str]
) -> Environment:
    """The environment that was named by its Python (or folder), else the project's.

    Raises UsageError (no such Python), Failed ``no-environment`` where the project has none yet.
    """
    if python is not None:
        return _named(python, environ)
    assert project is not None
    name = env or DEFAULT_ENV
    use = in_use(project, name)
    if use.record is None or use.prefix is None:
        because = use.problem.because if use.problem else f"there is no environment {name}"
        raise Failed("no-environment", because, "Make it with: bnbenv sync, or name another one with --python PATH")
    below = [str(folder) for folder in (use.record.base or {}).get("folders", ())]
    # Nothing is written into one that was adopted, not even bytecode.
    changes: dict[str, str | None] = {"PYTHONDONTWRITEBYTECODE": "1"} if use.record.adopted or use.record.base else {}
    versions = _versions([*map(str, _sites(use.prefix)), *below])
    closed = not below and use.record.adopted is None and not environ.get("PYTHONPATH")
    return Environment(env_python(project.link(name)), versions, closed, name, changes)


def _named(path: Path, environ: Mapping[str, str]) -> Environment:
    """Links are kept: a virtual environment's Python is one."""
    if path.is_dir():
        path = env_python(path)
    if not path.is_file():
        raise UsageError("no-such-python", f"there is no Python {path}", "Give the path of an environment's Python.")
    prefix = path.parent if os.name == "nt" and path.parent.name.lower() != "scripts" else path.parent.parent
    return Environment(path, _versions(map(str, _sites(prefix))), _is_closed(prefix, environ))


def _is_closed(prefix: Path, environ: Mapping[str, str]) -> bool:
    """Whether it is a virtual environment that shows nothing of the Python below it."""
    try:
        text = (prefix / "pyvenv.cfg").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    open_ = re.search(r"^\s*include-system-site-packages\s*=\s*true\s*$", text, re.M | re.I)
    return open_ is None and not environ.get("PYTHONPATH")


def _sites(prefix: Path) -> Iterator[Path]:
    """The folders of packages of a Python; Debian's own has two of another name."""
    found = site_packages(prefix)
    if found is not None:
        yield found
    for folder in (prefix / "local" / "lib", prefix / "lib"):
        yield from sorted(folder.glob("python3*/dist-packages"))


def _versions(folders: Iterator[str] | list[str]) -> dict[str, str]:
    """By normalized name; what is found first counts, as in an import."""
    found = versions_below(folders, "")
    if found["torch"] == "of no known version":
        del found["torch"]
    return found
