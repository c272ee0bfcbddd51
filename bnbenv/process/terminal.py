"""A pseudo-terminal for a command's output, so that it sees a terminal although its output is read here.

Only output goes through it. Input, the controlling terminal and the foreground stay those of the real terminal: Ctrl-C,
Ctrl-Z, password prompts and line editing need no help, and a kill -9 of bnbenv leaves no terminal in raw mode. POSIX.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import struct
import termios
from typing import Any

_IFLAG, _OFLAG, _LFLAG, _CC = 0, 1, 3, 6  # places in what tcgetattr gives
_FLAGS = (_IFLAG, _OFLAG, _LFLAG)


class Terminal:
    """A pseudo-terminal that looks like the real one behind ``real``, a file descriptor. Raises OSError.

    ``command_end`` is given to the command and closed here afterwards; ``own_end`` is read.
    """

    def __init__(self, real: int) -> None:
        self._real = real
        self._before: list[Any] = termios.tcgetattr(real)
        self._changed = False
        self.own_end, self.command_end = os.openpty()
        attributes = termios.tcgetattr(real)
        # The real terminal makes CR LF of LF; done twice, bytes would be changed.
        attributes[_OFLAG] &= ~termios.OPOST
        termios.tcsetattr(self.command_end, termios.TCSANOW, attributes)
        self._known: list[Any] = termios.tcgetattr(self.command_end)
        self.resize()

    @classmethod
    def like(cls, output: int) -> Terminal | None:
        """One for an output that is a terminal, where the system has one to give (not every container has)."""
        try:
            return cls(output) if os.isatty(output) else None
        except (OSError, termios.error):
            return None

    def resize(self) -> None:
        """Give it the real terminal's number of rows and columns."""
        with contextlib.suppress(OSError):
            size = fcntl.ioctl(self._real, termios.TIOCGWINSZ, struct.pack("4H", 0, 0, 0, 0))
            fcntl.ioctl(self.own_end, termios.TIOCSWINSZ, size)

    def tell_resized(self, command: int) -> None:
        """Signal whoever is in the foreground of the real terminal again: the kernel did it before the size was set."""
        with contextlib.suppress(OSError):
            try:
                os.killpg(os.tcgetpgrp(self._real), signal.SIGWINCH)
            except OSError:  # it is not the terminal of this session
                os.kill(command, signal.SIGWINCH)

    def follow(self) -> None:
        """Do to the real terminal what the command did to this one.

        Programs that draw on the whole screen (curses) set the modes of the terminal that they write to, and mean the
        keyboard with it.
        """
        try:
            now = termios.tcgetattr(self.own_end)
            if now == self._known:
                return
            known, self._known = self._known, now
            if not self._may_be_changed():
                return
            real = termios.tcgetattr(self._real)
            for place in _FLAGS:
                changed = known[place] ^ now[place]
                real[place] = (real[place] & ~changed) | (now[place] & changed)
            for place in (termios.VMIN, termios.VTIME):
                if known[_CC][place] != now[_CC][place]:
                    real[_CC][place] = now[_CC][place]
            termios.tcsetattr(self._real, termios.TCSADRAIN, real)
            self._changed = True
        except (OSError, termios.error):
            return

    def restore(self) -> None:
        """The real terminal as it was before, where the command's changes were followed. Never raises."""
        if self._changed and self._may_be_changed():
            with contextlib.suppress(OSError, termios.error):
                termios.tcsetattr(self._real, termios.TCSADRAIN, self._before)
            self._changed = False

    def _may_be_changed(self) -> bool:
        """Whether the foreground is the command's: its own group's, or one that it made (a shell), not its parent's."""
        try:
            front = os.tcgetpgrp(self._real)
            return front == os.getpgrp() or front != os.getpgid(os.getppid())
        except OSError:
            return False


def same_terminal(one: int, other: int) -> bool:
    """Whether two file descriptors are of the same terminal."""
    try:
        return os.isatty(one) and os.isatty(other) and os.fstat(one).st_rdev == os.fstat(other).st_rdev
    except OSError:
        return False
