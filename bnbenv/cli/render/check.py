"""How ``bnbenv check`` looks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bnbenv.cli.render.text import wrap

# What sync would only refuse has a step of its own, the weightiest first.
_STEPS = {
    "link-replaced": "mv .venv-{env} .venv-{env}.old, then run: bnbenv sync",
    "gpu-lost": "bnbenv plan (it says how to get the GPU back, or how to go on without it)",
    "record-newer": "upgrade bnbenv, then run: bnbenv check",
    "lock-unreadable": "bnbenv lock (it writes the lock anew), then run: bnbenv sync",
}


_LONGEST = 120  # signs of a reason that is shown among others, as in Slurm's sinfo -R


def render(document: dict[str, Any], reason: bool = False, failed: tuple[str, str] | None = None) -> str:
    """``reason``: one line, empty where all is in sync. ``failed``: a project's folder, and why it cannot be said."""
    if failed is not None:
        return _line(*failed)
    if reason:
        said = [f"{one['env']}: {one['because']}" for one in document["reasons"]]
        more = f" (and {len(said) - 1} more)" if said[1:] else ""
        return _line(document["project"], said[0], more) if said else ""
    if document["in_sync"]:
        return f"in sync: {', '.join(document['environments'])}"
    names = dict.fromkeys(reason["env"] for reason in document["reasons"])
    lines = [f"not in sync: {', '.join(names)}"]
    for one in document["reasons"]:
        lines += wrap(f"{one['env']}: {one['because']}", "  ")
    lines.append(f"project: {document['project']}")
    lines.append(f"next: {next_step(document['reasons'])}")
    return "\n".join(lines)


def reason_mark(root: str) -> str:
    """How each reason of a project begins: by it, who wrote one knows it again. ``root`` is the project's folder."""
    return f"bnbenv: {_plain(Path(root).name)[:40] or 'project'}:"


def _line(root: str, because: str, more: str = "") -> str:
    line = f"{reason_mark(root)} {_plain(because)}"
    room = _LONGEST - len(more)
    return (line if len(line) <= room else line[: room - 3].rstrip() + "...") + more


def _plain(text: str) -> str:
    """In signs that any scheduler keeps: ASCII, no quotes, and no ``|``, which divides what sinfo prints."""
    return "".join(sign if sign.isascii() and sign.isprintable() and sign not in "\"'`|\\" else "?" for sign in text)


def next_step(reasons: list[dict[str, str]]) -> str:
    """What to do about reasons for not being in sync."""
    found = {reason["code"]: reason["env"] for reason in reversed(reasons)}
    special = (step.format(env=found[code]) for code, step in _STEPS.items() if code in found)
    return next(special, "bnbenv sync (bnbenv plan shows what it would do)")
