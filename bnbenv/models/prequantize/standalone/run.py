"""The plan, carried out: read, quantize, write, forget; one weight after another."""

from __future__ import annotations

import contextlib
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from .capture import Captured
from .checkpoint import Reader, is_finite
from .names import Five, Names
from .plan import Plan, Shard, Unit
from .protocol import Job, JobError, Reporter
from .weights import Entry, serialize
from .writing import Completion, ShardWriter

UNKNOWN = "This release of bitsandbytes is not known here; take another one."


class Run:
    """Carries the counts that progress tells."""

    def __init__(self, captured: Captured, names: Names, plan: Plan, job: Job, reporter: Reporter) -> None:
        self.captured, self.names, self.plan, self.job, self.reporter = captured, names, plan, job, reporter
        self.device = torch.device(job.device)
        self.shards = [shard for shard in plan.shards if shard.name not in job.done]
        self.units = [unit for shard in self.shards for unit in shard.units]
        self.total = sum(unit.read_bytes for unit in self.units)
        self.read = self.written = self.index = 0
        self.tensor = ""
        self.odd: list[str] = []
        self.reader = Reader(self._count)
        self.completion = Completion(reporter)
        # What a weight became is written while the next one is read and quantized: never more than one.
        self.pool = ThreadPoolExecutor(1, "write")
        self.writing: Future[None] | None = None

    def run(self) -> None:
        """Raises JobError. Shards that are complete have been told of by then."""
        try:
            for shard in self.shards:
                self._shard(shard)
            self.completion.wait()
        except BaseException:
            self._finish_what_is_complete()
            raise
        finally:
            self.reader.close()
            self.pool.shutdown()
            self.completion.close()
        self._tell_odd()

    def _finish_what_is_complete(self) -> None:
        """Another error ends the job; the shard before may still be on its way to the disk, and is good."""
        with contextlib.suppress(JobError):
            self.completion.wait()

    def _shard(self, shard: Shard) -> None:
        writer = ShardWriter(Path(self.job.out), shard)
        try:
            for unit in shard.units:
                self.index += 1
                self.tensor = unit.assigned.first.name
                if unit.groups:
                    self._convert(unit, writer)
                else:
                    self._keep(unit, writer)
                self.completion.poll()
            self._drain()
            writer.finish()
        except BaseException:
            with contextlib.suppress(JobError):
                self._drain()
            writer.abandon()
            raise
        self.completion.start(writer)

    def _drain(self) -> None:
        """Wait for what is being written. Raises JobError."""
        if self.writing is not None:
            writing, self.writing = self.writing, None
            writing.result()

    def _keep(self, unit: Unit, writer: ShardWriter) -> None:
        """Cast and copied in pieces: an embedding is never in memory as a whole."""
        self._drain()
        for index, part in enumerate(unit.assigned.parts):
            finite, entry = True, unit.entries[index]
            for first, piece in self.reader.pieces(part.source, part.dtype):
                finite = finite and is_finite(piece)
                writer.write(entry, piece, first)
                self.written += piece.nbytes
            if not finite:
                self.odd.append(part.source.name)

    def _convert(self, unit: Unit, writer: ShardWriter) -> None:
        tensors = self._read(unit)
        self._announce_next()
        if unit.assigned.rule is None:
            ((target, entries),) = unit.groups.items()
            self._quantize(target, entries, tensors, writer)
            return
        assert isinstance(self.names, Five)
        made = self.names.put_together(unit.assigned.key, unit.assigned, tensors)
        tensors.clear()
        for target, entries in unit.groups.items():
            self._quantize(target, entries, [made.pop(target)], writer)

    def _read(self, unit: Unit) -> list[torch.Tensor]:
        tensors = []
        for part in unit.assigned.parts:
            value, finite = self.reader.tensor(part.source, part.dtype, self.device)
            if not finite:
                raise self._not_finite(part.source.name, part.source.dtype, part.dtype)
            tensors.append(value)
        return tensors

    def _not_finite(self, name: str, stored: torch.dtype, dtype: torch.dtype) -> JobError:
        code = "not-finite"
        if dtype == torch.float16 and stored != torch.float16:
            text = f"{name} holds numbers that are no numbers, infinite, or too large for float16"
            return JobError(code, text, "Take --dtype bfloat16; if that says the same, the checkpoint is damaged.")
        text = f"{name} holds numbers that are no numbers or infinite, and would be quantized into nonsense"
        return JobError(code, text, "The checkpoint is damaged; get it again.")

    def _quantize(self, target: str, entries: list[Entry], value: list[torch.Tensor], writer: ShardWriter) -> None:
        """``value`` is emptied, so that nothing else holds the tensor."""
        if len(entries) == 1:  # a rule made it, and nobody quantizes it
            made = {"": value.pop()}
        else:
            made = serialize(self.captured.model, self.names, target, value.pop())
        if len(made) != len(entries):
            raise JobError("failed", f"bitsandbytes made {len(made)} tensors of {target}, not {len(entries)}", UNKNOWN)
        for index, tensor in enumerate(made.values()):
            check_like(entries[index], tensor)
            self.written += tensor.nbytes
        results = [(entries[index], plain(tensor)) for index, tensor in enumerate(made.values())]
        made.clear()
        self._drain()
        self.writing = self.pool.submit(write_all, writer, results)

    def _announce_next(self) -> None:
        if self.index < len(self.units):
            self.reader.announce(self.units[self.index].assigned.first)

    def _count(self, count: int) -> None:
        self.read += count
        fields: dict[str, Any] = {"tensor": self.tensor, "index": self.index, "of": len(self.units)}
        self.reporter.progress(**fields, read=self.read, written=self.written, total=self.total)

    def _tell_odd(self) -> None:
        if self.odd:
            text = f"{len(self.odd)} tensors that are kept hold numbers that are no numbers or infinite: {self.odd[0]}"
            self.reporter.warn("not-finite-kept", text)


def write_all(writer: ShardWriter, results: list[tuple[Entry, torch.Tensor]]) -> None:
    """``results`` is emptied, so that each is forgotten once it is written."""
    while results:
        writer.write(*results.pop())


def check_like(entry: Entry, tensor: torch.Tensor) -> None:
    """What the library has made must fit where the plan has put it."""
    fits = tensor.nbytes <= entry.bytes if entry.blob else tuple(tensor.shape) == entry.shape
    if not fits:
        text = f"{entry.name} became {list(tensor.shape)}, and {list(entry.shape)} was foreseen"
        raise JobError("failed", text, UNKNOWN)


def plain(tensor: torch.Tensor) -> torch.Tensor:
    """On the CPU, and without the library's own class, whose methods do more than torch's."""
    return tensor.detach().as_subclass(torch.Tensor).to("cpu").contiguous()
