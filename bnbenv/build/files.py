"""The files of a source tree: which of them a build reads, a private copy of them, and the digest over them."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from bnbenv.errors import UsageError

# Upstream's tree has 200 files of 2 MB; with room for forks, and none for somebody's home folder.
MOST_FILES = 20_000
MOST_BYTES = 128 << 20
DEEPEST = 40  # folders in each other

# What builds, tools and version control leave in a tree. None of it is source.
_FOLDERS = frozenset(
    {".git", ".hg", ".svn", ".venv", ".tox", ".nox", ".eggs", ".idea", ".vs", ".cache", "__pycache__", "_skbuild"}
    | {".mypy_cache", ".ruff_cache", ".pytest_cache", ".ipynb_checkpoints", "CMakeFiles", "node_modules"}
)
_TOP_FOLDERS = frozenset({"build", "dist", "venv", "env"})
_FILES = frozenset({".git", "CMakeCache.txt", "cmake_install.cmake", "build.ninja", "compile_commands.json"})
_FILES_BEGIN = (".ninja_", "CMakeLists.txt.user", "._")
_FILES_END = (".so", ".dll", ".dylib", ".pyd", ".o", ".obj", ".a", ".lib", ".pyc", ".pyo", ".swp", "~", ".DS_Store")
_FOLDERS_BEGIN, _FOLDERS_END = ("cmake-build-", ".bnbenv", ".venv-"), (".egg-info", ".dist-info")


def left_out(name: PurePosixPath, folder: bool) -> bool:
    """Whether a name in a tree is nothing that a build reads: products of earlier builds, caches, version control."""
    last = name.name
    if not folder:
        return last in _FILES or last.startswith(_FILES_BEGIN) or last.endswith(_FILES_END)
    if len(name.parts) == 1 and last in _TOP_FOLDERS:
        return True
    return last in _FOLDERS or last.startswith(_FOLDERS_BEGIN) or last.endswith(_FOLDERS_END)


class Budget:
    """Counts files and bytes. Raises UsageError ``source-too-large`` when there are more than any tree has."""

    def __init__(self, asked: str, files: int = MOST_FILES, size: int = MOST_BYTES) -> None:
        self._asked, self._files, self._size = asked, files, size
        self._most = (files, size)

    def take(self, size: int) -> None:
        self._files -= 1
        self._size -= size
        if self._files < 0 or self._size < 0:
            what = f"{self._most[0]} files" if self._files < 0 else f"{self._most[1] >> 20} MB"
            message = f"{self._asked} holds more than {what}, which no source of bitsandbytes does"
            raise UsageError("source-too-large", message, "Name the folder in which CMakeLists.txt and csrc lie.")


def copy(folder: Path, into: Path, budget: Budget) -> None:
    """Copy what a build reads of a folder into an empty one. Links stay links; sockets, pipes and devices stay away.

    Raises UsageError (too large), OSError (a file that cannot be read, no space).
    """
    for name, entry in _walk(folder):
        target = into / name
        if entry.is_symlink():
            budget.take(0)
            target.symlink_to(os.readlink(entry.path))
        elif entry.is_dir():
            target.mkdir()
            budget.take(0)
        elif entry.is_file():
            found = entry.stat()
            budget.take(found.st_size)
            _copy_file(Path(entry.path), target, found.st_size)
            target.chmod(0o755 if found.st_mode & stat.S_IXUSR else 0o644)


def _copy_file(source: Path, target: Path, size: int) -> None:
    """As much as the file had when it was looked at, and so no more than was taken of the budget."""
    with source.open("rb") as reading, target.open("xb") as writing:
        left = size
        while left > 0 and (block := reading.read(min(left, 1 << 20))):
            writing.write(block)
            left -= len(block)


def _walk(folder: Path, below: PurePosixPath | None = None) -> Iterator[tuple[PurePosixPath, os.DirEntry[str]]]:
    """Every entry that counts, in the order of the names, a folder before what is in it. No link is followed."""
    if below is not None and len(below.parts) > DEEPEST:
        message = f"{str(below)[:60]}... lies more than {DEEPEST} folders deep, as no source of bitsandbytes does"
        raise UsageError("source-too-large", message, "Name the folder in which CMakeLists.txt and csrc lie.")
    with os.scandir(folder if below is None else folder / below) as entries:
        listed = sorted(entries, key=lambda entry: entry.name)
    # In a folder in which CMake was run, the Makefile is its work.
    generated = {"Makefile"} if any(entry.name == "CMakeCache.txt" for entry in listed) else set()
    for entry in listed:
        name = PurePosixPath(entry.name) if below is None else below / entry.name
        folder_too = entry.is_dir(follow_symlinks=False)
        link = entry.is_symlink()  # .venv may be one, whatever it leads to
        if (
            left_out(name, folder_too)
            or (link and left_out(name, True))
            or (not folder_too and entry.name in generated)
        ):
            continue
        yield name, entry
        if folder_too:
            yield from _walk(folder, name)


def check_links(root: Path, asked: str) -> None:
    """Refuse links that lead out of a tree. Raises UsageError ``unsafe-source``."""
    top = os.path.realpath(root)
    for name, entry in _walk(root):
        if not entry.is_symlink():
            continue
        text = os.readlink(entry.path)
        end = os.path.realpath(entry.path)
        if text.startswith(os.sep) or (end != top and not end.startswith(top + os.sep)):
            message = f"{asked}: {name} is a link that leads out of the tree"
            raise UsageError("unsafe-source", message, "Put the file itself there: what is compiled is a copy.")


def prune(root: Path) -> None:
    """Remove what no build reads from a tree that was unpacked."""
    counted = {name for name, _ in _walk(root)}
    for place, folders, files in os.walk(root):
        here = PurePosixPath(Path(place).relative_to(root).as_posix())
        for name in list(folders):
            path = Path(place, name)
            if here / name not in counted and not path.is_symlink():
                shutil.rmtree(path)
                folders.remove(name)
        for name in [*files, *folders]:
            if here / name not in counted:
                Path(place, name).unlink()


def digest(root: Path) -> str:
    """The sha256 over the files of a tree: for each, in the order of the names, its name, kind and bytes.

    ``x`` is an executable file, ``f`` another, ``l`` a link with what it says. Empty folders do not count, nor what
    ``left_out`` names. The same tree has the same digest whether it came as a commit, a folder or a tarball.
    """
    whole = hashlib.sha256()
    for name, entry in sorted(_walk(root), key=lambda one: os.fsencode(str(one[0]))):
        if entry.is_symlink():
            kind, content = b"l", hashlib.sha256(os.fsencode(os.readlink(entry.path))).digest()
        elif entry.is_file():
            kind = b"x" if entry.stat().st_mode & stat.S_IXUSR else b"f"
            content = _sha256(Path(entry.path))
        else:
            continue
        encoded = os.fsencode(str(name))
        whole.update(b"%s %d %s\n" % (kind, len(encoded), encoded) + content)
    return whole.hexdigest()


def _sha256(path: Path) -> bytes:
    found = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            found.update(block)
    return found.digest()
