"""From a stream of bytes of any size and encoding to the lines that are worth judging, in constant memory.

A short text is kept whole. Of a long one the beginning, the end and, between them, what stands around the words of
errors is kept, each shape of line once; lines keep their numbers. Beyond the limit the middle is passed over.
"""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple

LIMIT = 100 << 20  # bytes that are looked at
TAIL = 16 << 20  # of these, how many belong to the end where a text is longer
BLOCK = 1 << 20
WHOLE = 2 << 20  # a text up to this is kept whole
FIRST, LAST = 128 << 10, 256 << 10  # of a longer one, what is always kept
MIDDLE = 1 << 20  # and how much between them
PIECE = 4096  # bytes of which the encoding is judged
MANY = 128  # lines of a block with one word of errors; after so many only some are looked at
SHAPES = 50_000
AROUND = 3  # lines before and after one that speaks of an error
LONGEST = 8 << 10  # bytes of a line between beginning and end

# A line between beginning and end is looked at if it has one of these; so is what stands around it.
ANCHORS = (
    *(b"rror", b"ERROR", b"CUDA", b"xception", b"bitsandbytes", b"memory", b"cannot ", b"ailed", b"NVRM"),
    *(b"not found", b"not supported", b"undefined ", b"o module named", b"must ", b"requires ", b"without "),
)
_DIGITS = bytes.maketrans(b"0123456789abcdefABCDEF", b"0" * 22)


class Line(NamedTuple):
    """A line and its number from 1; a carriage return ends a line as well and counts for none."""

    number: int
    text: bytes


class Reading(NamedTuple):
    """``parts`` are runs of neighboring lines. ``read`` and ``skipped`` are in bytes of the stream."""

    parts: tuple[tuple[Line, ...], ...]
    read: int
    skipped: int


def read(stream: BinaryIO) -> Reading:
    """All of a text that is worth judging. Raises OSError where the stream cannot be read."""
    start = _exactly(stream, WHOLE + 1)
    if len(start) <= WHOLE:
        return Reading((tuple(_lines(_utf8(start), 1)),), len(start), 0)
    kept, done, skipped, rest = _Kept(), 0, 0, b""
    for block, passed in _blocks(start, stream):
        done += len(block)
        skipped += passed
        text = rest + _utf8(block)
        cut = text.rfind(b"\n") + 1
        cut = cut if len(text) - cut <= LONGEST else len(text)
        text, rest = text[:cut], text[cut:]
        kept.take(text)
    kept.take(rest)
    return Reading(kept.parts(), done, skipped)


class _Kept:
    """What is kept of a long text: its beginning, its end, and what is worth it between them."""

    def __init__(self) -> None:
        self._number = 1
        self._first: tuple[Line, ...] = ()
        self._end = b""
        self._early: list[tuple[Line, ...]] = []
        self._late: deque[tuple[Line, ...]] = deque()
        self._sizes = [0, 0]
        self._shapes: set[int] = set()

    def take(self, text: bytes) -> None:
        """The next stretch of the text, which ends with a line unless lines are very long."""
        number = self._number
        self._number += text.count(b"\n")
        self._end = (self._end + text)[-LAST:]
        if not self._first:
            cut = text.rfind(b"\n", 0, FIRST) + 1 or FIRST
            self._first = tuple(_lines(text[:cut], number))
            number += text.count(b"\n", 0, cut)
            text = text[cut:]
        counted = 0
        for begin, end in _around(text, self._is_new):
            number += text.count(b"\n", counted, begin)
            counted = begin
            self._keep(tuple(_lines(text[begin:end], number)), end - begin)

    def _keep(self, part: tuple[Line, ...], size: int) -> None:
        """The first half stays, the second moves on with the text."""
        if self._sizes[0] < MIDDLE // 2:
            self._early.append(part)
            self._sizes[0] += size
            return
        self._late.append(part)
        self._sizes[1] += size
        while self._sizes[1] > MIDDLE // 2:
            self._sizes[1] -= sum(len(line.text) + 1 for line in self._late.popleft())

    def parts(self) -> tuple[tuple[Line, ...], ...]:
        """Runs of neighboring lines, in order; the end may repeat some of what stands before it."""
        last = tuple(_lines(self._end, self._number - self._end.count(b"\n")))
        return (self._first, *self._early, *self._late, last)

    def _is_new(self, line: bytes) -> bool:
        """Whether a line of this shape, whatever its numbers, was not seen before."""
        shape = hash(line[:160].translate(_DIGITS))
        if shape in self._shapes or len(self._shapes) > SHAPES:
            return False
        self._shapes.add(shape)
        return True


def _around(text: bytes, is_new: Callable[[bytes], bool]) -> Iterator[tuple[int, int]]:
    """The stretches of a block around what speaks of errors, in order and without overlap."""
    done = 0
    for at in sorted({at for anchor in ANCHORS for at in _found(text, anchor)}):
        if at < done:
            continue
        begin, stop = _line_of(text, at)
        if not is_new(text[begin:stop]):
            done = stop
            continue
        for _ in range(AROUND):
            begin = _line_of(text, begin - 1)[0] if begin > done else begin
            stop = _line_of(text, stop)[1] if stop < len(text) else stop
        yield max(begin, done), stop
        done = stop


def _line_of(text: bytes, at: int) -> tuple[int, int]:
    """Where the line of a place begins and where it ends, behind its line break; not more of it than ``LONGEST``."""
    begin = max(text.rfind(b"\n", max(0, at - LONGEST), at) + 1, at - LONGEST, 0)
    stop = text.find(b"\n", at, at + LONGEST)
    return begin, min(len(text), at + LONGEST) if stop < 0 else stop + 1


def _found(text: bytes, anchor: bytes) -> Iterator[int]:
    """Where an anchor stands, once a line. After many of them only here and there: logs can be made of errors."""
    at, count = -1, 0
    while (at := text.find(anchor, at + 1)) >= 0:
        yield at
        count += 1
        end = text.find(b"\n", at, at + LONGEST)
        at = end if end >= 0 else at + LONGEST
        if count > MANY:
            at += len(text) // MANY


def _blocks(start: bytes, stream: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """The text in blocks, and how much was passed over before each; the end of what is longer than the limit."""
    yield start[:-1], 0
    block, total = start[-1:] + _exactly(stream, BLOCK - 1), len(start) - 1
    while block and total < LIMIT - TAIL:
        total += len(block)
        yield block, 0
        block = _exactly(stream, BLOCK)
    last: deque[bytes] = deque()
    skipped = 0
    while block:
        last.append(block)
        if len(last) > TAIL // BLOCK:
            skipped += len(last.popleft())
        block = _exactly(stream, BLOCK)
    for part in last:
        yield part, skipped
        skipped = 0


def _exactly(stream: BinaryIO, size: int) -> bytes:
    """So many bytes, unless the stream ends: a pipe gives less at a time."""
    parts = io.BytesIO()
    while (left := size - parts.tell()) > 0:
        part = stream.read(left)
        if not part:
            break
        parts.write(part)
    return parts.getvalue()


def _utf8(block: bytes) -> bytes:
    """UTF-16, which PowerShell writes, as UTF-8; any other encoding as it is, since what is looked for is ASCII.

    It is judged a piece at a time: a file can begin in one encoding and go on in another.
    """
    if 0 not in block:
        return block.removeprefix(b"\xef\xbb\xbf")
    return b"".join(_piece(block[at : at + PIECE]) for at in range(0, len(block), PIECE))


def _piece(piece: bytes) -> bytes:
    zeros = piece.count(0)
    if not zeros:
        return piece
    odd = piece[1::2].count(0)
    if zeros * 5 >= len(piece) // 2:
        if odd * 10 >= zeros * 9:
            return piece.decode("utf-16-le", "replace").lstrip("\ufeff").encode("utf-8", "replace")
        if odd * 10 <= zeros:
            return piece.decode("utf-16-be", "replace").lstrip("\ufeff").encode("utf-8", "replace")
    return piece.translate(None, b"\0")


def _lines(text: bytes, number: int) -> Iterator[Line]:
    for line in text.split(b"\n"):
        if b"\r" in line:
            for part in line.split(b"\r"):
                if part:
                    yield Line(number, part)
        else:
            yield Line(number, line)
        number += 1
