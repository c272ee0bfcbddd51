"""How ``bnbenv guard`` looks."""

from __future__ import annotations

from typing import Any

from bnbenv.cli.render.text import wrap


def render(document: dict[str, Any]) -> str:
    rows = document["environments"]
    lines = [line for row in rows for line in wrap(f"{row['env']}: {_state(row)}")]
    wished = any(row["wished"] for row in rows)
    if document["changed"] and wished:
        lines += wrap(f"written into {document['config']}")
    if any(row["guard"] == "pending" for row in rows):
        lines.append("next: bnbenv sync")
    elif not wished:
        lines.append("no trace of it is left" if document["changed"] else "turn it on with: bnbenv guard on")
    return "\n".join(lines)


def _state(row: dict[str, Any]) -> str:
    if row["guard"] == "on":
        return "the drift guard is on: an import of what it is for says what was changed behind the lock"
    if row["guard"] == "off":
        return "the drift guard is off"
    if row["wished"]:
        return "the drift guard is asked for, and the environment in use has it not yet"
    return "the environment in use has the drift guard, and bnbenv.toml does not ask for it"
