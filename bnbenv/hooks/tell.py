"""A line for the next interactive shell or desktop session of a user, which ``tell.sh`` shows once.

Four lines: the event's name, the start of the machine it was written in, what is said until the next start, and what
is said after it; either may be empty. Where they are the same, it is said once all the same.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from bnbenv.paths import write_atomically

_TOLD = "told-"


def leave(box: Path, event: str, boot: str, until_reboot: str, after_reboot: str) -> None:
    """Leave a message in a user's box, in place of an earlier one. Raises OSError.

    What was told of the same event is not told again. Root does this in a folder of the user's, so nothing here follows
    what the user may have put there: a file is made anew and renamed, and its mode is left to the umask.
    """
    event = re.sub(r"[^A-Za-z0-9-]", "-", event)
    lines = [event, boot, _line(until_reboot), _line(after_reboot)]
    write_atomically(box / "message", "\n".join(lines) + "\n")
    forget(box, event)


def clear(box: Path) -> None:
    """Nothing is to be said any more. What is not there, or cannot be deleted, stays as it is."""
    with contextlib.suppress(OSError):
        (box / "message").unlink(missing_ok=True)
    forget(box, None)


def forget(box: Path, but: str | None) -> None:
    """Delete what says that other messages were told."""
    with contextlib.suppress(OSError):
        for path in box.glob(f"{_TOLD}*"):
            if but is None or not path.name.startswith(f"{_TOLD}{but}-"):
                path.unlink(missing_ok=True)


def waiting(box: Path, boot: str) -> tuple[str, bool] | None:
    """What a user is to be told now, and whether that was done; None: nothing."""
    try:
        with (box / "message").open(encoding="utf-8", errors="replace") as stream:
            event, then, before, after = (stream.readline(4096).rstrip("\n") for _ in range(4))
    except OSError:
        return None
    text, when = (before, "now") if then == boot or before == after else (after, "later")
    return (text, (box / f"{_TOLD}{event}-{when}").exists()) if text else None


def _line(text: str) -> str:
    """One line without codes that a terminal obeys, nor signs that a notification's markup knows."""
    plain = "".join(sign if sign.isprintable() else " " for sign in text)
    return plain.replace("&", "+").replace("<", "(").replace("\\", "/").strip()[:400]
