"""The folder beside OUT in which the result is made: what is finished in it outlives a kill, and a run goes on there.

::

    .OUT.bnbenv-part/
        lock            held while a run is at work
        journal.json    the job, and the files that are finished, with their digests
        out/            what becomes OUT, in one rename
        old/            what OUT was before, while it is replaced
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec

from bnbenv.errors import UsageError
from bnbenv.models.prequantize.inputs import sha256
from bnbenv.models.prequantize.note import File
from bnbenv.models.prequantize.order import Job, difference
from bnbenv.paths import write_atomically
from bnbenv.process import postponed
from bnbenv.progress import Progress, shown_size

SCHEMA = "bnbenv.prequantize-journal/1"
WAIT = 0.0  # seconds: what another run has begun takes minutes


class Journal(msgspec.Struct, frozen=True):
    """``packages`` are the releases that the process itself told, None before it did."""

    job: Job
    packages: Mapping[str, str] | None = None
    shards: Mapping[str, File] = {}
    schema: str = SCHEMA


class Staging:
    """The folder of one result while it is held."""

    def __init__(self, folder: Path, target: Path) -> None:
        self.folder, self.target = folder, target
        self.out, self.old = folder / "out", folder / "old"
        self._file = folder / "journal.json"
        self.journal: Journal | None = None

    @property
    def shards(self) -> Mapping[str, File]:
        return self.journal.shards if self.journal else {}

    @property
    def finished(self) -> int:
        """Bytes of the files that are finished."""
        return sum(one.bytes for one in self.shards.values())

    def write(self, journal: Journal) -> None:
        """Raises OSError."""
        self.journal = journal
        write_atomically(self._file, msgspec.json.encode(journal))

    def add(self, name: str, file: File) -> None:
        """A file is finished. Raises OSError."""
        assert self.journal is not None
        self.write(msgspec.structs.replace(self.journal, shards={**self.shards, name: file}))

    def begin(self, job: Job, progress: Progress) -> None:
        """Take over what an earlier run of the same job finished; what is not of it goes. Raises OSError."""
        before, because = self._read()
        if before is not None:
            other = difference(before.job, job)
            because = f"an earlier run had {other}" if other else None
        if because is not None:
            progress.say(f"begun anew, since {because}")
        elif before is not None:
            kept = {name: one for name, one in before.shards.items() if self._is_whole(name, one, progress)}
            self.journal = msgspec.structs.replace(before, shards=kept)
            self.clear()
            if kept:
                progress.say(
                    f"{_files(len(kept))} of an earlier run ({shown_size(self.finished)}) need not be made again"
                )
            return self.write(self.journal)
        self.journal = None
        self.clear()
        self.write(Journal(job))

    def anew(self, job: Job) -> None:
        """Forget what was finished. Raises OSError."""
        self.journal = None
        self.clear()
        self.write(Journal(job))

    def clear(self) -> None:
        """Delete what is not finished. Raises OSError."""
        self.out.mkdir(exist_ok=True)
        for path in self.out.iterdir():
            if path.name not in self.shards:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    def switch(self, replace: bool) -> None:
        """Put the result where it belongs; from then on it is there whole. Raises OSError."""
        with postponed():
            if replace:
                self.target.rename(self.old)
            elif self.target.is_dir():
                self.target.rmdir()  # it is empty
            try:
                self.out.rename(self.target)
            except OSError:
                self.recover()
                raise
        sync_folder(self.target.parent)

    def recover(self) -> None:
        """After a kill while something was replaced: put it back, or, if the new one is there, delete it.

        Raises OSError.
        """
        if not self.old.is_dir():
            return
        if os.path.lexists(self.target):
            shutil.rmtree(self.old)
        else:
            self.old.rename(self.target)

    def keep_finished(self) -> None:
        """After an error: what is finished stays for the next run, and nothing else. Raises OSError."""
        if self.journal is None:  # not even looked at
            self.journal, _ = self._read()
        if self.journal is not None and self.shards:
            self.clear()  # which makes room where the disk was full
            self.write(self.journal)
        elif not self.old.exists():
            shutil.rmtree(self.folder, ignore_errors=True)

    def _read(self) -> tuple[Journal | None, str | None]:
        """The journal, or why there is none although there was one."""
        if not self._file.is_file():  # not there, or a pipe, of which reading would not come back
            return None, None
        try:
            journal = msgspec.json.decode(self._file.read_bytes(), type=Journal)
        except FileNotFoundError:
            return None, None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None, "what an earlier run left cannot be read"
        return (journal, None) if journal.schema == SCHEMA else (None, "another bnbenv left something")

    def _is_whole(self, name: str, file: File, progress: Progress) -> bool:
        """Whether a finished file still is what was written."""
        path = self.out / name
        try:
            if path.is_symlink() or path.stat().st_size != file.bytes:
                return False
            progress.at(f"checking {name} of an earlier run")
            return sha256(path) == file.sha256
        except OSError:
            return False
        finally:
            progress.at("")


def staging_folder(target: Path) -> Path:
    """On the same file system as the target."""
    return target.with_name(f".{target.name}.bnbenv-part")


@contextlib.contextmanager
def staged(target: Path, environ: Mapping[str, str], say: Callable[[str], None]) -> Iterator[Staging]:
    """Hold the folder beside a target. At the end it stays only if an error came after the first finished file.

    Raises Busy where another run holds it, UsageError where something else is in its place, OSError.
    """
    from bnbenv.envs.hold import hold

    folder = staging_folder(target)
    try:
        folder.mkdir()
    except FileExistsError:
        _check_ours(folder)
    try:
        with hold(folder, str(target), WAIT, environ, say):
            yield from _held(Staging(folder, target))
    finally:
        with contextlib.suppress(OSError):
            folder.rmdir()  # where not even the lock could be made


def _check_ours(folder: Path) -> None:
    """Where everybody may write, somebody else may have made it, to change what is written. Raises UsageError."""
    stat = folder.lstat()
    if not folder.is_dir() or folder.is_symlink():
        raise UsageError("in-the-way", f"{folder} is there and is no folder of bnbenv's", "Move it away.")
    if os.name == "posix" and stat.st_uid != os.geteuid():
        message = f"{folder} belongs to another user, who may be writing the same checkpoint"
        raise UsageError("in-the-way", message, "Name another folder for the result.")


def _held(staging: Staging) -> Iterator[Staging]:
    try:
        staging.recover()
        yield staging
    except BaseException:
        with contextlib.suppress(OSError), postponed():
            staging.recover()
            staging.keep_finished()
        raise
    with postponed():
        shutil.rmtree(staging.folder, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder written to the disk, as a rename alone is not; where that cannot be, nothing."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sync_files(folder: Path) -> None:
    """The same for the bytes of all files below a folder. Raises OSError."""
    for place, _, names in os.walk(folder):
        for name in names:
            with (Path(place) / name).open("rb+") as stream:
                os.fsync(stream.fileno())
        sync_folder(Path(place))


def _files(number: int) -> str:
    return "1 file" if number == 1 else f"{number} files"
