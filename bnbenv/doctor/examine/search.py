"""The folders that an import goes through, in the order in which CPython's site.py makes them.

PYTHONPATH comes first; then a venv's own packages, the user's (where a venv lets the system in, or there is no venv),
those of the Python below it. Each folder is followed by what its ``.pth`` files add. Nothing in those is executed: a
line of code in one is read only where it is known what it does.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bnbenv.doctor.examine.files import text
from bnbenv.doctor.examine.layout import Layout
from bnbenv.doctor.model import SearchPath
from bnbenv.facts.model import Unknown
from bnbenv.paths import exists, expand

LARGEST = 1 << 20  # bytes of a .pth file or of the finder of an editable install
MOST = 2000  # lines of a .pth file that are read

Kind = Literal["pythonpath", "environment", "user", "base", "added"]

# ``import __editable___bitsandbytes_0_50_0_finder; __editable___...install()``, as setuptools writes it.
_FINDER = re.compile(r"import (__editable__[A-Za-z0-9_]{1,200}_finder)\s*;")
_MAPPING = re.compile(r"^MAPPING\s*(?::[^=\n]*)?=\s*(\{[^\n]*\})\s*$", re.MULTILINE)
# ``import _bitsandbytes_editable``, as scikit-build-core writes it: install({modules}, {files}, ...)
_REDIRECT = re.compile(r"import (_[A-Za-z0-9_]{1,200}_editable|_editable_skbc_[A-Za-z0-9_]{1,200})\s*$")
_INSTALL = re.compile(r"^install\(\s*(\{[^\n]*?\}),", re.MULTILINE)


@dataclass(frozen=True)
class Folder:
    """A folder of ``sys.path`` with the names in it."""

    path: Path
    where: Kind
    names: tuple[str, ...]


@dataclass(frozen=True)
class Search:
    """``sys.path`` apart from the standard library.

    ``folders`` exist; ``editable`` maps a module's name to its folder where a finder leads there, after all folders.
    ``user_site`` is the user's folder where it is used, ``passed_over`` where it exists and is not used.
    """

    folders: tuple[Folder, ...] = ()
    editable: Mapping[str, Path] | None = None
    user_site: Path | None = None
    passed_over: Path | None = None
    unknown: tuple[Unknown, ...] = ()
    garbled: tuple[Path, ...] = ()

    @property
    def paths(self) -> tuple[SearchPath, ...]:
        return tuple(SearchPath(str(folder.path), folder.where) for folder in self.folders)

    def module(self, name: str) -> Path | None:
        """Where an import takes a package from; a folder without ``__init__.py`` only where there is no other."""
        bare = None
        for folder in self.folders:
            if name in folder.names:
                place = folder.path / name
                # As for Python, a folder into which this user may not look is one without __init__.py.
                if exists(place / "__init__.py") or exists(place / "__init__.pyc"):
                    return place
                bare = bare or (place if place.is_dir() else None)
        found = (self.editable or {}).get(name)
        return found or bare


def search_of(layout: Layout, environ: Mapping[str, str], home: Path, cwd: Path) -> Search:
    """The search path of a Python that is started with an environment in a folder. Nothing is raised."""
    builder = _Builder()
    if environ.get("PYTHONPATH"):
        # An empty entry, such as one after a last colon, is the current folder.
        for entry in environ["PYTHONPATH"].split(";" if layout.windows else os.pathsep):
            builder.add(cwd / entry, "pythonpath", site=False)
    venv = layout.prefix != layout.base
    if venv:
        for folder in site_folders(layout.prefix, layout.minor, layout.windows, venv=True):
            builder.add(folder, "environment")
    user = user_site(layout, environ, home)
    enabled = not environ.get("PYTHONNOUSERSITE") and (not venv or layout.system_site)
    if enabled and user is not None and user.is_dir():
        builder.add(user, "user")
    if not venv or layout.system_site:
        kind: Kind = "base" if venv else "environment"
        for folder in site_folders(layout.base, layout.minor, layout.windows, venv=False):
            builder.add(folder, kind)
    there = user if user is not None and user.is_dir() else None
    return builder.done(there if enabled else None, None if enabled else there)


def site_folders(prefix: Path, minor: str | None, windows: bool, venv: bool) -> list[Path]:
    """The site folders of a prefix, existing or not, in order; Debian's (dist-packages) and Fedora's (lib64) too."""
    if windows:
        return [prefix / "Lib" / "site-packages"]
    if minor is None:
        return []
    name = next(
        (one for one in (f"python{minor}", f"python{minor}t") if (prefix / "lib" / one).is_dir()), f"python{minor}"
    )
    debian = [
        prefix / "local" / "lib" / name / "dist-packages",
        prefix / "lib" / "python3" / "dist-packages",
        prefix / "lib" / name / "dist-packages",
    ]
    if venv:  # Debian's Python looks there in a venv as well; where lib64 is a link, people know it as lib
        return [*(prefix / library / name / "site-packages" for library in ("lib", "lib64")), *debian]
    if debian[1].is_dir():
        return debian
    # Fedora's Python keeps what pip puts there below /usr/local.
    places = [prefix / "local", prefix] if prefix == Path("/usr") else [prefix]
    return [place / library / name / "site-packages" for place in places for library in ("lib64", "lib")]


def user_site(layout: Layout, environ: Mapping[str, str], home: Path) -> Path | None:
    """The user's own site-packages for a Python, there or not; PYTHONUSERBASE moves it."""
    if layout.minor is None:
        return None
    named = environ.get("PYTHONUSERBASE")
    if layout.windows:
        roaming = environ.get("APPDATA")
        base = expand(named) if named else (Path(roaming) if roaming else home) / "Python"
        return base / f"Python{layout.minor.replace('.', '')}" / "site-packages"
    base = expand(named) if named else home / ".local"
    framework = home / "Library" / "Python" / layout.minor  # of a Python that is a framework of macOS
    if not named and "Python.framework" in str(layout.base):
        return framework / "lib" / "python" / "site-packages"
    return base / "lib" / f"python{layout.minor}" / "site-packages"


class _Builder:
    """Adds folders as site.addsitedir does: each once, then what its .pth files name, sorted by the files' names."""

    def __init__(self) -> None:
        self.folders: list[Folder] = []
        self.seen: set[str] = set()
        self.editable: dict[str, Path] = {}
        self.unknown: list[Unknown] = []
        self.garbled: list[Path] = []

    def add(self, path: Path, where: Kind, site: bool = True) -> None:
        path = Path(os.path.normpath(path))
        key = os.path.realpath(path)
        if key in self.seen:
            return
        try:
            names = tuple(os.listdir(path))
        except NotADirectoryError:  # a zip: nothing that has a native library can be imported from one
            return
        except FileNotFoundError:
            return
        except OSError as error:
            self.unknown.append(Unknown(f"search {path}", f"{path} cannot be read ({error.strerror})"))
            return
        self.seen.add(key)
        self.folders.append(Folder(path, where, names))
        if site:
            for name in sorted(one for one in names if one.endswith(".pth")):
                self._read(path, name)

    def _read(self, folder: Path, name: str) -> None:
        content = text(folder / name, LARGEST)
        if content is None:
            self.unknown.append(Unknown(f"search {folder / name}", f"{folder / name} cannot be read"))
            return
        if "\ufffd" in content:  # what is no UTF-8
            self.garbled.append(folder / name)
            return
        for line in content.removeprefix("\ufeff").splitlines()[:MOST]:
            line = line.rstrip()
            if not line.strip() or line.startswith("#"):
                continue
            if line.startswith(("import ", "import\t")):
                for module, place in _finder(folder, line):
                    self.editable.setdefault(module, place)
                continue
            if "\0" not in line:
                self.add(folder / line, "added", site=False)

    def done(self, user: Path | None, passed_over: Path | None) -> Search:
        return Search(tuple(self.folders), self.editable, user, passed_over, tuple(self.unknown), tuple(self.garbled))


def _finder(folder: Path, line: str) -> Iterator[tuple[str, Path]]:
    """The modules and their folders that the finder of an editable install leads to."""
    match = _FINDER.match(line)
    redirect = None if match else _REDIRECT.match(line)
    named = match or redirect
    if named is None:
        return
    content = text(folder / f"{named[1]}.py", LARGEST) or ""
    found = (_MAPPING if match else _INSTALL).search(content)
    try:
        mapping = ast.literal_eval(found[1]) if found else {}
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return
    for module, place in mapping.items():
        if isinstance(module, str) and isinstance(place, str) and "." not in module:
            path = Path(place)
            yield module, path.parent if path.name == "__init__.py" else path
