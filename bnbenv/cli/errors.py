"""How an error looks: one sentence, the detail if there is some, the next step."""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bnbenv.cli.render.text import harmless
from bnbenv.errors import BnbenvError, Exit, Failed

_AWAY = "Move it away, then run it again."
_OS_ERRORS = {
    errno.ENOSPC: ("no-space", "no space left on the device", "Free some space there (bnbenv gc), then run it again."),
    errno.EDQUOT: ("no-space", "the disk quota is used up", "Free some space (bnbenv gc), then run it again."),
    errno.EACCES: ("no-permission", "permission denied", "Run it as the user who owns that folder."),
    errno.EPERM: ("no-permission", "operation not permitted", "Run it as the user who owns that folder."),
    errno.EEXIST: ("in-the-way", "something else is where bnbenv's folder belongs", _AWAY),
    errno.ENOTDIR: ("in-the-way", "a file is where bnbenv's folder belongs", _AWAY),
    errno.EISDIR: ("in-the-way", "a folder is where bnbenv's file belongs", _AWAY),
    errno.EROFS: ("read-only", "the file system is read-only", "Choose another folder with --project or BNBENV_HOME."),
}

LONGEST = 600  # characters of a sentence


class Interrupted(BnbenvError):
    """Ctrl-C."""

    exit = Exit.INTERRUPTED


def from_exception(error: BaseException, command: str = "") -> BnbenvError:
    """Whatever went wrong, as an error for people."""
    if isinstance(error, KeyboardInterrupt):
        if command in ("fit", "config"):  # which change nothing
            return Interrupted("interrupted", "interrupted")
        again = command in ("build", "prequantize")
        step = "Run it again: it goes on where it stopped." if again else "See it: bnbenv status"
        kept = "what is finished is kept" if command == "prequantize" else "what is in use is whole"
        return Interrupted("interrupted", f"interrupted: {kept}", step)
    if isinstance(error, MemoryError):
        return Failed("out-of-memory", "out of memory; nothing in use was changed")
    if isinstance(error, OSError):
        return from_os_error(error)
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = f" ({place.tb_frame.f_code.co_filename}, line {place.tb_lineno})" if place else ""
    message = f"this is a fault of bnbenv itself: {type(error).__name__}: {error}{where}"
    return Failed("internal", message, "Please report it, with this line and the output of: bnbenv facts")


def from_os_error(error: OSError) -> BnbenvError:
    """What the operating system refused, as a sentence with the file's name."""
    default = ("os-error", (error.strerror or type(error).__name__).lower(), "")
    code, message, next_step = _OS_ERRORS.get(error.errno or 0, default)
    # What is written in one step is written under another name first (paths.write_atomically).
    name = re.sub(r"([/\\])\.([^/\\]+)\.\d+\.part$", r"\1\2", str(error.filename or ""))
    place = f"{name}: " if name else ""
    return Failed(code, f"{place}{message}; nothing in use was changed", next_step)


def document(error: BnbenvError, command: str, environ: Mapping[str, str]) -> dict[str, Any]:
    """The JSON document of a command that ended with an error."""
    return {
        "schema": f"bnbenv.{command}/1",
        "error": {
            "code": error.code,
            "message": _sentence(error.message, environ),
            "next_step": _sentence(error.next_step, environ),
            "detail": _clean(error.detail, environ),
        },
    }


def render(error: BnbenvError, environ: Mapping[str, str], log: Path | None = None) -> str:
    """The error for people, for standard error; ``log`` is named where it tells more. The next step stands last."""
    message = _sentence(error.message, environ)
    lines = [message if isinstance(error, Interrupted) else f"error: {message}"]
    if error.detail:
        detail = _clean(error.detail, environ).strip().splitlines()
        lines += ["", *(f"  {harmless(line.expandtabs())}".rstrip() for line in detail), ""]
    if log is not None:
        lines.append(f"log: {log}")
    if error.next_step:
        lines.append(f"next: {_sentence(error.next_step, environ)}")
    return "\n".join(lines)


def _sentence(text: str, environ: Mapping[str, str]) -> str:
    """One line without credentials; of what is longer than anybody reads, the beginning and the end."""
    line = _clean(harmless(text), environ)
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 150]} ... {line[-140:]}"


def _clean(text: str, environ: Mapping[str, str]) -> str:
    if "://" not in text:
        return text
    from bnbenv.redact import redact

    return redact(text)
