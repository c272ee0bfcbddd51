"""Making a bundle: everything is known, with its size and hash, before the first byte is written."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import msgspec

from bnbenv import __version__
from bnbenv.bundle.archive import Writer, file_sha256, sweep, tar_size, written_beside
from bnbenv.bundle.built import build_sdists
from bnbenv.bundle.fetch import Piece, Sessions, blocks, brought, sizes, unpacked_sizes
from bnbenv.bundle.gather import Group, Wanted, check_online, groups_for
from bnbenv.bundle.itself import INSTALL, pinned, write_wheel
from bnbenv.bundle.manifest import CONFIG, FILES, Class, Environment, File, Manifest
from bnbenv.bundle.rows import rows_of
from bnbenv.bundle.tool import lacks_python, lists_for, python_archive, tool_pythons
from bnbenv.envs.lockfile import LockedFile, file_name
from bnbenv.envs.overlay import connections
from bnbenv.envs.plan import describe
from bnbenv.envs.resolve import Setting, sources_of, user_matrix
from bnbenv.envs.supply import installable
from bnbenv.errors import BnbenvError, Failed
from bnbenv.progress import shown_size
from bnbenv.redact import redact

SPARE = 16 << 20  # bytes that are to stay free
_EVERY = 0.1  # seconds between two looks at the progress


@dataclass(frozen=True)
class Also:
    """What goes into a bundle beside the files of locks: bnbenv with what installs it, bnbenv.toml, and an interpreter
    (``3.12``) whether a lock needs it or not, if it can be had."""

    tool: bool = True
    config: bool = True
    python: str | None = None


@dataclass
class Parts:
    """What goes into a bundle, by its name there: texts, and files that are still to be brought."""

    texts: dict[str, bytes] = field(default_factory=dict)
    pieces: dict[str, Piece] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)  # sha256 of a wheel: that of the sdist it was built from
    classes: list[Class] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    private: bool = False  # there is a login in it

    def add(self, one: LockedFile, folder: str = FILES) -> str:
        """A file of a lock; returns its name in the bundle. Raises Failed where two have one name."""
        path = f"{folder}/{file_name(one.place)}"
        known = self.pieces.setdefault(path, Piece(one.place, one.sha256))
        if known.sha256 != one.sha256:
            message = f"two files are called {file_name(one.place)}: {known.shown} and {redact(one.place)}"
            raise Failed("two-files", message, "Make a bundle for each machine, or use one index for all.")
        return path


def make(setting: Setting, machines: Sequence[Wanted], envs: Sequence[str], out: Path) -> dict[str, Any]:
    """Write a bundle; returns its manifest's document with its path, size, sha256 and what is to be told.

    Until it is whole there is nothing at ``out`` that was not there before. Raises what locking and loading raise;
    Failed (``no-space``), OSError.
    """
    with _workplace(out) as work:
        return _make(setting, groups_for(setting, machines, envs), out, work, Also()).document()


def make_of(setting: Setting, groups: Sequence[Group], out: Path, also: Also) -> Manifest:
    """The same of locks that are there already, and with what ``also`` says. Raises as ``make``."""
    with _workplace(out) as work:
        return _make(setting, groups, out, work, also)


def _make(setting: Setting, groups: Sequence[Group], out: Path, work: Path, also: Also) -> Manifest:
    sessions = connections(sources_of(setting))
    parts = Parts()
    done: dict[str, LockedFile] = {}
    for group in groups:
        parts.origins |= build_sdists(group, work, sessions, done, parts.notes)
    _collect(setting, groups, parts, work, sessions, also)
    files = _weigh(setting, parts, sessions)
    manifest = _manifest(setting, parts, files)
    check_space(out, manifest)
    digest = _write(setting, manifest, parts, out, sessions)
    size, notes = out.stat().st_size, tuple(parts.notes)
    return msgspec.structs.replace(manifest, path=str(out), size=size, sha256=digest, notes=notes)


@contextmanager
def _workplace(out: Path) -> Iterator[Path]:
    """A folder beside the bundle for what is made on the way; what a kill left of it is deleted."""
    sweep(out)
    work = out.with_name(f".{out.name}.{os.getpid()}.work")
    shutil.rmtree(work, ignore_errors=True)  # of an earlier process with the same number
    work.mkdir()
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _collect(
    setting: Setting, groups: Sequence[Group], parts: Parts, work: Path, sessions: Sessions, also: Also
) -> None:
    """Everything but the sizes."""
    if also.config and setting.project.config.is_file():
        parts.texts[CONFIG] = setting.project.config.read_bytes()
        text = parts.texts[CONFIG].decode(errors="replace")
        if redact(text) != text:
            parts.private = True
            parts.notes.append("bnbenv.toml is in the bundle as it is, with a login in an address: keep it private")
    if also.tool:
        _collect_tool(groups, parts, work)
    for number, group in enumerate(groups, 1):
        parts.classes.append(_class(number, group, parts, work, sessions, also))
    parts.texts |= rows_of(user_matrix(setting.environ), groups, work)


def _collect_tool(groups: Sequence[Group], parts: Parts, work: Path) -> None:
    """bnbenv itself, what it needs, and what installs it."""
    parts.texts["install.sh"] = INSTALL.encode()
    wheel = write_wheel(work)
    with wheel.open("rb") as stream:
        itself = LockedFile("wheels", str(wheel), file_sha256(stream))
    parts.add(itself)
    for name, needs in lists_for(groups).items():
        for one in needs.files.values():
            parts.add(one)
        hashes = {package: one.sha256 for package, one in needs.files.items()}
        versions = {**needs.versions, "bnbenv": __version__}
        parts.texts[name] = pinned(versions, {**hashes, "bnbenv": itself.sha256}).encode()


def _class(number: int, group: Group, parts: Parts, work: Path, sessions: Sessions, also: Also) -> Class:
    environments = []
    for env, locked in group.locks.items():
        names = {package: parts.add(one) for package, one in group.files[env].items()}
        there = {
            package: LockedFile("wheels", f"../../{names[package]}", one.sha256)
            for package, one in group.files[env].items()
        }
        lock, unpacked = f"locks/{number}/decided/pylock.{env}.toml", f"locks/{number}/pylock.{env}.toml"
        parts.texts[lock] = locked.text.encode()
        parts.texts[unpacked] = installable(locked, there).encode()
        choice, wish = locked.decision.solution.choice, group.setting.wishes.envs[env]
        title = describe(locked.decision.solution)
        environments.append(
            Environment(env, wish.family, title, choice.python, choice.torch.version, lock, unpacked, names)
        )
    platform = group.platform
    minors = tool_pythons(group) if also.tool else []
    tool = [f"tool/{platform.os}-{platform.machine}-{minor}.txt" for minor in minors]
    archive = _python(group, parts, work, sessions)
    if archive is None and also.python is not None:
        try:
            archive = _archive(group, also.python, parts, work, sessions)
        except BnbenvError as error:
            parts.notes.append(f"{platform.machine}: it brings no Python {also.python} ({error.message})")
    return Class(number, tuple(group.machines), tuple(environments), tuple(tool), archive)


def _python(group: Group, parts: Parts, work: Path, sessions: Sessions) -> str | None:
    """An interpreter for machines that have none that fits, if it can be had; else it is said."""
    archive: str | None = None
    for minor in lacks_python(group):
        reason = "it brings another one"
        if archive is None:
            try:
                archive = _archive(group, minor, parts, work, sessions)
                continue
            except BnbenvError as error:
                reason = error.message
        names = ", ".join(one.facts or "this machine" for one in group.machines if minor not in one.pythons)
        parts.notes.append(f"{names}: no Python {minor} there, and the bundle brings none ({reason}): install it there")
    return archive


def _archive(group: Group, minor: str, parts: Parts, work: Path, sessions: Sessions) -> str:
    """uv's own build of a Python, as a file of the bundle. Raises SourceUnreachable, Failed, OSError.

    Nobody here knows its hash; uv does, and compares it before it unpacks it.
    """
    found = python_archive(group, minor)
    if found is None:
        raise Failed("no-python", "uv knows none for it")
    url, name = found
    check_online(group.setting, [Piece(url, "")])
    target = work / name.rpartition("/")[2]
    if not target.exists():
        group.setting.progress.at(f"loading Python {minor}")
        partial = target.with_suffix(".part")
        partial.unlink(missing_ok=True)
        with partial.open("xb") as out:
            for block in blocks(url, sessions):
                out.write(block)
        partial.replace(target)
    with target.open("rb") as stream:
        one = LockedFile("archive", str(target), file_sha256(stream))
    return parts.add(one, f"python/{name.split('/')[0]}")


def _weigh(setting: Setting, parts: Parts, sessions: Sessions) -> tuple[File, ...]:
    """All files with their sizes, in the order of their names. Raises SourceUnreachable, Failed."""
    setting.progress.at("asking how large the files are")
    check_online(setting, parts.pieces.values())
    found = sizes((piece.place for piece in parts.pieces.values()), sessions)
    wheels = [piece.place for name, piece in parts.pieces.items() if name.endswith(".whl")]
    unpacked = unpacked_sizes({place: found[place] for place in wheels}, sessions)
    rows = [File(name, len(text), hashlib.sha256(text).hexdigest()) for name, text in parts.texts.items()]
    for name, piece in parts.pieces.items():
        size = found[piece.place]
        parts.pieces[name] = Piece(piece.place, piece.sha256, size)
        installed = unpacked.get(piece.place, 0)
        rows.append(File(name, size, piece.sha256, installed, parts.origins.get(piece.sha256)))
    setting.progress.at("")
    return tuple(sorted(rows, key=lambda row: (row.path in parts.pieces, row.path)))


def _manifest(setting: Setting, parts: Parts, files: tuple[File, ...]) -> Manifest:
    from importlib.metadata import version

    return Manifest(__version__, version("uv"), CONFIG in parts.texts, tuple(parts.classes), files)


def check_space(out: Path, manifest: Manifest) -> None:
    """Raises Failed: better now than after an hour of loading."""
    needed = tar_size(manifest.files, len(manifest.encode())) + SPARE
    free = shutil.disk_usage(out.parent).free
    if free < needed:
        message = f"the bundle takes {shown_size(needed)}, and {shown_size(free)} are free in {out.parent}"
        raise Failed("no-space", message, "Free some space there, or name another folder.")


class _Hashing(io.RawIOBase):
    """A file to write to that knows the SHA-256 of all that was written."""

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__()
        self._stream, self.digest = stream, hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.digest.update(data)
        return self._stream.write(data)

    def tell(self) -> int:
        return self._stream.tell()


def _write(setting: Setting, manifest: Manifest, parts: Parts, out: Path, sessions: Sessions) -> str:
    """The archive, in one go; returns its SHA-256."""
    total = sum(file.size for file in manifest.files)
    shown, passed, last = "", 0, 0.0

    def told(size: int) -> None:
        nonlocal passed, last
        passed += size
        if time.monotonic() - last > _EVERY or passed == total:
            last = time.monotonic()
            setting.progress.at(f"{shown}: {shown_size(passed)} of {shown_size(total)}")

    with written_beside(out, 0o600 if parts.private else 0o644) as stream:
        hashing = _Hashing(stream)
        writer = Writer(hashing, manifest)  # type: ignore[arg-type]
        for file in manifest.files:
            shown = file.path.rpartition("/")[2]
            if file.path in parts.texts:
                writer.add(file, io.BytesIO(parts.texts[file.path]))
                told(file.size)
            else:
                setting.progress.detail(f"bringing {parts.pieces[file.path].shown}")
                with brought(parts.pieces[file.path], sessions, setting.environ, told) as source:
                    writer.add(file, source)
        writer.close()
        setting.progress.at("")
        return hashing.digest.hexdigest()
