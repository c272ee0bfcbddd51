"""A shard, written piece by piece at the places that the plan gives, and good only once it has its name."""

from __future__ import annotations

import errno
import hashlib
import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from .checkpoint import PIECE, memory_of
from .plan import Shard, header_text
from .protocol import JobError, Reporter
from .weights import Entry


class ShardWriter:
    """Raises JobError (``disk-full``, ``cannot-write``)."""

    def __init__(self, folder: Path, shard: Shard) -> None:
        self.shard = shard
        self.path = folder / shard.name
        self.part = folder / f"{shard.name}.part"
        self.blobs: dict[str, bytes] = {}
        self.written = 0
        with guarded(self.part):
            self.part.unlink(missing_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
            self.handle = os.open(self.part, flags, 0o666)
            reserve(self.handle, shard.bytes)

    def write(self, entry: Entry, value: torch.Tensor, first: int = 0) -> None:
        """Elements of a tensor from the ``first`` on, from the CPU."""
        flat = value.reshape(-1)
        if entry.blob:
            self.blobs[entry.name] = bytes(memory_of(flat))
            return
        place = 8 + self.shard.header + self.shard.offsets[entry.name] + first * flat.dtype.itemsize
        self._write(place, memory_of(flat))
        self.written += flat.nbytes

    def finish(self) -> None:
        """The descriptions of the states, and the header, which holds their sizes."""
        sizes = {each.name: each.bytes for each in self.shard.layout}
        end = min((self.shard.offsets[each.name] for each in self.shard.layout if each.blob), default=None)
        if end is None:
            end = sum(sizes.values())
        place = 8 + self.shard.header + end
        for each in self.shard.layout:
            if each.blob:
                sizes[each.name] = len(self.blobs[each.name])
                self._write(place, memoryview(self.blobs[each.name]))
                place += sizes[each.name]
        with guarded(self.part):
            os.ftruncate(self.handle, place)
        text = header_text(sizes, self.shard).ljust(self.shard.header)
        self._write(0, memoryview(len(text).to_bytes(8, "little") + text))

    def complete(self) -> dict[str, Any]:
        """Flush it, read it back for its digest, and give it its name. It may run in another thread."""
        with guarded(self.part):
            digest, size = hashlib.sha256(), 0
            handle, self.handle = self.handle, -1
            with os.fdopen(handle, "rb", buffering=0) as stream, ThreadPoolExecutor(1, "flush") as pool:
                flushed = pool.submit(os.fsync, handle)
                stream.seek(0)
                while piece := stream.read(PIECE):
                    digest.update(piece)
                    size += len(piece)
                flushed.result()
            self.part.replace(self.path)
            sync_folder(self.path.parent)
        found = {"name": self.shard.name, "bytes": size, "tensors": len(self.shard.layout)}
        return {**found, "sha256": digest.hexdigest()}

    def abandon(self) -> None:
        """Nothing of it stays. It never fails."""
        try:
            if self.handle >= 0:
                os.close(self.handle)
            self.part.unlink(missing_ok=True)
        except OSError:
            pass

    def _write(self, place: int, view: memoryview) -> None:
        with guarded(self.part):
            while len(view):
                if hasattr(os, "pwrite"):
                    count = os.pwrite(self.handle, view, place)
                else:
                    os.lseek(self.handle, place, os.SEEK_SET)
                    count = os.write(self.handle, view)
                view, place = view[count:], place + count


class Completion:
    """Completes one shard while the next one is quantized; at most one at a time."""

    def __init__(self, reporter: Reporter) -> None:
        self.reporter = reporter
        self.pool = ThreadPoolExecutor(1, "complete")
        self.writer: ShardWriter | None = None
        self.pending: Future[dict[str, Any]] | None = None

    def start(self, writer: ShardWriter) -> None:
        self.wait()
        self.writer, self.pending = writer, self.pool.submit(writer.complete)

    def poll(self) -> None:
        """Tell of a shard as soon as it is complete."""
        if self.pending is not None and self.pending.done():
            self.wait()

    def wait(self) -> None:
        if self.pending is not None:
            pending, self.pending = self.pending, None
            try:
                self.reporter.send("shard", **pending.result())
            except BaseException:
                if self.writer is not None:
                    self.writer.abandon()
                raise

    def close(self) -> None:
        self.pool.shutdown()


class guarded:
    """What the system says about a file, as errors of this job."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, OSError):
            return
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            what = "the disk is full" if error.errno == errno.ENOSPC else "the quota on this disk is used up"
            step = "Make room and run the same command again; finished files are kept."
            raise JobError("disk-full", f"{what}: {self.path.name} cannot be written", step) from None
        if error.errno == errno.EFBIG:
            step = "Take smaller files (--shard-size)."
            raise JobError("cannot-write", f"{self.path.name} is larger than files may be here", step) from None
        raise JobError("cannot-write", f"{self.path} cannot be written: {error.strerror or error}") from None


def reserve(handle: int, size: int) -> None:
    """Room for the whole file, so that a full disk is noticed before the work. Some file systems cannot say."""
    if not hasattr(os, "posix_fallocate") or size == 0:
        return
    try:
        os.posix_fallocate(handle, 0, size)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise


def write_file(path: Path, text: str) -> None:
    """A small file in one step."""
    part = path.with_name(f"{path.name}.part")
    with guarded(path):
        with part.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """So that the new name outlives a power cut; Windows cannot and need not."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
