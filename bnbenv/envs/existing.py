"""The torch that is there: in an active environment, a cluster's module, a container, or next to an interpreter.

It is found without importing it, by where interpreters keep packages, and measured where it lies. The first one found
is the one that is kept: the order is that in which a user would meet it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from bnbenv.envs.project import Project, env_python
from bnbenv.errors import BnbenvError
from bnbenv.facts.model import HostFacts, Python
from bnbenv.matrix.installed import read_installed_torch
from bnbenv.paths import expand, user_home
from bnbenv.process import Command, Runner
from bnbenv.solve.model import Existing

LIMIT = 5.0  # seconds for an interpreter that has to be asked where its packages are

_VERSION = re.compile(r"^\s*version(?:_info)?\s*=\s*(3\.\d{1,3}(?:\.\d{1,3})?)", re.MULTILINE)
_TAG = re.compile(r"cp3(\d{1,3})t?")
_ASK = "import json, site, sysconfig; print(json.dumps([sysconfig.get_path('platlib'), *site.getsitepackages()]))"


class Place(NamedTuple):
    """A folder of packages, what it is called when nothing was found there, and the Python it is for, if known: its
    version, and the path of its interpreter."""

    folder: Path
    called: str
    python: str | None = None
    interpreter: str | None = None


def find_existing(
    environ: Mapping[str, str], facts: HostFacts, runner: Runner, project: Project | None = None
) -> tuple[Existing | None, str]:
    """The torch that is there, or None and where it was looked for (or why the one found cannot be judged)."""
    found, _, why = first_torch(places(environ, facts, runner, project), facts)
    return found, why


def first_torch(looked_in: Iterable[Place], facts: HostFacts) -> tuple[Existing | None, Place | None, str]:
    """The first torch of some places and where it is; or why there is none, or why that one cannot be judged."""
    looked: dict[str, None] = {}
    for place in looked_in:
        looked[place.called] = None
        try:
            build = read_installed_torch(place.folder)
        except (BnbenvError, OSError) as error:
            return None, place, f"the torch in {place.folder} cannot be judged ({error})"
        if build is not None:
            return Existing(build, _python_of(build.pythons, place.python, facts)), place, ""
    seen = f"looked in {', '.join(looked)}" if looked else "there is no Python to look beside"
    named = {"VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONPATH"} & set(looked)
    return None, None, seen if named else f"{seen} (VIRTUAL_ENV, CONDA_PREFIX or PYTHONPATH can name another place)"


def _python_of(tags: tuple[str, ...], hint: str | None, facts: HostFacts) -> str:
    """The version of the Python that a torch is for: its tag says the minor, the place or the facts the rest."""
    match = _TAG.fullmatch(tags[0])
    minor = f"3.{match[1]}" if match else hint or "3"
    known = [hint, *(python.version for python in facts.pythons)]
    return next((text for text in known if text and text.startswith(f"{minor}.")), minor)


def places(environ: Mapping[str, str], facts: HostFacts, runner: Runner, project: Project | None) -> Iterator[Place]:
    """Where torch may lie, in the order in which it is looked for."""
    for name in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        if environ.get(name):
            yield from of_prefix(expand(environ[name]), name)
    for entry in environ.get("PYTHONPATH", "").split(os.pathsep):
        if entry:
            yield Place(expand(entry), "PYTHONPATH")
    for python in facts.pythons:
        yield from _of_interpreter(python, environ, runner)
    if project is not None:
        for env in project.envs_made():
            yield from of_prefix(project.link(env), f"the environment {env}")


def of_prefix(prefix: Path, called: str) -> Iterator[Place]:
    """The packages of an environment, then those of the Python below it where it lets them in."""
    config = _text(prefix / "pyvenv.cfg")
    match = _VERSION.search(config)
    python = str(env_python(prefix))
    for folder in _folders(prefix):
        yield Place(folder, called, match[1] if match else None, python)
    home = re.search(r"^\s*home\s*=\s*(\S.*?)\s*$", config, re.MULTILINE)
    if home and re.search(r"^\s*include-system-site-packages\s*=\s*true\s*$", config, re.MULTILINE | re.IGNORECASE):
        base = Path(home[1])
        for folder in _beside(base.parent if base.name == "bin" else base):
            yield Place(folder, called, match[1] if match else None, python)


def _of_interpreter(python: Python, environ: Mapping[str, str], runner: Runner) -> Iterator[Place]:
    """The packages of an interpreter: its user's own, then those beside it; asked only where the layout is unusual."""
    path, called = Path(python.path), f"the packages of Python {python.version}"
    if not path.is_file():
        return
    minor = ".".join(python.version.split(".")[:2])
    if not environ.get("PYTHONNOUSERSITE"):
        base = expand(environ["PYTHONUSERBASE"]) if environ.get("PYTHONUSERBASE") else user_home() / ".local"
        for folder in _folders(base, minor):
            yield Place(folder, called, python.version, python.path)
    found = _beside(path.parent.parent if path.parent.name == "bin" else path.parent, minor)
    for folder in found or _asked(path, runner):
        yield Place(folder, called, python.version, python.path)


def _beside(prefix: Path, minor: str | None = None) -> list[Path]:
    """The folders of packages of an installation; Debian's Python in /usr has further ones of its own."""
    local = _folders(prefix / "local", minor) if prefix == Path("/usr") else []
    shared = [prefix / "lib" / "python3" / "dist-packages"]
    return [*local, *_folders(prefix, minor), *(folder for folder in shared if folder.is_dir())]


def _folders(prefix: Path, minor: str | None = None) -> list[Path]:
    """site-packages and dist-packages below a prefix, of one Python or of each."""
    found = [prefix / "Lib" / "site-packages"] if os.name == "nt" else []
    for library in ("lib", "lib64"):
        try:
            names = sorted(os.listdir(prefix / library))
        except OSError:
            continue
        wanted = [name for name in names if name == f"python{minor}" or (minor is None and name.startswith("python3."))]
        found += [prefix / library / name / kind for name in wanted for kind in ("site-packages", "dist-packages")]
    resolved = {os.path.realpath(folder): folder for folder in reversed(found) if folder.is_dir()}
    return list(reversed(resolved.values()))


def _asked(interpreter: Path, runner: Runner) -> list[Path]:
    """Where an interpreter itself says that its packages are; nowhere if it does not answer in time."""
    try:
        finished = runner.run(Command((str(interpreter), "-I", "-c", _ASK), timeout=LIMIT))
        words = msgspec.json.decode(finished.stdout, type=list[str]) if finished.ok else []
    except (OSError, msgspec.MsgspecError):
        return []
    return [Path(word) for word in dict.fromkeys(words)]


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
