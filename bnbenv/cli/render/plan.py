"""How ``bnbenv plan`` looks."""

from __future__ import annotations

from typing import Any

from bnbenv.cli.render.choice import in_short
from bnbenv.cli.render.text import wrap


def render(document: dict[str, Any]) -> str:
    driver = document["driver"]
    asked = f"with driver {driver}: " if driver else ""
    if document["in_sync"]:
        return f"{asked}in sync, nothing to do: {', '.join(document['environments'])}"
    names = dict.fromkeys(action["env"] for action in document["actions"])
    lines = [f"{asked}changes are pending: {', '.join(names)}"]
    for reason in document["reasons"]:
        lines += wrap(f"{reason['env']}: {reason['because']}", "  ")
    lines.append("bnbenv sync would:")
    for action in document["actions"]:
        lines += wrap(f"{action['env']}: {action['action']}: {action['what']}", "  ")
    for row in document["decisions"]:
        lines += in_short(row["decision"], "bnbenv solve")
    for note in dict.fromkeys(document["notes"]):
        lines += wrap(f"note: {note}")
    lines.append(f"project: {document['project']}")
    lines.append(f"next: bnbenv sync{f', once driver {driver} is installed' if driver else ''}")
    return "\n".join(lines)
