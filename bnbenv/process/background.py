"""A helper program that prints lines while something else is done."""

from __future__ import annotations

import contextlib
import subprocess
import threading
from collections.abc import Callable

from bnbenv.process.runner import GRACE, Command, environment, in_the_child


class Background:
    """Runs a command beside everything else; ``take`` is given each line that it prints, and "" at its end.

    ``make`` is called after ``delay`` seconds, for what is over by then costs nothing; it may say that there is nothing
    to run (None). All of it happens in a thread of its own, ``take`` too. The command's time limit counts for nothing:
    it ends with ``stop``, and with bnbenv.
    """

    def __init__(self, make: Callable[[], Command | None], take: Callable[[str], None], delay: float = 0.0) -> None:
        self._make, self._take, self._delay = make, take, delay
        self._ending = threading.Event()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it; ``take`` is not called any more."""
        self._ending.set()
        with self._lock:
            if self._process is not None:
                self._process.kill()
        self._thread.join(GRACE)

    def _run(self) -> None:
        if self._ending.wait(self._delay):
            return
        with contextlib.suppress(OSError):
            self._follow()
        if not self._ending.is_set():
            self._take("")

    def _follow(self) -> None:
        command = self._make()
        if command is None:
            return
        with self._lock:
            if self._ending.is_set():
                return
            self._process = process = subprocess.Popen(
                command.argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment(command.env),
                cwd=command.cwd,
                start_new_session=True,  # Ctrl-C is not meant for it
                preexec_fn=in_the_child(),  # noqa: PLW1509 - only system calls, made before exec
                text=True,
                encoding="utf-8",
                errors="replace",
            )
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                if self._ending.is_set():
                    break
                self._take(line)
        process.kill()
        process.wait()
