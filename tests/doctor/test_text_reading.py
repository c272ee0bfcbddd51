"""Texts of any size: what is found in them, and that neither their length nor what they are made of costs more."""

from __future__ import annotations

import io
import itertools
import random
import time
import tracemalloc
from collections.abc import Iterator

import pytest

from bnbenv.doctor.text import diagnose

ERROR = b"RuntimeError: CUDA error: no kernel image is available for execution on the device\n"
STEP = b"{'loss': 1.2345, 'grad_norm': 0.123, 'learning_rate': 1e-4} step 1234 tokens/s 8812.1\n"
MIB = 1 << 20


class Made(io.RawIOBase):
    """A stream of bytes that are made when they are read, a pipe's few at a time."""

    def __init__(self, parts: Iterator[bytes]) -> None:
        self._parts, self._rest = parts, b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if not self._rest:
            self._rest = next(self._parts, b"")
        part, self._rest = self._rest[:size], self._rest[size:]
        return part


def around(error: bytes, before: int, after: int) -> Iterator[bytes]:
    """An error between so many MiB of training."""
    block = STEP * (MIB // len(STEP))
    yield from itertools.repeat(block, before)
    yield error
    yield from itertools.repeat(block, after)


@pytest.mark.parametrize("before", [0, 1, 7, 12])
def test_an_error_is_found_wherever_it_stands_in_a_long_log(before: int) -> None:
    found = diagnose(Made(around(ERROR, before, 12 - before)))  # type: ignore[arg-type]
    assert found.seen[0].code == "no-kernel-image"
    assert found.seen[0].lines[0] == (before * (MIB // len(STEP)) + 1, ERROR.decode().strip())
    assert found.skipped == 0


def test_the_middle_of_what_is_longer_than_the_limit_is_passed_over_and_that_is_said() -> None:
    parts = [STEP * (MIB // len(STEP))] * 140
    size = sum(map(len, parts)) + len(ERROR)
    found = diagnose(Made(iter([*parts, ERROR])))  # type: ignore[arg-type]
    assert found.seen[0].code == "no-kernel-image"
    assert found.read + found.skipped == size
    assert found.read <= 100 * MIB < size


def flood() -> Iterator[bytes]:
    """6 MiB of errors, no two lines of one shape."""
    chance = random.Random(1)
    letters = bytes(range(103, 123))
    lines = (b"%s CUDA error: cannot do %d" % (bytes(chance.choices(letters, k=9)), number) for number in range(28_000))
    block = b"\n".join(lines) + b"\n"
    for shift in range(6):
        yield block.replace(b"CUDA error", b"CUDA error of kind " + b"ghijkl"[shift % 6 : shift % 6 + 1] * shift)


def test_a_log_that_is_all_errors_stays_within_bounds() -> None:
    tracemalloc.start()
    try:
        diagnose(Made(itertools.chain(flood(), [ERROR])))  # type: ignore[arg-type]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 60 * MIB


@pytest.mark.parametrize(
    "unit",
    [
        b"in quantize_4bit out of memory ",
        b"Could not find module C:\\libbitsandbytes_cuda118",
        b"torch 1.1.1.1.1.1.1+",
        b"error error error",
        b"\x1b[31m\x1b[",
        b"> > > > [rank0]: ",
        b"\r",
        b"\0",
        b"\xff\xfe",
        b"a.b.c.",
        b"Traceback (most recent call last):\n",
        b"NVIDIA RTX NVIDIA RTX",
        b"if you see CUDA out of memory ",
        b"    raise RuntimeError('CUDA out of memory')\n",
    ],
)
def test_no_text_is_slow(unit: bytes) -> None:
    """4 MiB in one line or in many. A pattern that is not linear would take hours, whatever the machine."""
    diagnose(io.BytesIO(unit * (4 * MIB // len(unit)) + b"\n" + ERROR))


@pytest.mark.parametrize(
    ("unit", "rest"),
    [
        (b"requires", b"==1, but you have"),
        (b"moduletransformersh", b"has no attribute"),
        (b"deviceai", b"is not recognized, available devices are integers"),
    ],
)
def test_a_text_made_of_the_beginnings_of_a_message_is_not_slow(unit: bytes, rest: bytes) -> None:
    """A repetition without an end, tried at each of them, takes a minute and more for this."""
    before = time.process_time()
    diagnose(io.BytesIO(unit * (MIB // 3 // len(unit)) + b"\n" + rest))
    assert time.process_time() - before < 20


def test_an_error_in_one_line_of_megabytes_is_found() -> None:
    found = diagnose(io.BytesIO(b"x" * (3 * MIB) + ERROR.strip() + b"y" * (3 * MIB)))
    assert found.seen[0].code == "no-kernel-image"
    assert all(len(line) < 400 for _, line in found.seen[0].lines)


def test_what_is_no_text_says_nothing() -> None:
    assert diagnose(io.BytesIO(random.Random(7).randbytes(3 * MIB))).seen == ()


def test_a_stretch_of_one_encoding_after_another_is_read_across_blocks() -> None:
    text = (STEP * (2 * MIB // len(STEP))).decode().encode("utf-16") + ERROR.decode().encode("utf-16-le")
    text += (STEP * (3 * MIB // len(STEP))).decode().encode("utf-16-le")
    assert diagnose(io.BytesIO(text)).seen[0].code == "no-kernel-image"
