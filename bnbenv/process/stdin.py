"""Whether a command that is started again can be given the same standard input."""

from __future__ import annotations

import os
import stat


class Input:
    """Standard input as it is now, before the first command reads of it."""

    def __init__(self, descriptor: int = 0) -> None:
        self._descriptor = descriptor
        self._begin: int | None = None
        self._kind = "lost"
        try:
            mode = os.fstat(descriptor).st_mode
            if stat.S_ISREG(mode):
                self._begin, self._kind = os.lseek(descriptor, 0, os.SEEK_CUR), "file"
            elif stat.S_ISCHR(mode) or _has_ended(descriptor):
                self._kind = "same"  # a terminal, /dev/null, or nothing to be read
        except OSError:
            self._kind = "same"  # it is closed

    def rewind(self) -> bool:
        """Let it begin again where it began. False: what was read of a pipe or socket is gone."""
        if self._kind == "file" and self._begin is not None:
            try:
                os.lseek(self._descriptor, self._begin, os.SEEK_SET)
            except OSError:
                return False
        return self._kind != "lost"


def _has_ended(descriptor: int) -> bool:
    """Whether nobody writes to a pipe any more, and nothing is in it."""
    import select

    if not hasattr(select, "poll"):
        return False
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return [events for _, events in poll.poll(0)] == [select.POLLHUP]
