"""The lock: uv's PEP 751 document with the decision and its evidence under ``[tool.bnbenv]``."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec

from bnbenv.decode import convert, read_toml, shown
from bnbenv.envs.keep.model import Base
from bnbenv.envs.record import is_newer
from bnbenv.errors import InputError
from bnbenv.facts.model import Platform
from bnbenv.matrix.model import BitsandbytesWheel, Matrix, TorchBuild
from bnbenv.matrix.rows import check_row, check_version
from bnbenv.solve.model import Solution

SCHEMA = "bnbenv.lock/1"
ANEW = "Write it anew with: bnbenv lock"


class CompiledWheel(BitsandbytesWheel, frozen=True, kw_only=True):
    """A row in TOML, which has no null: what is absent is left out."""

    libc_tag: str | None = None
    requires_python: str | None = None


class Decision(msgspec.Struct, frozen=True):
    """What stands under ``[tool.bnbenv]``: for what the lock was made, and what was chosen on which evidence.

    ``wishes`` is their digest; ``torch`` the chosen build's row, so that a local wheel can be judged again; ``wheel``
    that of a bitsandbytes that was compiled: what it was made to hold. Nothing is judged by it. ``base`` is what the
    environment lies on, where its torch is the one that is there: that is not in the lock, nor what it requires.
    """

    env: str
    wishes: str
    solution: Solution
    torch: TorchBuild
    schema: str = SCHEMA
    wheel: CompiledWheel | None = None
    base: Base | None = None


@dataclass(frozen=True)
class LockedFile:
    """One file of a package. ``place`` is its address or path; ``kind`` as in PEP 751: wheels, sdist, archive."""

    kind: str
    place: str
    sha256: str


@dataclass(frozen=True)
class Locked:
    """A lock as it was read: its bytes' text, the decision, and the packages with their versions, hashes and files."""

    text: str
    decision: Decision
    packages: dict[str, str]
    hashes: dict[str, frozenset[str]]
    files: dict[str, tuple[LockedFile, ...]] = field(default_factory=dict)


def compose(uv_text: str, decision: Decision) -> str:
    """uv's lock with bnbenv's decision added."""
    import tomlkit

    table = _without_nulls(msgspec.to_builtins(decision))
    return uv_text.rstrip("\n") + "\n\n" + tomlkit.dumps({"tool": {"bnbenv": table}})


def _without_nulls(value: Any) -> Any:
    """TOML has no null: what is absent is left out."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_without_nulls(item) for item in value]
    return value


def read_lock(text: str, file: str) -> Locked:
    """Read a lock strictly. Raises InputError with the line or path in it and what was expected."""
    document = read_toml(text, file, ANEW)
    version = document.get("lock-version")
    if version != "1.0":
        raise InputError(file, "lock-version", f'expected "1.0", found {version!r}', ANEW)
    tool = document.get("tool")
    table = tool.get("bnbenv") if isinstance(tool, dict) else None
    if table is None:
        raise InputError(file, "tool.bnbenv", "expected bnbenv's decision, and there is none", ANEW)
    schema = table.get("schema") if isinstance(table, dict) else None
    if is_newer(schema, SCHEMA):
        expected = f'made by a newer bnbenv ("{schema}", this one knows "{SCHEMA}")'
        raise InputError(file, "tool.bnbenv.schema", expected, "Upgrade bnbenv, or write it anew with: bnbenv lock")
    decision = convert(table, Decision, file, "tool.bnbenv", ANEW)
    if decision.schema != SCHEMA:
        expected = f'expected "{SCHEMA}", found "{decision.schema}"'
        raise InputError(file, "tool.bnbenv.schema", expected, ANEW)
    _check_versions(decision, file)
    packages, files = _packages(document, file)
    hashes = {name: frozenset(one.sha256 for one in some) for name, some in files.items()}
    return Locked(text, decision, packages, hashes, files)


def read_files(text: str, file: str) -> tuple[dict[str, str], dict[str, tuple[LockedFile, ...]]]:
    """Versions and files of any PEP 751 document, bnbenv's decision in it or not. Raises InputError."""
    return _packages(read_toml(text, file, ANEW), file)


def read_saved_lock(path: Path) -> Locked | None:
    """The lock that lies beside a generation; None where it is missing, or nothing can be made of it."""
    try:
        return agrees(read_lock(path.read_text(encoding="utf-8"), path.name), path.name)
    except (OSError, UnicodeDecodeError, InputError):
        return None


def _check_versions(decision: Decision, file: str) -> None:
    """What the solver will read as versions are versions. Raises InputError."""
    choice, where = decision.solution.choice, "tool.bnbenv.solution.choice"
    for name, version in choice.versions.items():
        check_version(version, file, f"{where}.{name}.version", ANEW)
    check_version(choice.torch.version, file, f"{where}.torch.version", ANEW)
    if not re.fullmatch(r"[0-9]\.[0-9]{1,3}", choice.python):
        expected = f'expected a Python such as "3.12", found "{shown(choice.python)}"'
        raise InputError(file, f"{where}.python", expected, ANEW)
    check_row(decision.torch, file, "tool.bnbenv.torch", ANEW)


def agrees(locked: Locked, file: str) -> Locked:
    """The lock, if its packages are those of its decision. Raises InputError: somebody edited one of them."""
    solution, row = locked.decision.solution, locked.decision.torch
    torch = solution.choice.torch
    below = torch.source == "existing"
    if below != (locked.decision.base is not None):
        raise InputError(file, "tool.bnbenv.base", f"expected one where torch is kept, and it is {torch.source}", ANEW)
    for name, chosen in {"torch": "none" if below else torch.version, **solution.choice.versions}.items():
        if locked.packages.get(name, "none") != chosen:
            found = locked.packages.get(name, "none")
            raise InputError(file, "packages", f"expected {name} {chosen}, as in tool.bnbenv, found {found}", ANEW)
    for key in ("version", "cuda", "source", "index"):
        if getattr(row, key) != getattr(torch, key):
            expected = f"expected {getattr(torch, key)}, as in tool.bnbenv.solution, found {getattr(row, key)}"
            raise InputError(file, f"tool.bnbenv.torch.{key}", expected, ANEW)
    own = solution.choice.hashes.items()
    of_torch = () if below else (("torch", row.sha256), ("torch", solution.torch_sha256))
    for name, sha256 in (*of_torch, *own):
        if sha256 is not None and sha256 not in locked.hashes[name]:
            raise InputError(file, "packages", f"expected the {name} of tool.bnbenv, by its sha256", ANEW)
    if solution.choice.compiled:
        _check_build(locked, file)
    if row.source == "local" and any(re.match(r"(?!file:)\w+://", one.place) for one in locked.files["torch"]):
        raise InputError(file, "packages", "expected a torch on this machine, as in tool.bnbenv", ANEW)
    return locked


def _check_build(locked: Locked, file: str) -> None:
    """Raises InputError where a bitsandbytes that is said to be compiled is not one wheel on this machine's disks."""
    chosen, row = locked.decision.solution.choice.bitsandbytes, locked.decision.wheel
    if row is None or (row.version, row.sha256, row.filename) != (chosen.version, chosen.sha256, chosen.filename):
        raise InputError(file, "tool.bnbenv.wheel", "expected the row of the compiled bitsandbytes", ANEW)
    wheel = locked_build(locked)
    if wheel is None or wheel.name != chosen.filename:
        raise InputError(file, "packages", "expected the compiled bitsandbytes of tool.bnbenv, as one file", ANEW)


def locked_build(locked: Locked) -> Path | None:
    """Where a lock says that its compiled bitsandbytes lies: one wheel on a disk; None where it says otherwise."""
    files = locked.files["bitsandbytes"]
    if len(files) != 1 or files[0].kind == "sdist":
        return None
    from bnbenv.envs.provenance import local_file

    path = local_file(files[0].place)
    return path if path is not None and path.is_absolute() else None


def known_wheels(matrix: Matrix, version: str, platform: Platform) -> tuple[BitsandbytesWheel, ...]:
    """The rows about a version of bitsandbytes for a platform."""
    here = (version, platform.os, platform.machine)
    return tuple(row for row in matrix.bitsandbytes if (row.version, row.os, row.machine) == here)


def measured(locked: Locked, matrix: Matrix, platform: Platform, file: str) -> Locked:
    """The lock, if each file of the packages that it is about is the very one that the matrix was measured on.

    A bitsandbytes that the matrix does not know for this platform (its measurement may have ended early) is nothing
    that this can judge, and of other packages a file whose name it does not know. Raises InputError.
    """
    choice = locked.decision.solution.choice
    if choice.wheel is not None and known_wheels(matrix, locked.packages["bitsandbytes"], platform):
        version = locked.packages["bitsandbytes"]
        known = {wheel.sha256 for wheel in matrix.bitsandbytes if wheel.version == version}
        for one in locked.files["bitsandbytes"]:
            if one.sha256 not in known:
                raise _not_measured("bitsandbytes", version, one, file)
    rows = {row.filename: row.sha256 for row in matrix.packages}
    for package in choice.packages:
        for one in locked.files[package.name]:
            if rows.get(file_name(one.place), one.sha256) != one.sha256:
                raise _not_measured(package.name, package.version, one, file)
    return locked


def _not_measured(name: str, version: str, found: LockedFile, file: str) -> InputError:
    expected = f"expected a {name} {version} that was measured, found another {file_name(found.place)}"
    return InputError(file, "packages", expected, ANEW)


def _packages(document: dict[str, Any], file: str) -> tuple[dict[str, str], dict[str, tuple[LockedFile, ...]]]:
    """Names, versions and files. What has no SHA-256 is refused, and what could be something else than it says."""
    entries = document.get("packages")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InputError(file, "packages", "expected a list of tables", ANEW)
    versions: dict[str, str] = {}
    files: dict[str, tuple[LockedFile, ...]] = {}
    for position, entry in enumerate(entries):
        where = f"packages[{position}]"
        name = entry.get("name")
        if not isinstance(name, str) or not name or name != normalized(name):
            raise InputError(file, f"{where}.name", "expected a name, in small letters", ANEW)
        if name in versions:
            raise InputError(file, where, f"expected {name} once: which of them is meant?", ANEW)
        for key in ("vcs", "directory"):
            if key in entry:
                raise InputError(file, f"{where}.{key}", f"expected files of {name} with a sha256", ANEW)
        versions[name] = str(entry.get("version", ""))
        files[name] = tuple(_files(entry, name, file, where))
    return versions, files


def _files(entry: dict[str, Any], name: str, file: str, where: str) -> list[LockedFile]:
    wheels = entry.get("wheels", [])
    given = [("wheels", one) for one in (wheels if isinstance(wheels, list) else [wheels])]
    given += [(kind, entry[kind]) for kind in ("sdist", "archive") if kind in entry]
    found = []
    for kind, one in given:
        sha256 = _sha256(one)
        if sha256 is None:
            raise InputError(file, where, f"expected a sha256 for every file of {name}", ANEW)
        found.append(LockedFile(kind, _place(one, name, file, f"{where}.{kind}"), sha256))
    if not found:
        raise InputError(file, where, f"expected a sha256 for every file of {name}", ANEW)
    return found


def _place(entry: dict[str, Any], name: str, file: str, where: str) -> str:
    """Where a file comes from: one address or one path, and the file there is named as it is called.

    An installer goes by the name that is given and loads what is at the address.
    """
    places = [entry[key] for key in ("url", "path") if key in entry]
    if len(places) != 1 or not isinstance(places[0], str):
        raise InputError(file, where, f"expected one address or path for a file of {name}", ANEW)
    filename = file_name(places[0])
    called = entry.get("name", filename)
    if called != filename or not normalized(filename).startswith(f"{normalized(name)}-"):
        raise InputError(file, where, f"expected a file of {name}, found {shown(filename)}", ANEW)
    return places[0]


def file_name(place: str) -> str:
    """The name of the file at an address or path."""
    if "://" not in place:
        return re.split(r"[/\\]", place)[-1]
    try:
        return unquote(urlsplit(place).path.rpartition("/")[2])
    except ValueError:  # no address: [ in the place of a host
        return ""


def normalized(name: str) -> str:
    """A package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _sha256(entry: Any) -> str | None:
    """The hash of one file of a package; None where there is none, or it is none."""
    hashes = entry.get("hashes") if isinstance(entry, dict) else None
    value = hashes.get("sha256") if isinstance(hashes, dict) else None
    return value if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) else None
