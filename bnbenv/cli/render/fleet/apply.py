"""How ``bnbenv fleet apply`` looks."""

from __future__ import annotations

from typing import Any

from bnbenv.cli.render.fleet.host import environment
from bnbenv.cli.render.text import wrap

_STATES = {
    "changed": "changed",
    "in-sync": "in sync",
    "would-change": "changes are pending",
    "in-use": "left for later",
    "moved": "left as it is",
    "busy": "left as it is",
    "reboot": "left as it is",
    "verify-failed": "the kernels failed, and it has what it had",
    "no-combination": "it does not fit this host, which has what it had",
    "failed": "failed",
}


def render(document: dict[str, Any]) -> str:
    """How it ended, why, and what is in use."""
    because = f": {document['because']}" if document["because"] else ""
    lines = wrap(f"{_STATES[document['state']]}{because}")
    lines += [line for row in document["environments"] for line in environment(row)]
    if document["rolled_back"]:
        lines += wrap(f"switched back: {', '.join(document['rolled_back'])}")
    if document["next_step"]:
        lines.append(f"next: {document['next_step']}")
    return "\n".join(lines)
