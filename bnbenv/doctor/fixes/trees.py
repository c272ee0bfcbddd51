"""What lies in a folder of packages: listed before and after a change, saved before it, and put back exactly."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

import msgspec

from bnbenv.envs.integrity import BadRecord, package_of, parse_record
from bnbenv.paths import exists

# Of a file: its kind and rights, size, and time of its last change in ns; the target of a link.
Stamp = tuple[int, int, int, str]


class Tree(msgspec.Struct, frozen=True, kw_only=True):
    """A folder of packages as it was. Paths are relative to ``base``, with ``/``; scripts are ``../../../bin/name``.

    ``saved`` maps what may be changed to a name in the record's folder (of a link: its stamp says enough).
    """

    base: str
    before: dict[str, Stamp]
    folders: tuple[str, ...]
    saved: dict[str, str] = {}


def list_tree(base: Path, beside: Iterable[str] = ()) -> tuple[dict[str, Stamp], tuple[str, ...]]:
    """All files and links below a folder, and its folders; ``beside`` are further files. Raises OSError."""
    files: dict[str, Stamp] = {}
    folders: list[str] = []
    todo = [("", str(base))]
    while todo:
        below, folder = todo.pop()
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(below + entry.name)
                    todo.append((f"{below}{entry.name}/", entry.path))
                else:
                    files[below + entry.name] = _stamp(Path(entry.path), entry.stat(follow_symlinks=False))
    for name in beside:
        path = base / name
        with contextlib.suppress(OSError):
            found = path.lstat()
            if not stat.S_ISDIR(found.st_mode):
                files[name] = _stamp(path, found)
    return files, tuple(sorted(folders))


def _stamp(path: Path, found: os.stat_result) -> Stamp:
    target = str(path.readlink()) if stat.S_ISLNK(found.st_mode) else ""
    return (found.st_mode, found.st_size, found.st_mtime_ns, target)


def metadata_of(base: Path, names: Iterable[str]) -> list[Path]:
    """The metadata folders of packages by their normalized names; of one there may be several."""
    wanted = set(names)
    with os.scandir(base) as entries:
        return sorted(
            Path(entry.path)
            for entry in entries
            if entry.name.endswith((".dist-info", ".egg-info"))
            and package_of(entry.name.removesuffix(".dist-info").removesuffix(".egg-info")) in wanted
        )


def recorded(metadata: Path) -> tuple[str, ...]:
    """The files that a package's RECORD names, relative to the folder of packages; none where it cannot be read."""
    try:
        return tuple(row.path for row in parse_record((metadata / "RECORD").read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, BadRecord):
        return ()


def behind_link(base: Path, names: Iterable[str]) -> Path | None:
    """The first folder on the way to one of these files that is a link: what lies behind it is listed and kept nowhere.

    Somebody's sources may.
    """
    folders = {str(up) for name in names if not name.startswith("..") for up in PurePosixPath(name).parents} - {"."}
    return next((base / one for one in sorted(folders) if (base / one).is_symlink()), None)


def scripts(base: Path, prefix: Path) -> list[str]:
    """What lies beside the interpreter of an environment, relative to its folder of packages."""
    folder = prefix / ("Scripts" if os.name == "nt" else "bin")
    if not exists(folder):
        return []
    relative = os.path.relpath(folder, base).replace(os.sep, "/")
    return [f"{relative}/{name}" for name in sorted(os.listdir(folder))]


def scripts_of(tree: Tree, prefix: str | None) -> list[str]:
    """The same of a tree; of a user's site there is no interpreter."""
    return scripts(Path(tree.base), Path(prefix)) if prefix and Path(tree.base).is_relative_to(prefix) else []


def at_stake(base: Path, metadata: Iterable[Path], more: Iterable[Path], listed: Mapping[str, Stamp]) -> set[str]:
    """What changing packages may change: their files, their metadata, and what lies beside those and is nobody else's.

    ``more`` are further files and folders, in full.
    """
    mine, others = list(metadata), set[str]()
    own = {path for one in mine for path in recorded(one)}
    with os.scandir(base) as entries:
        rest = [Path(one.path) for one in entries if one.name.endswith(".dist-info") and Path(one.path) not in mine]
    for one in rest:
        others.update(recorded(one))
    beside = {str(PurePosixPath(path).parent) for path in own if not path.startswith("..")} - {"."}
    beside |= {f"{folder}/__pycache__" for folder in beside} | {one.name for one in mine}
    at_root = {PurePosixPath(path).stem for path in own if "/" not in path}
    whole = tuple(f"{_relative(base, path)}/" for path in more)
    found = {path for path in own if path in listed}
    for path in listed:
        folder, _, name = path.rpartition("/")
        if path in others and path not in own:
            continue
        compiled = folder == "__pycache__" and name.partition(".")[0] in at_root
        in_metadata = any(path.startswith(f"{one.name}/") for one in mine)
        if compiled or in_metadata or folder in beside or f"{path}/".startswith(whole):
            found.add(path)
    return found


def _relative(base: Path, path: Path) -> str:
    return os.path.relpath(path, base).replace(os.sep, "/")


def save(tree: Tree, names: Iterable[str], linked: Container[str], folder: Path) -> Tree:
    """Keep files by a second link where an installer deletes them before it writes new ones (``linked``), else copies.

    What it overwrites in place would be changed in a second link, too. Raises OSError.
    """
    saved = {}
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(sorted(names)):
        if stat.S_ISREG(tree.before[name][0]):
            saved[name] = f"{number:06d}"
            source, target = Path(tree.base) / name, folder / saved[name]
            if name in linked:
                link_or_copy(source, target)
            else:
                shutil.copy2(source, target)
    return msgspec.structs.replace(tree, saved=saved)


def deleted_first(metadata: Iterable[Path]) -> set[str]:
    """The files that an installer deletes before it installs another version: those that one RECORD names.

    Where a package has several, which of them is followed is the installer's affair.
    """
    found: set[str] = set()
    folders = list(metadata)
    counts = Counter(package_of(one.name.removesuffix(".dist-info")) for one in folders)
    for one in folders:
        if counts[package_of(one.name.removesuffix(".dist-info"))] == 1:
            found.update(path for path in recorded(one) if not path.startswith(f"{one.name}/"))
    return found


def link_or_copy(source: Path, target: Path) -> None:
    """The same file at a second place, with its rights and times. Raises OSError."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        if not source.is_file():
            raise
        shutil.copy2(source, target, follow_symlinks=False)


def differing(before: Mapping[str, Stamp], now: Mapping[str, Stamp]) -> dict[str, Stamp | None]:
    """What is another one now than before: its stamp, None for what is gone. Links count by their target. Pure."""
    found: dict[str, Stamp | None] = {name: now.get(name) for name, was in before.items() if _other(was, now.get(name))}
    return {**found, **{name: stamp for name, stamp in now.items() if name not in before}}


def _other(was: Stamp, now: Stamp | None) -> bool:
    if now is None or was[0] != now[0]:
        return True
    return was[3] != now[3] if stat.S_ISLNK(was[0]) else was[1:3] != now[1:3]


def put_back(tree: Tree, names: Iterable[str], folder: Path) -> list[str]:
    """Make files what they were, and delete those that were not there. Returns those that were not saved.

    Each file is replaced in one step. Can be done again after a kill. Raises OSError.
    """
    base, missing = Path(tree.base), []
    for name in sorted(names):
        place, was = base / name, tree.before.get(name)
        if was is None:
            place.unlink(missing_ok=True)
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        partial = place.with_name(f".{place.name}.{os.getpid()}.part")
        partial.unlink(missing_ok=True)
        if stat.S_ISLNK(was[0]):
            partial.symlink_to(was[3])
        elif name in tree.saved:
            link_or_copy(folder / tree.saved[name], partial)
        else:
            missing.append(name)
            continue
        partial.replace(place)
        partial.unlink(missing_ok=True)  # a rename onto another link to the same file does nothing
    _folders(base, tree.folders)
    return missing


def _folders(base: Path, before: tuple[str, ...]) -> None:
    """Folders that were not there and are empty go, those that were there come back."""
    for name in before:
        (base / name).mkdir(parents=True, exist_ok=True)
    known = set(before)
    for path in sorted(_all_folders(base), key=lambda one: -len(one.parts)):
        if _relative(base, path) not in known:
            with contextlib.suppress(OSError):
                path.rmdir()


def _all_folders(base: Path) -> Iterator[Path]:
    for folder, names, _ in os.walk(base):
        yield from (Path(folder, name) for name in names)
