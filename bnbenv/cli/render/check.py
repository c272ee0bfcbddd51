"""How ``bnbenv check`` looks."""

from __future__ import annotations

from typing import Any

from bnbenv.cli.render.text import wrap


def render(document: dict[str, Any]) -> str:
    if document["in_sync"]:
        return f"in sync: {', '.join(document['environments'])}"
    names = dict.fromkeys(reason["env"] for reason in document["reasons"])
    lines = [f"not in sync: {', '.join(names)}"]
    for reason in document["reasons"]:
        lines += wrap(f"{reason['env']}: {reason['because']}", "  ")
    lines.append(f"project: {document['project']}")
    lines.append("next: bnbenv sync (bnbenv plan shows what it would do)")
    return "\n".join(lines)
