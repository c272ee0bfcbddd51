"""How ``bnbenv sync`` looks."""

from __future__ import annotations

from typing import Any

from bnbenv.cli.render.choice import in_short
from bnbenv.cli.render.text import describe, wrap


def render(document: dict[str, Any]) -> str:
    lines = []
    for row in document["generations"]:
        lines += made(row, [action for action in document["actions"] if action["env"] == row["env"]])
    for note in document["notes"]:
        lines += wrap(f"note: {note}")
    done = [row for row in document["generations"] if any(one["env"] == row["env"] for one in document["actions"])]
    lines += [f"use {'it' if len(done) == 1 else row['env']}: {row['python']}" for row in done]
    return "\n".join(lines)


def made(row: dict[str, Any], actions: list[dict[str, Any]]) -> list[str]:
    """What was done for one environment."""
    if not actions:
        notes = [line for note in row["notes"] for line in wrap(f"note: {note}", "  ")]
        return [f"in sync, nothing to do: {row['env']} (generation {row['generation']})", *notes]
    verb = "switched to" if row["changed"] else "kept"
    lines = wrap(f"{row['env']}: {verb} generation {row['generation']}: {describe(row['choice'])}")
    if row["decision"]:
        lines += in_short(row["decision"], "bnbenv status --why")
    lines += _verification(row)
    for note in row["notes"]:
        lines += wrap(f"note: {note}", "  ")
    return lines


def _verification(row: dict[str, Any]) -> list[str]:
    verification = row["verification"]
    if not verification:
        return [
            "  verified when it was made" if row["verified"] else "  not verified yet: bnbenv sync runs its kernels"
        ]
    lines = []
    for device in verification["devices"]:
        passed = sum(1 for step in device["steps"] if step["ok"])
        lines += wrap(f"verified on {device['device']}: {passed} checks agree with their references", "  ")
    for warning in verification["warnings"]:
        lines += wrap(f"warning: {warning}", "  ")
    return lines
