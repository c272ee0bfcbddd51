"""How ``bnbenv check`` looks."""

from __future__ import annotations

from typing import Any


def render(document: dict[str, Any]) -> str:
    names = ", ".join(document["environments"])
    if document["in_sync"]:
        return f"in sync: {names}"
    lines = ["not in sync:"]
    lines += [f"  {reason['env']}: {reason['because']}" for reason in document["reasons"]]
    lines.append("next: bnbenv sync (bnbenv plan shows what it would do)")
    return "\n".join(lines)
