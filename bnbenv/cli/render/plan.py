"""How ``bnbenv plan`` looks."""

from __future__ import annotations

from typing import Any


def render(document: dict[str, Any]) -> str:
    names = ", ".join(document["environments"])
    if document["in_sync"]:
        return f"in sync, nothing to do: {names}"
    lines = ["because:"]
    lines += [f"  {reason['env']}: {reason['because']}" for reason in document["reasons"]]
    lines.append("sync would:")
    lines += [f"  {action['env']}: {action['action']}: {action['what']}" for action in document["actions"]]
    lines += [f"note: {note}" for note in document["notes"]]
    lines.append("next: bnbenv sync")
    return "\n".join(lines)
