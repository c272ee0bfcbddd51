"""How an error looks: one sentence, the detail if there is some, the next step."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Any

from bnbenv.errors import BnbenvError, Failed

_OS_ERRORS = {
    errno.ENOSPC: ("no-space", "no space left on the device", "Free some space there (bnbenv gc), then run it again."),
    errno.EDQUOT: ("no-space", "the disk quota is used up", "Free some space (bnbenv gc), then run it again."),
    errno.EACCES: ("no-permission", "permission denied", "Run it as the user who owns that folder."),
    errno.EPERM: ("no-permission", "operation not permitted", "Run it as the user who owns that folder."),
    errno.EROFS: ("read-only", "the file system is read-only", "Choose another folder with --project or BNBENV_HOME."),
}


def from_os_error(error: OSError) -> BnbenvError:
    """What the operating system refused, as a sentence with the file's name."""
    default = ("os-error", (error.strerror or type(error).__name__).lower(), "")
    code, message, next_step = _OS_ERRORS.get(error.errno or 0, default)
    place = f"{error.filename}: " if error.filename else ""
    return Failed(code, f"{place}{message}; the environment in use was kept", next_step)


def document(error: BnbenvError, command: str, environ: Mapping[str, str]) -> dict[str, Any]:
    """The JSON document of a command that ended with an error."""
    return {
        "schema": f"bnbenv.{command}/1",
        "error": {
            "code": error.code,
            "message": _clean(error.message, environ),
            "next_step": _clean(error.next_step, environ),
            "detail": _clean(error.detail, environ),
        },
    }


def render(error: BnbenvError, environ: Mapping[str, str]) -> str:
    """The error for people, for standard error."""
    lines = [f"error: {error.message}"]
    if error.detail:
        lines += ["", *(f"  {line}" for line in error.detail.strip().splitlines()), ""]
    if error.next_step:
        lines.append(f"next: {error.next_step}")
    return _clean("\n".join(lines), environ)


def _clean(text: str, environ: Mapping[str, str]) -> str:
    if "://" not in text:
        return text
    from bnbenv.envs.redact import redact

    return redact(text)
