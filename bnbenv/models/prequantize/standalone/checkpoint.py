"""The tensors of a checkpoint: where each lies, and its bytes, a piece at a time."""

from __future__ import annotations

import ctypes
import json
import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch

from .protocol import JobError

PIECE = 16 << 20  # bytes that are read at once
# safetensors allows headers of 100 MB, and so does its own reader.
LARGEST_HEADER = 100_000_000

# https://huggingface.co/docs/safetensors: names of types; torch has the unsigned ones from 2.3 on.
_NAMES = {
    **{"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"},
    **{"I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool"},
    **{"U64": "uint64", "U32": "uint32", "U16": "uint16", "C64": "complex64"},
    **{"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu"},
}
TYPES: dict[str, torch.dtype] = {name: getattr(torch, own) for name, own in _NAMES.items() if hasattr(torch, own)}
NAMES: dict[torch.dtype, str] = {dtype: name for name, dtype in TYPES.items()}


@dataclass(frozen=True)
class Source:
    """A tensor of the checkpoint. ``begin`` is from the start of the file."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    file: str
    begin: int
    bytes: int


def read_headers(files: list[str]) -> dict[str, Source]:
    """All tensors, in the order in which they lie in the files. Raises JobError where a file is broken."""
    found: dict[str, Source] = {}
    for file in files:
        for source in _read_header(file):
            found[source.name] = source
    return found


def _read_header(file: str) -> list[Source]:
    try:
        with open(file, "rb") as stream:  # noqa: PTH123 - a name that transformers gave
            size = os.fstat(stream.fileno()).st_size
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > min(size - 8, LARGEST_HEADER):
                raise ValueError("it is cut off in its header")
            header: dict[str, Any] = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        sources = [_source(file, name, entry, 8 + length, size) for name, entry in header.items()]
    except OSError as error:
        raise JobError("cannot-read", f"{file} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        step = "Get the file again; it is not whole."
        raise JobError("unreadable-checkpoint", f"{file} is no whole safetensors file: {error}", step) from None
    return sorted(sources, key=lambda source: source.begin)


def _source(file: str, name: str, entry: dict[str, Any], start: int, size: int) -> Source:
    begin, end = entry["data_offsets"]
    if entry["dtype"] not in TYPES:
        raise ValueError(f"{name} has the type {entry['dtype']}, which this torch does not know")
    dtype, shape = TYPES[entry["dtype"]], tuple(int(side) for side in entry["shape"])
    if not 0 <= begin <= end <= size - start:
        raise ValueError(f"{name} lies beyond its end")
    if end - begin != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{name} has another number of bytes than its shape says")
    return Source(name, dtype, shape, file, start + begin, end - begin)


class Reader:
    """Reads tensors piece by piece into buffers of its own: no file is mapped, so no page of one counts as memory.

    One thread reads a piece while the piece before it is cast, checked and copied. Only the tensor that is asked for
    is in memory; the disk is told beforehand which one comes next.
    """

    def __init__(self, on_bytes: Callable[[int], None]) -> None:
        self.on_bytes = on_bytes
        self.pool = ThreadPoolExecutor(1, "read")
        self.opened: tuple[str, int] | None = None

    def close(self) -> None:
        self.pool.shutdown()
        if self.opened:
            os.close(self.opened[1])
            self.opened = None

    def announce(self, source: Source) -> None:
        """Have the system read this one ahead into its own cache."""
        if self.opened and self.opened[0] == source.file and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self.opened[1], source.begin, source.bytes, os.POSIX_FADV_WILLNEED)

    def pieces(self, source: Source, dtype: torch.dtype) -> Iterator[tuple[int, torch.Tensor]]:
        """(first element, elements as a flat tensor of ``dtype``), valid until the next one is asked for."""
        total, step = math.prod(source.shape), PIECE // source.dtype.itemsize
        buffers = [torch.empty(min(step, total), dtype=source.dtype) for _ in range(2 if total > step else 1)]
        starts = list(range(0, total, step))
        handle = self._open(source.file)

        def fill(index: int) -> torch.Tensor:
            view = buffers[index % 2][: min(step, total - starts[index])]
            read_into(handle, source.begin + starts[index] * source.dtype.itemsize, view, source)
            return view

        ahead = self.pool.submit(fill, 0) if starts else None
        for index, start in enumerate(starts):
            assert ahead is not None
            piece = ahead.result()
            ahead = self.pool.submit(fill, index + 1) if index + 1 < len(starts) else None
            self.on_bytes(piece.nbytes)
            yield start, piece.to(dtype)

    def tensor(self, source: Source, dtype: torch.dtype, device: torch.device) -> tuple[torch.Tensor, bool]:
        """The tensor on the device in its loading type, and whether all its numbers are finite."""
        whole = torch.empty(math.prod(source.shape), dtype=dtype, device=device)
        finite = True
        if device.type == "cpu" and dtype == source.dtype:
            # Straight to where it belongs: the least memory, and nothing is copied twice.
            handle = self._open(source.file)
            step = PIECE // dtype.itemsize
            for start in range(0, whole.numel(), step):
                piece = whole[start : start + step]
                read_into(handle, source.begin + start * dtype.itemsize, piece, source)
                self.on_bytes(piece.nbytes)
                finite = finite and is_finite(piece)
        else:
            for start, piece in self.pieces(source, source.dtype):
                part = whole[start : start + piece.numel()]
                part.copy_(piece)
                finite = finite and is_finite(part)
        return whole.view(source.shape), finite

    def same(self, one: Source, other: Source) -> bool:
        """Whether two tensors are equal, bit for bit."""
        if (one.dtype, one.shape) != (other.dtype, other.shape):
            return False
        with open(one.file, "rb") as first, open(other.file, "rb") as second:  # noqa: PTH123
            first.seek(one.begin)
            second.seek(other.begin)
            left = one.bytes
            while left:
                count = min(left, PIECE)
                if first.read(count) != second.read(count):
                    return False
                left -= count
        return True

    def _open(self, file: str) -> int:
        if self.opened is None or self.opened[0] != file:
            if self.opened:
                os.close(self.opened[1])
                self.opened = None
            self.opened = (file, os.open(file, os.O_RDONLY | getattr(os, "O_BINARY", 0)))
        return self.opened[1]


def read_into(handle: int, offset: int, target: torch.Tensor, source: Source) -> None:
    """Fill a flat tensor of the CPU from a file. Raises JobError where the file has become shorter."""
    view = memory_of(target)
    while len(view):
        if hasattr(os, "preadv"):
            count = os.preadv(handle, [view], offset)
        else:
            os.lseek(handle, offset, os.SEEK_SET)
            piece = os.read(handle, len(view))
            count = len(piece)
            view[:count] = piece
        if count == 0:
            message = f"{source.file} became shorter while {source.name} was read"
            raise JobError("changed", message, "Leave the checkpoint as it is until this has ended, and start again.")
        view, offset = view[count:], offset + count


def memory_of(tensor: torch.Tensor) -> memoryview:
    """The bytes of a contiguous tensor of the CPU, without a copy and without numpy, which may not be there."""
    if tensor.nbytes == 0:
        return memoryview(b"")
    return memoryview((ctypes.c_char * tensor.nbytes).from_address(tensor.data_ptr())).cast("B")


def is_finite(piece: torch.Tensor) -> bool:
    """No NaN and no infinity. aminmax passes a NaN on, and is eight times as fast as isfinite."""
    if not piece.dtype.is_floating_point or piece.numel() == 0:
        return True
    if piece.dtype.itemsize == 1:  # which it does not know
        piece = piece.float()
    low, high = torch.aminmax(piece)
    return math.isfinite(low.item()) and math.isfinite(high.item())
