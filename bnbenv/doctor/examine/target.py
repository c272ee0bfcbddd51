"""Which environment is examined: the one that is named, or the one that a program started here would run in."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from bnbenv.doctor.examine.files import names, text
from bnbenv.doctor.examine.layout import Layout, of_interpreter, of_prefix
from bnbenv.doctor.examine.ports import Ports, Where
from bnbenv.doctor.examine.search import Search, search_of
from bnbenv.doctor.model import Target
from bnbenv.envs.check import in_use
from bnbenv.envs.project import DEFAULT_ENV, Project
from bnbenv.errors import UsageError
from bnbenv.facts.model import Unknown
from bnbenv.paths import expand

LARGEST = 4096  # bytes of a .python-version
MOST = 64  # folders of PATH that are looked at


@dataclass(frozen=True)
class Found:
    """The environment, how its Python is laid out and what its imports go through; no layout: there is none."""

    target: Target
    layout: Layout | None = None
    search: Search = field(default_factory=Search)
    unknown: tuple[Unknown, ...] = ()


def find_target(where: Where, ports: Ports) -> Found:
    """The environment that is meant. Raises UsageError for one that is named and is not there."""
    if where.path is not None:
        return _found(_named(where.cwd / expand(where.path), where.path, ports), where, ports)
    if where.env is not None:
        if where.project is None:
            raise UsageError("no-project", f'there is no project with an environment "{where.env}"')
        layout = _of_env(where.project, where.env, ports)
        if layout is None:
            because = in_use(where.project, where.env).problem
            message = f"the environment {where.env} cannot be examined: {because.because if because else 'no Python'}"
            raise UsageError("no-environment", message, "Make it with: bnbenv sync")
        return _found(layout, where, ports)
    return _in_use(where, ports)


def _in_use(where: Where, ports: Ports) -> Found:
    """What a program started here would run in. One that holds neither torch nor bitsandbytes gives way to one that
    does: conda activates its base for everybody."""
    first: Found | None = None
    gaps: list[Unknown] = []
    for layout in _candidates(where, ports, gaps):
        found = _found(layout, where, ports)
        if found.target.kind == "bnbenv" or any(found.search.module(name) for name in ("torch", "bitsandbytes")):
            return Found(found.target, found.layout, found.search, (*found.unknown, *gaps))
        meant = found.target.kind in ("venv", "conda") and not _of_bnbenv_itself(layout, ports)
        first = first or (found if meant else None)
    if first is not None:
        return Found(first.target, first.layout, first.search, (*first.unknown, *gaps))
    return Found(Target(kind="none"), unknown=tuple(gaps))


def _of_bnbenv_itself(layout: Layout, ports: Ports) -> bool:
    """Where bnbenv was installed, and nobody activated it: it is on PATH for bnbenv's sake."""
    return os.path.realpath(layout.prefix) == os.path.realpath(sys.prefix) and not ports.environ.get("VIRTUAL_ENV")


def _candidates(where: Where, ports: Ports, gaps: list[Unknown]) -> Iterator[Layout]:
    """The Pythons that may be meant, in order. What is activated comes before the user's own environment."""
    project = where.project
    if project is not None and not project.user:
        yield from _of_project(project, ports, gaps)
    for variable in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        named = ports.environ.get(variable)
        layout = of_prefix(where.cwd / expand(named), ports.runner) if named else None
        if layout is not None:
            yield layout
        elif named:
            gaps.append(Unknown(f"target {variable}", f"{variable} is set to {named}, where no Python is"))
    if project is not None and project.user:
        yield from _of_project(project, ports, gaps)
    for python in _on_path(where.cwd, ports):
        layout = of_interpreter(python, ports.runner)
        if layout is not None:
            yield layout


def _of_project(project: Project, ports: Ports, gaps: list[Unknown]) -> Iterator[Layout]:
    for env in sorted(project.envs_made(), key=lambda name: (name != DEFAULT_ENV, name)):
        layout = _of_env(project, env, ports)
        if layout is not None:
            yield layout
        elif problem := in_use(project, env).problem:
            gaps.append(Unknown(f"target {env}", f"{problem.because} (to make it: bnbenv sync --env {env})"))


def _of_env(project: Project, env: str, ports: Ports) -> Layout | None:
    """The environment in use; a folder that somebody put in the place of its link is looked at as well."""
    prefix = in_use(project, env).prefix or project.link(env)
    return of_prefix(prefix, ports.runner)


def _named(path: Path, word: str, ports: Ports) -> Layout:
    """What the user named. Raises UsageError."""
    step = "Name a folder such as .venv, or an interpreter such as .venv/bin/python."
    try:
        layout = of_prefix(path, ports.runner) if path.is_dir() else None
        if layout is None and path.is_file():
            layout = of_interpreter(Path(os.path.normpath(path)), ports.runner)
        there = os.path.lexists(path)
    except PermissionError:
        because = f"this user may not look into {word[:200]}"
        raise UsageError("not-permitted", because, "Run it as the user who owns that folder.") from None
    except (OSError, ValueError):
        layout, there = None, False
    if layout is None:
        what = "is no Python environment and no interpreter" if there else "does not exist"
        raise UsageError("no-environment", f"{word[:200]} {what}", step)
    return layout


def _on_path(cwd: Path, ports: Ports) -> Iterator[Path]:
    """The interpreters on PATH, each folder's ``python`` before its ``python3``; behind pyenv's shim the real one."""
    windows = os.name == "nt"
    seen: set[str] = set()
    for entry in ports.environ.get("PATH", "").split(os.pathsep)[:MOST]:
        if not entry:
            continue
        folder = cwd / entry
        for name in ("python.exe", "python3.exe") if windows else ("python", "python3"):
            python: Path | None = folder / name
            try:
                if python is None or not python.is_file():
                    continue
                if folder.name == "shims":
                    python = _behind_shim(folder, cwd, ports)
            except OSError:
                continue
            real = os.path.realpath(python) if python else ""
            if python is not None and str(python.parent / real) not in seen:
                seen.add(str(python.parent / real))
                yield python


def _behind_shim(shims: Path, cwd: Path, ports: Ports) -> Path | None:
    """The interpreter that pyenv's shim would start: PYENV_VERSION, the nearest .python-version, the global version."""
    root = shims.parent
    files = [folder / ".python-version" for folder in (cwd, *cwd.parents)]
    words = ports.environ.get("PYENV_VERSION") or next(
        (found for file in (*files, root / "version") if (found := text(file, LARGEST))), ""
    )
    for word in re.split(r"[:\s]+", words.strip()):
        name = word.removeprefix("python-")
        for version in sorted(names(root / "versions"), key=_numbers, reverse=True) if name else ():
            if version == name or version.startswith(f"{name}."):
                python = root / "versions" / version / "bin" / "python"
                if python.exists():
                    return python
    return None


def _found(layout: Layout, where: Where, ports: Ports) -> Found:
    search = search_of(layout, ports.environ, ports.home, where.cwd)
    env = _bnbenv_name(layout.prefix)
    kind: Literal["bnbenv", "venv", "conda", "system"] = "bnbenv" if env else layout.kind
    own = next((folder.path for folder in search.folders if folder.where == "environment"), None)
    target = Target(
        kind=kind,
        python=str(layout.python) if layout.python else None,
        version=layout.version,
        prefix=str(layout.prefix),
        env=env,
        writable=own is not None and os.access(own, os.W_OK),
        search=search.paths,
    )
    gaps = [] if layout.minor else [Unknown("target.version", f"nothing in {layout.prefix} tells which Python it is")]
    return Found(target, layout, search, (*gaps, *search.unknown))


def _bnbenv_name(prefix: Path) -> str | None:
    """The environment's name where a prefix is one of bnbenv's generations (.bnbenv/generations/NAME/3)."""
    real = Path(os.path.realpath(prefix))
    if real.name.isdecimal() and real.parent.parent.name == "generations" and real.parents[2].name == ".bnbenv":
        return real.parent.name
    return None


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d{1,6}", version)]
