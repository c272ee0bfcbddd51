"""How ``bnbenv plan`` looks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bnbenv.cli.render.choice import in_short
from bnbenv.cli.render.text import wrap


def render(document: dict[str, Any], refused: Mapping[str, str] = {}, option: str = "") -> str:
    """``refused``: the environments for which there is no plan, and what to do about each; ``option``: as was asked."""
    driver = document["driver"]
    asked = f"with driver {driver}: " if driver else ""
    if document["in_sync"]:
        notes = [line for note in dict.fromkeys(document["notes"]) for line in wrap(f"note: {note}")]
        return "\n".join([f"{asked}in sync, nothing to do: {', '.join(document['environments'])}", *notes])
    names = dict.fromkeys(action["env"] for action in document["actions"])
    lines = [f"{asked}changes are pending: {', '.join(names)}"] if names else []
    if refused:
        lines.append(f"{asked}sync would fail for: {', '.join(refused)}")
    for reason in document["reasons"]:
        lines += wrap(f"{reason['env']}: {reason['because']}", "  ")
    if names:
        lines.append(f"bnbenv sync{option} would:")
    for action in document["actions"]:
        lines += wrap(f"{action['env']}: {action['action']}: {action['what']}", "  ")
    for row in document["decisions"]:
        short = in_short(row["decision"], "bnbenv solve")
        if len(document["decisions"]) > 1:
            lines.append(f"{row['env']}:")
        lines += short
    for note in dict.fromkeys(document["notes"]):
        lines += wrap(f"note: {note}")
    lines.append(f"project: {document['project']}")
    lines += [f"next: {step}" for step in refused.values() if step]
    if not refused:
        lines.append(f"next: bnbenv sync{option}{f', once driver {driver} is installed' if driver else ''}")
    return "\n".join(lines)
