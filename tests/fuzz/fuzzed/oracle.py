"""What has to hold of a decoder, whatever it is given: a value, or one of its errors, soon and in one sentence."""

from __future__ import annotations

import contextlib
import re
import signal
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

from bnbenv.cli.errors import render
from bnbenv.errors import BnbenvError, Exit, InputError, UsageError

from .edits import SECRET

LONGEST = 700  # characters of an error's sentence
LIMIT = 5.0  # seconds of processor time for one input; a slow machine has two orders of magnitude left


# In an address that is one; what is left of an address after a few edits may be anything.
LOGIN = re.compile(rf"://\w*:{SECRET}@")


class Fault(AssertionError):
    """A decoder did what it must not."""


@dataclass(frozen=True)
class Target:
    """A decoder under test.

    ``run`` decodes bytes and uses what came out of it, as the package does. ``kind`` says how seeds are edited: json,
    toml, text, binary or zip. ``make_seeds`` gives valid documents. ``raises`` are the errors that are documented,
    ``file`` is how an InputError has to begin. ``slow`` targets take more than a millisecond an input. ``memory`` is
    how many bytes one input may take at most; 0: that is not looked at, since looking takes time.
    """

    name: str
    kind: str
    run: Callable[[bytes], object]
    make_seeds: Callable[[], tuple[bytes, ...]] = field(repr=False)
    raises: tuple[type[BnbenvError], ...] = ()
    file: str = ""
    slow: bool = False
    memory: int = 0

    @cached_property
    def seeds(self) -> tuple[bytes, ...]:
        return self.make_seeds()


def check(target: Target, data: bytes, limit: float = LIMIT) -> BnbenvError | None:
    """Give an input to a decoder; the error that it ended with, if it is one of its own. Raises Fault.

    An exception that is no error of the target's comes out as it is.
    """
    with bounded(limit), modest(target.memory):
        try:
            target.run(data)
        except target.raises as error:
            check_error(error, target.file)
            return error
    return None


def check_error(error: BnbenvError, file: str = "") -> None:
    """One sentence for people that holds no credentials, and names the file. Raises Fault."""
    if isinstance(error, UsageError) and error.exit != Exit.USAGE:
        raise Fault(f"exit code {error.exit} instead of 2: {error.message[:200]}")
    if isinstance(error, InputError) and not (error.expected and error.message.startswith(file)):
        raise Fault(f"it does not begin with {file}: {error.message[:200]}")
    if not error.code or not error.message.strip():
        raise Fault(f"an error without words: {error!r}")
    text = render(error, {})
    lines = text.split("\n")
    if max(map(len, lines)) > LONGEST and not error.detail:
        raise Fault(f"a line of {max(map(len, lines))} characters: {text[:200]}...")
    expected = 1 + bool(error.next_step)
    if not error.detail and (len(lines) != expected or not all(line.isprintable() for line in lines)):
        raise Fault(f"no single line: {text[:300]!r}")
    if LOGIN.search(text):
        raise Fault(f"a password is shown: {text[:300]}")


@contextlib.contextmanager
def modest(most: int) -> Iterator[None]:
    """Raises Fault where more bytes than these are taken at one time; 0 allows all."""
    if not most:
        yield
        return
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    if peak > most:
        raise Fault(f"it took {peak >> 20} MiB")


@contextlib.contextmanager
def bounded(seconds: float) -> Iterator[None]:
    """Raises Fault after so many seconds of this process's processor time.

    Where there is no such timer (Windows, or in a thread), what takes longer is found out in the end only.
    """
    begun = time.process_time()
    timer = hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()

    def ring(*_: object) -> None:
        raise Fault(f"no end after {seconds} s")

    if timer:
        before = signal.signal(signal.SIGVTALRM, ring)
        signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        if timer:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            signal.signal(signal.SIGVTALRM, before)
    if time.process_time() - begun > seconds:
        raise Fault(f"it took {time.process_time() - begun:.1f} s")
