"""Passes one stream of a command on, byte for byte, as soon as it comes."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable

from bnbenv.process.tail import Tail

CHUNK = 1 << 20  # bytes read at once
LINGER = 0.25  # seconds without a byte, after the command's end, after which what it left behind is not waited for
LONGEST = 5.0  # seconds, if what it left behind goes on writing


class Pump:
    """Reads ``source`` to its end and writes it to ``target``, both file descriptors; ``source`` is closed in the end.

    A thread a stream: one whose reader is slow holds up that stream alone, as without bnbenv. Where ``target`` cannot
    be written, ``source`` is closed, so that the command learns of it at its next write; ``fault`` says why.
    """

    def __init__(
        self, source: int, target: int, tail: Tail, number: int, each: Callable[[], None] = lambda: None
    ) -> None:
        self.fault: OSError | None = None
        self._source, self._target, self._tail, self._number, self._each = source, target, tail, number, each
        self._writing, self._heard = False, time.monotonic()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def finish(self, given_up: Callable[[], bool] = lambda: False) -> None:
        """Wait for what the command wrote before it ended. A program that it left behind may hold the stream open.

        A reader that does not read is waited for until ``given_up``.
        """
        end = time.monotonic() + LONGEST
        while True:
            self._thread.join(LINGER)
            now = time.monotonic()
            silent = now - self._heard >= LINGER
            if not self._thread.is_alive() or (not self._writing and (silent or now > end)):
                return
            if silent and given_up():
                return

    def quiet(self, seconds: float = 0.02) -> None:
        """Wait until nothing has come for a moment: what the command wrote before it stopped is then written."""
        while self._thread.is_alive() and not self._writing and time.monotonic() - self._heard < seconds:
            time.sleep(seconds / 4)

    def _run(self) -> None:
        try:
            while data := self._read():
                self._heard = time.monotonic()
                self._tail.add(self._number, data)
                self._each()
                self._writing = True
                self._write(data)
                self._writing = False
                self._heard = time.monotonic()
        except OSError as error:
            self.fault = error
        finally:
            self._writing = False
            os.close(self._source)

    def _read(self) -> bytes:
        try:
            return os.read(self._source, CHUNK)
        except OSError:  # EIO: nobody has the other end of a pseudo-terminal open any more
            return b""

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._target, view) :]
            except BlockingIOError:  # whoever started bnbenv made it so
                _until_writable(self._target)


def _until_writable(target: int) -> None:
    import select

    with contextlib.suppress(InterruptedError):
        select.select([], [target], [], 1.0)
