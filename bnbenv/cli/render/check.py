"""How ``bnbenv check`` looks."""

from __future__ import annotations

from typing import Any

from bnbenv.cli.render.text import wrap

# What sync would only refuse has a step of its own, the weightiest first.
_STEPS = {
    "gpu-lost": "bnbenv plan (it says how to get the GPU back, or how to go on without it)",
    "record-newer": "upgrade bnbenv, then run: bnbenv check",
}


def render(document: dict[str, Any]) -> str:
    if document["in_sync"]:
        return f"in sync: {', '.join(document['environments'])}"
    names = dict.fromkeys(reason["env"] for reason in document["reasons"])
    lines = [f"not in sync: {', '.join(names)}"]
    for reason in document["reasons"]:
        lines += wrap(f"{reason['env']}: {reason['because']}", "  ")
    lines.append(f"project: {document['project']}")
    lines.append(f"next: {next_step([reason['code'] for reason in document['reasons']])}")
    return "\n".join(lines)


def next_step(codes: list[str]) -> str:
    """What to do about reasons for not being in sync."""
    special = (step for code, step in _STEPS.items() if code in codes)
    return next(special, "bnbenv sync (bnbenv plan shows what it would do)")
