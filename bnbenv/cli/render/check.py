"""How ``bnbenv check`` looks."""

from __future__ import annotations

from typing import Any

from bnbenv.cli.render.text import wrap

# What sync would only refuse has a step of its own, the weightiest first.
_STEPS = {
    "link-replaced": "mv .venv-{env} .venv-{env}.old, then run: bnbenv sync",
    "gpu-lost": "bnbenv plan (it says how to get the GPU back, or how to go on without it)",
    "record-newer": "upgrade bnbenv, then run: bnbenv check",
    "lock-unreadable": "bnbenv lock (it writes the lock anew), then run: bnbenv sync",
}


def render(document: dict[str, Any]) -> str:
    if document["in_sync"]:
        return f"in sync: {', '.join(document['environments'])}"
    names = dict.fromkeys(reason["env"] for reason in document["reasons"])
    lines = [f"not in sync: {', '.join(names)}"]
    for reason in document["reasons"]:
        lines += wrap(f"{reason['env']}: {reason['because']}", "  ")
    lines.append(f"project: {document['project']}")
    lines.append(f"next: {next_step(document['reasons'])}")
    return "\n".join(lines)


def next_step(reasons: list[dict[str, str]]) -> str:
    """What to do about reasons for not being in sync."""
    found = {reason["code"]: reason["env"] for reason in reversed(reasons)}
    special = (step.format(env=found[code]) for code, step in _STEPS.items() if code in found)
    return next(special, "bnbenv sync (bnbenv plan shows what it would do)")
