"""The log of a run: what it told, with details, in ``.bnbenv/log/``; the last ones are kept.

A line a happening, with the seconds since the start; the last one says how it ended: ``exit 0 after 12.3 s``. A log
without it is of a run that was killed. No log ever makes a run fail.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

KEEP = 20  # runs
FOLDER = "log"  # below the project's .bnbenv


class RunLog:
    """Collects lines, and writes them once it is told where; without a place they are forgotten."""

    def __init__(self, argv: Sequence[str]) -> None:
        self._argv = tuple(argv)
        self._started, self._began = time.time(), time.monotonic()
        self._waiting: list[str] = []
        self._file: TextIO | None = None
        self.path: Path | None = None

    def add(self, line: str) -> None:
        """One happening; further lines of it are indented."""
        passed = f"{time.monotonic() - self._began:8.2f} s  "
        text = passed + line.replace("\n", "\n" + " " * len(passed)) + "\n"
        if self._file is None:
            self._waiting.append(text)
        else:
            self._write(text)

    def open(self, project_home: Path) -> None:
        """Keep this run's log below a project's ``.bnbenv``, and the last ones beside it."""
        if self._file is not None:
            return
        folder = project_home / FOLDER
        # Milliseconds, and the process: two runs of one second are two files, in order.
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(self._started)) + f".{int(self._started * 1000) % 1000:03d}Z"
        name = f"{stamp}-{self._argv[0]}-{os.getpid()}.log"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for old in sorted(folder.glob("*.log"))[: -(KEEP - 1)]:
                old.unlink(missing_ok=True)
            self._file = (folder / name).open("x", encoding="utf-8", errors="backslashreplace")
        except OSError:
            return
        self.path = folder / name
        self._write(self._head() + "".join(self._waiting))
        self._waiting.clear()

    def end(self, code: int) -> None:
        """How it ended."""
        if self._file is not None:
            self.add(f"exit {code} after {time.monotonic() - self._began:.1f} s")
            with contextlib.suppress(OSError):
                self._file.close()

    def _head(self) -> str:
        import platform
        import shlex

        from bnbenv import __version__
        from bnbenv.redact import redact_variables

        argv = redact_variables(self._argv) if self._argv[0] == "fleet" else self._argv
        return (
            f"bnbenv {__version__}, Python {platform.python_version()}, {platform.platform()}\n"
            f"{time.strftime('%Y-%m-%d %H:%M:%S %z', time.localtime(self._started))} in {Path.cwd()}\n"
            f"$ bnbenv {shlex.join(argv)}\n"
        )

    def _write(self, text: str) -> None:
        from bnbenv.redact import redact

        if self._file is not None:
            with contextlib.suppress(OSError, ValueError):
                self._file.write(redact(text))
                self._file.flush()
