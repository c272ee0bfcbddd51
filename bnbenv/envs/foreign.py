"""An environment that others made (a venv, virtualenv or conda environment), read where it lies.

Not one byte of it is changed by reading: its Python is started once, without its packages and without writing bytecode,
and all the rest is read from files.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bnbenv.envs.lockfile import normalized
from bnbenv.envs.project import Project, env_python, site_packages
from bnbenv.envs.trust import check_files
from bnbenv.errors import Failed, UsageError
from bnbenv.matrix.installed import Distribution, parse_metadata
from bnbenv.paths import expand
from bnbenv.process import Command, Runner

LIMIT = 20.0  # seconds for an interpreter to say its version: on a cold network disk that takes a while
HEAD = 1 << 16  # bytes of a METADATA's head

# -I alone would not keep it from writing bytecode: it passes over PYTHONDONTWRITEBYTECODE.
_ASK = ("-I", "-S", "-B", "-c", "import sys; print(sys.version.split()[0])")

_NAMED_BY_CONDA = {"pytorch": "torch"}
_CONDA_FILE = re.compile(r"(?P<name>.+)-(?P<version>[^-]+)-(?P<build>[^-]+)\.json")
_EXTRA = re.compile(r";.*\bextra\s*==")
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_OUR_PROJECT = (".bnbenv", "generations")


@dataclass(frozen=True)
class Dist:
    """An installed distribution by its normalized name. ``requires``: the names that it needs, extras left out.

    ``place`` is where it was installed from if that was no index: a folder, a file or a repository (PEP 610).
    """

    name: str
    version: str | None
    requires: tuple[str, ...] = ()
    place: str | None = None


@dataclass(frozen=True)
class Foreign:
    """The environment: its folder without links, its Python's minor and full version, and what is installed in it.

    ``only_conda`` are the names of what conda installed and Python knows nothing of; ``conda_files`` its own notes of
    torch, bitsandbytes and Python, relative to the folder. ``below``: packages of the Python below it count too.
    """

    prefix: Path
    kind: Literal["venv", "conda"]
    python: str
    version: str
    site: Path
    dists: tuple[Dist, ...]
    only_conda: tuple[str, ...] = ()
    conda_files: tuple[str, ...] = ()
    below: bool = False

    def version_of(self, name: str) -> str | None:
        """The version of a distribution by its normalized name; None where it is not there."""
        return next((one.version for one in self.dists if one.name == name), None)

    @property
    def names(self) -> frozenset[str]:
        return frozenset(one.name for one in self.dists)


def read_foreign(word: str, cwd: Path, project: Project, environ: Mapping[str, str], runner: Runner) -> Foreign:
    """The environment that ``word`` names: its folder, or its Python.

    Raises UsageError for what is none, cannot be read, or is not to be trusted; Failed where its Python does not run.
    """
    prefix = _prefix(word, cwd)
    kind = _kind(prefix, word)
    python = env_python(prefix)
    try:
        check_files([prefix, python.parent], project, environ)
    except UsageError as error:
        who = error.message.partition(", and what")[0]
        raise UsageError(error.code, f"{who}, and its Python would be run as this user", error.next_step) from None
    if not python.exists():
        gone = f"leads to {os.path.realpath(python)}, which is gone" if python.is_symlink() else "is not there"
        message = f"{prefix} has no Python: {python} {gone}"
        raise Failed("no-python", message, f"See what is left of it: bnbenv doctor {prefix}")
    version = _version(python, runner)
    site = site_packages(prefix)
    minor = ".".join(version.split(".")[:2])
    if site is None or site.parent.name.rstrip("t") not in (f"python{minor}", "Lib"):
        step = f"See what is in it: bnbenv doctor {prefix}"
        raise Failed("no-site-packages", f"{prefix} has no packages for its Python {version}", step)
    dists = read_distributions(site)
    installed, known = _by_conda(prefix, dists)
    return Foreign(prefix, kind, minor, version, site, dists, installed, known, _lets_in(prefix))


def _prefix(word: str, cwd: Path) -> Path:
    """The folder of the environment. Raises UsageError."""
    path = Path(os.path.normpath(cwd / expand(word)))
    try:
        if not os.path.lexists(path):
            raise UsageError(
                "no-environment", f"{path} does not exist", "Name the folder of a venv or conda environment."
            )
        if not path.is_dir() and path.name.startswith("python"):  # its link is not followed: it leads out of a venv
            path = path.parent.parent
        if not path.is_dir():
            message = f"{word[:200]} is no Python environment: it is no folder"
            raise UsageError("not-an-environment", message, "Name the folder of a venv or conda environment.")
        real = Path(os.path.realpath(path))
        str(real).encode()  # it is written into a record
        os.listdir(real)
    except UnicodeEncodeError:
        message = f"{word[:200]} cannot be adopted: its name is no UTF-8 text"
        raise UsageError("not-readable", message, "Give the folder another name.") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        message = f"{word[:200]} cannot be read ({reason.lower()})"
        raise UsageError("not-readable", message, "Adopt it as the user whose environment it is.") from None
    return real


def _kind(prefix: Path, word: str) -> Literal["venv", "conda"]:
    """What kind of environment it is. Raises UsageError for one of bnbenv's own, and for what is none."""
    if prefix.name.isdecimal() and prefix.parent.parent.parts[-2:] == _OUR_PROJECT:
        root, env = prefix.parents[3], prefix.parent.name
        message = f"{prefix} is generation {prefix.name} of the environment {env}, which bnbenv made in {root}"
        raise UsageError("of-bnbenv", message, f"Use it there: bnbenv check --project {root} --env {env}")
    if (prefix / "conda-meta").is_dir():
        return "conda"
    if (prefix / "pyvenv.cfg").is_file():
        return "venv"
    if env_python(prefix).exists() or (prefix / "bin" / "python3").exists():
        message = f"{prefix} is a Python installation and no environment: what bnbenv adopts can be left again"
        step = 'To use the torch that is in it, set torch = "keep" in bnbenv.toml, then run: bnbenv sync'
        raise UsageError("not-an-environment", message, step)
    message = f"{word[:200]} is no Python environment: it holds neither pyvenv.cfg nor conda-meta"
    raise UsageError("not-an-environment", message, "Name the folder of a venv or conda environment.")


def _version(python: Path, runner: Runner) -> str:
    """The full version that an interpreter says. Raises Failed where it does not run."""
    said = ""
    try:
        finished = runner.run(Command((str(python), *_ASK), LIMIT))
        version = finished.stdout.strip()
        if finished.ok and re.fullmatch(r"3\.\d{1,3}\.\d{1,3}\S{0,20}", version):
            return re.sub(r"[^\d.].*", "", version)
        said = finished.stderr.strip()
        reason = "it does not answer" if finished.timed_out else f"exit {finished.returncode}"
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
    step = f"See what is wrong with it: bnbenv doctor {python.parent.parent}"
    raise Failed("broken-python", f"{python} does not run ({reason})", step, said[-2000:])


def _lets_in(prefix: Path) -> bool:
    """Whether a venv lets the packages of the Python below it in."""
    found = re.search(r"^\s*include-system-site-packages\s*=\s*true\s*$", _text(prefix / "pyvenv.cfg"), re.M | re.I)
    return found is not None


# ---- distributions -----------------------------------------------------------------------------------------------


def read_distributions(site: Path) -> tuple[Dist, ...]:
    """What is installed in a folder of packages, by name; of one that is there twice, the first. Raises UsageError."""
    try:
        entries = sorted(os.listdir(site))
    except OSError as error:
        message = f"{site} cannot be read ({(error.strerror or '').lower()})"
        raise UsageError("not-readable", message, "Adopt it as the user whose environment it is.") from None
    found: dict[str, Dist] = {}
    for entry in entries:
        stem, _, kind = entry.rpartition(".")
        if kind not in ("dist-info", "egg-info") or not _NAME.match(stem):
            continue
        one = _distribution(site / entry, stem)
        found.setdefault(one.name, one)
    return tuple(found[name] for name in sorted(found))


def _distribution(path: Path, stem: str) -> Dist:
    file = path / ("METADATA" if path.suffix == ".dist-info" else "PKG-INFO")
    known = parse_metadata(_head(_text(file if path.is_dir() else path)))
    name, _, version = stem.partition("-")
    return Dist(normalized(name), known.version or _written(version), _needs(known), _place(path))


def _written(version: str) -> str | None:
    """The version in a folder's name; egg-info names go on with the Python: ``1.0-py3.11``."""
    from bnbenv.matrix.rows import is_version

    text = version.partition("-")[0]
    return next((one for one in (text, text.replace("_", "+", 1)) if is_version(one)), None)


def _needs(known: Distribution) -> tuple[str, ...]:
    names = (found[0] for one in known.requires_dist if not _EXTRA.search(one) and (found := _NAME.match(one.strip())))
    return tuple(dict.fromkeys(map(normalized, names)))


def _place(path: Path) -> str | None:
    """Where it was installed from, if that was no index. conda builds its packages from folders that nobody has."""
    if _text(path / "INSTALLER").strip() == "conda":
        return None
    try:
        document = json.loads(_text(path / "direct_url.json"))
        url = document["url"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return url if isinstance(url, str) else None


def _head(text: str) -> str:
    """The headers of a METADATA, without the description below them."""
    return re.split(r"\r?\n\r?\n", text, maxsplit=1)[0]


def _text(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return stream.read(HEAD).decode("utf-8", "replace")
    except OSError:
        return ""


def _by_conda(prefix: Path, dists: Iterable[Dist]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What conda alone knows of, and its notes of the packages that decide which kernels run."""
    try:
        entries = sorted(os.listdir(prefix / "conda-meta"))
    except OSError:
        return (), ()
    names = {one.name for one in dists}
    only, notes = [], []
    for entry in entries:
        found = _CONDA_FILE.fullmatch(entry)
        if found is None:
            continue
        name = _NAMED_BY_CONDA.get(found["name"], normalized(found["name"]))
        if name in ("python", "torch", "libtorch", "bitsandbytes"):
            notes.append(f"conda-meta/{entry}")
        if name != "python" and name not in names:
            only.append(found["name"])
    return tuple(only), tuple(notes)


# ---- what of it people asked for ---------------------------------------------------------------------------------


def roots(dists: Iterable[Dist], leave_out: Iterable[str]) -> tuple[str, ...]:
    """The distributions that nothing else requires: what people asked for. Pure.

    ``leave_out`` counts as asked for otherwise, with all that it requires. Of some that require each other in a ring,
    the first by name is taken.
    """
    known = {one.name: one for one in dists}
    out = frozenset(leave_out)
    needed = {name for one in known.values() for name in one.requires if name != one.name}
    found: list[str] = []
    reached: set[str] = set()
    waiting = [*(out & known.keys()), *sorted(known.keys() - needed - out)]
    for name in (*waiting, *sorted(known)):
        if name in reached:
            continue
        if name not in out:
            found.append(name)
        below = [name]
        while below:
            one = below.pop()
            if one not in reached and one in known:
                reached.add(one)
                below += known[one].requires
    return tuple(sorted(found))
