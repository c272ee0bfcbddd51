"""The Ansible collection that comes with bnbenv: where it is, and a copy of it somewhere else."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import NamedTuple

from bnbenv.errors import Failed, UsageError

NAME = "bnbenv.fleet"
_BELOW = Path("ansible_collections", "bnbenv", "fleet")


def root() -> Path:
    """The folder to put on ``ANSIBLE_COLLECTIONS_PATH``."""
    return Path(__file__).parent


def folder_of(root: Path) -> Path:
    """Where the collection is below such a folder."""
    return root / _BELOW


def version() -> str:
    """The version that its galaxy.yml names."""
    found = re.search(r"^version: *(\S+)$", (folder_of(root()) / "galaxy.yml").read_text(encoding="utf-8"), re.M)
    if found is None:
        raise Failed("no-version", "the galaxy.yml of the collection names no version", "Install bnbenv again.")
    return found.group(1)


class Copied(NamedTuple):
    """``files`` that the collection has; ``changed``: another one, or none, was there."""

    files: int
    changed: bool


def copy_to(place: Path) -> Copied:
    """Copy the collection below a folder, in the place of another version of it. It is never there in part; killed
    between its last two steps, it is not there at all until this is run again.

    Raises UsageError where something else is in the way, Failed where it cannot be written.
    """
    source, target = folder_of(root()), folder_of(place)
    names = sorted(path.relative_to(source) for path in source.rglob("*") if _belongs(path))
    # Below itself it would be copied without end, and a link would have it deleted.
    if target.resolve().is_relative_to(source.resolve()):
        message = f"{place} is where the collection is already"
        raise UsageError("in-the-way", message, "Name another folder with --to, or leave that out.")
    if os.path.lexists(target) and not _is_collection(target):
        raise UsageError("in-the-way", f"{target} is there and is something else", "Name another folder with --to.")
    if _same(source, target, names):
        return Copied(len(names), False)
    try:
        _put(source, target, names)
    except OSError as error:
        where = error.filename or target
        message = f"{where} cannot be written ({(error.strerror or str(error)).lower()})"
        raise Failed("not-written", message, "Name another folder with --to.") from None
    return Copied(len(names), True)


def _belongs(path: Path) -> bool:
    return path.is_file() and "__pycache__" not in path.parts


def _is_collection(target: Path) -> bool:
    """Whether this very collection is there: the name is in one of two files, by how it was installed."""
    for name, words in (("galaxy.yml", r"namespace: bnbenv\nname: fleet\n"), ("MANIFEST.json", r'"name": "fleet"')):
        try:
            if re.search(words, (target / name).read_text(encoding="utf-8")):
                return not target.is_symlink()
        except (OSError, UnicodeDecodeError):
            continue
    return False


def _same(source: Path, target: Path, names: list[Path]) -> bool:
    there = sorted(path.relative_to(target) for path in target.rglob("*") if _belongs(path))
    return there == names and all((source / name).read_bytes() == (target / name).read_bytes() for name in names)


def _put(source: Path, target: Path, names: list[Path]) -> None:
    """Beside it first, then in two renames. What a run left that was killed is deleted."""
    for left in target.parent.glob(f".{target.name}.*-*"):
        shutil.rmtree(left, ignore_errors=True)
    fresh, old = (target.with_name(f".{target.name}.{word}-{os.getpid()}") for word in ("new", "old"))
    try:
        for name in names:
            (fresh / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, fresh / name)
        if target.exists():
            target.rename(old)
        try:
            fresh.rename(target)
        except OSError:
            if old.exists():
                old.rename(target)
            raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
