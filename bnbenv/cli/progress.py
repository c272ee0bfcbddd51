"""How work that is under way looks: lines that stay and, after a second, what is at hand in a line of its own."""

from __future__ import annotations

import os
import sys
import time
from _thread import allocate_lock  # what threading.Lock is; threading itself takes a millisecond to import
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnbenv.cli.render.text import harmless

if TYPE_CHECKING:
    import threading

    from bnbenv.cli.log import RunLog
    from bnbenv.process import Command, Finished, Runner
    from bnbenv.progress import Progress

PATIENCE = 1.0  # seconds without a line before a terminal shows what is at hand
REFRESH = 0.25
STILL = 15.0  # seconds between two such lines where nothing can be overwritten

_CLEAR = "\r\x1b[2K"


class Teller:
    """Tells people and the log what happens. ``put`` writes one line to standard error.

    ``level``: -1 tells nothing (``-q``), 1 tells details (``-v``). ``draw`` writes to a terminal without a line's end,
    over the same line again and again; None: it is no terminal, or one that cannot, and after every ``still`` seconds
    of silence a line says that it goes on.
    """

    def __init__(
        self,
        put: Callable[[str], None],
        log: RunLog,
        level: int = 0,
        draw: Callable[[str], None] | None = None,
        still: float = STILL,
    ) -> None:
        self._put, self._log, self._level, self._draw, self._still = put, log, level, draw, still
        self._text, self._since, self._heard = "", 0.0, time.monotonic()
        self._drawn = False
        self._lock = allocate_lock()
        self._ending: threading.Event | None = None

    def say(self, line: str) -> None:
        self._log.add(line)
        if self._level >= 0:
            self._line(line)

    def detail(self, line: str) -> None:
        self._log.add(line)
        if self._level > 0:
            from bnbenv.redact import redact

            self._line("\n".join(f"  {one}" for one in redact(line).splitlines()))

    def at(self, text: str) -> None:
        with self._lock:
            if text and not self._text:
                self._since = time.monotonic()
            self._text = harmless(text)
            if not text:
                self._clear()
        if text and self._ending is None and self._level >= 0:
            import threading

            self._ending = threading.Event()
            threading.Thread(target=self._show, args=(self._ending,), daemon=True).start()

    def close(self) -> None:
        """Leave nothing on the terminal but whole lines."""
        if self._ending is not None:
            self._ending.set()
            self._ending = None
        with self._lock:
            self._text = ""
            self._clear()

    def _line(self, line: str) -> None:
        with self._lock:
            self._clear()
            self._put(harmless(line, keep="\n"))
            self._heard = time.monotonic()

    def _show(self, ending: threading.Event) -> None:
        import signal

        if hasattr(signal, "pthread_sigmask"):  # a signal is for the main thread, which may wait for one
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while not ending.wait(REFRESH):
            with self._lock:
                now = time.monotonic()
                passed, silent = now - self._since, now - self._heard
                if not self._text or ending.is_set():
                    continue
                if self._draw is None:
                    if silent >= self._still:
                        self._heard = now
                        self._put(f"{self._text} ({passed:.0f} s so far)")
                elif silent >= PATIENCE:
                    self._draw(_CLEAR + _fitting(self._text, f" ({passed:.0f} s)" if passed >= 1 else ""))
                    self._drawn = True

    def _clear(self) -> None:
        if self._drawn and self._draw is not None:
            self._draw(_CLEAR)
            self._drawn = False


def _fitting(text: str, ending: str) -> str:
    """As much of a text as fits the line of the terminal, with its ending whole."""
    import shutil

    room = shutil.get_terminal_size().columns - 1 - len(ending)
    return (text if len(text) <= room else text[: max(0, room - 3)] + "...") + ending


def can_overwrite(stream: Any, environ: Mapping[str, str], system: str = os.name) -> bool:
    """Whether a line of a stream can be written over: a terminal that is not dumb.

    A screen reader reads such a line again at every change, so ``BNBENV_PROGRESS=lines`` forbids it.
    """
    if environ.get("TERM") == "dumb" or environ.get("BNBENV_PROGRESS") == "lines":
        return False
    if system == "nt" and not {"WT_SESSION", "ANSICON", "TERM"} & environ.keys():
        return False
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):  # no stream, or one that was closed
        return False


def draw(text: str) -> None:
    """Write to standard error without a line's end; a terminal that went away is no failure."""
    if sys.stderr is not None:
        try:
            sys.stderr.write(text)
            sys.stderr.flush()
        except OSError:
            return


class TellingRunner:
    """Runs commands, and tells which, how they ended and what they said if they failed.

    Without a ``runner`` it is the system's, made when the first command is run: most commands of bnbenv run none.
    """

    def __init__(self, runner: Runner | None, progress: Progress) -> None:
        self._runner, self._progress = runner, progress

    def run(self, command: Command) -> Finished:
        if self._runner is None:
            from bnbenv.process import SystemRunner

            self._runner = SystemRunner()
        try:
            done = self._runner.run(command)
        except OSError as error:
            self._progress.detail(f"{_words(command)}: cannot be started ({error.strerror or error})")
            raise
        if done.timed_out:
            how = f"no end within {command.timeout:.0f} s"
        else:
            how = done.signal_name or f"exit {done.returncode}"
        self._progress.detail(f"{_words(command)}: {how} after {done.seconds:.2f} s")
        if not done.ok and done.stderr.strip():
            self._progress.detail(done.stderr.strip())
        return done


def _words(command: Command) -> str:
    import shlex

    program, *words = command.argv
    name = Path(program).name
    if name.startswith("ansible"):
        from bnbenv.redact import redact_variables

        words = redact_variables(words)
    return shlex.join([name, *words])
