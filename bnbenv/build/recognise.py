"""Whether a tree is bitsandbytes, which version, and which CUDA it takes. Pure: texts and names in, a value out.

Nothing of a tree is run or imported for that.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from bnbenv.errors import UsageError
from bnbenv.matrix.cmakelists import read_cmakelists

PACKAGE = "bitsandbytes"
LARGEST = 1 << 18  # bytes of a text that is looked at

# The text of a file of the tree, by its name; None where there is none.
Read = Callable[[str], str | None]

_ASSIGNED = r"^{name}\s*(?::\s*[\w.\[\]]+\s*)?=\s*[\"']([^\"'\n]{{1,80}})[\"']"
_IN_SETUP = re.compile(r"(?<![\w.])[\"']?version[\"']?\s{0,8}[=:]\s{0,8}[\"']([^\"'\n]{1,80})[\"']")
_STEP = "Name a checkout of bitsandbytes' repository, a mirror of it, or a tarball of one of its tags."


class Known(NamedTuple):
    """What a tree says of itself. CUDA versions as in ``Tree``."""

    version: str
    cuda_min: str | None
    cuda_end: str | None


def recognise(read: Read, names: Collection[str], asked: str) -> Known:
    """A tree, from the names at its top and the texts of its files; ``asked`` is how the user knows it.

    Raises UsageError: ``not-bitsandbytes``; ``source-too-old`` for a release that knows no CMake yet.
    """
    lists = read("CMakeLists.txt")
    if lists is None:
        raise _without_cmake(read, names, asked)
    cmake = read_cmakelists(lists)
    if (cmake.project or "").lower() != PACKAGE:
        called = f"its CMakeLists.txt is of {cmake.project}" if cmake.project else "its CMakeLists.txt names no project"
        raise _no(asked, called)
    missing = [name for name in ("csrc", PACKAGE) if name not in names]
    if missing:
        raise _no(asked, f"it has no folder {missing[0]}")
    if not cmake.capability:
        raise _no(asked, "its CMakeLists.txt does not know COMPUTE_BACKEND and COMPUTE_CAPABILITY")
    if "pyproject.toml" not in names and "setup.py" not in names:
        raise _no(asked, "it has neither pyproject.toml nor setup.py, so no wheel can be made of it")
    return Known(_version(read, asked), cmake.cuda_min, cmake.cuda_end)


def _no(asked: str, why: str) -> UsageError:
    return UsageError("not-bitsandbytes", f"{asked} is no source tree of bitsandbytes: {why}", _STEP)


def _without_cmake(read: Read, names: Collection[str], asked: str) -> UsageError:
    if "Makefile" in names and PACKAGE in names and "csrc" in names:
        version = _found_version(read)
        what = f"{asked} is bitsandbytes {version or 'before 0.43'}"
        message = f"{what}, which is built by a Makefile: only releases with CMake (0.43.0 and newer) can be compiled"
        return UsageError("source-too-old", message, "Name a newer tag with --ref.")
    if any(name.endswith(".dist-info") for name in names):
        return _no(asked, "it is an installed or built package, and no source")
    below = f"{PACKAGE}/CMakeLists.txt"
    if read(below) is not None:
        message = f"{asked} is no source tree of bitsandbytes: it lies one folder deeper, in {PACKAGE}"
        return UsageError("not-bitsandbytes", message, f"Name the folder {PACKAGE} in it.")
    return _no(asked, "it has no CMakeLists.txt" if names else "it is empty")


def _version(read: Read, asked: str) -> str:
    from packaging.version import InvalidVersion, Version

    found = _found_version(read)
    if found is None:
        raise _no(asked, "its version cannot be read from pyproject.toml, bitsandbytes/__init__.py or setup.py")
    try:
        return str(Version(found))
    except InvalidVersion:
        raise _no(asked, f'its version "{found[:40]}" is none') from None


def _found_version(read: Read) -> str | None:
    """The version that its wheel will have: setuptools takes pyproject.toml before setup.py."""
    declared = _declared(read)
    if declared is not None:
        return declared
    return _assigned(read, PACKAGE, "__version__") or _first(_IN_SETUP, read("setup.py"))


def _declared(read: Read) -> str | None:
    """What pyproject.toml says: the version itself, or where it stands (``attr = "bitsandbytes.__version__"``)."""
    table = _toml(read("pyproject.toml"))
    project = _table(table, "project")
    if isinstance(project.get("version"), str):
        return str(project["version"])
    dynamic = _table(_table(_table(_table(table, "tool"), "setuptools"), "dynamic"), "version")
    attribute, file = dynamic.get("attr"), dynamic.get("file")
    if isinstance(attribute, str) and re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*){1,5}", attribute):
        module, _, name = attribute.rpartition(".")
        return _assigned(read, module.replace(".", "/"), name)
    file = file[0] if isinstance(file, list) and file else file
    if isinstance(file, str) and re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*){0,5}", file):
        text = read(file)
        return text.strip() if text and len(text.strip()) < 80 else None
    return None


def _assigned(read: Read, module: str, name: str) -> str | None:
    """The text that a module assigns to a name, as setuptools reads it: without running it."""
    text = read(f"{module}/__init__.py") or read(f"{module}.py")
    return _first(re.compile(_ASSIGNED.format(name=re.escape(name)), re.MULTILINE), text)


def _first(pattern: re.Pattern[str], text: str | None) -> str | None:
    match = pattern.search(text) if text else None
    return match[1].strip() if match else None


def _toml(text: str | None) -> dict[str, Any]:
    from bnbenv.decode import read_toml
    from bnbenv.errors import InputError

    try:
        return read_toml(text or "", "pyproject.toml")
    except InputError:
        return {}


def _table(value: dict[str, Any], name: str) -> dict[str, Any]:
    found = value.get(name)
    return found if isinstance(found, dict) else {}
