"""How ``bnbenv sync`` looks."""

from __future__ import annotations

from typing import Any


def render(document: dict[str, Any]) -> str:
    lines = []
    for row in document["generations"]:
        lines += _row(row, [action for action in document["actions"] if action["env"] == row["env"]])
    lines += [f"note: {note}" for note in document["notes"]]
    return "\n".join(lines)


def _row(row: dict[str, Any], actions: list[dict[str, Any]]) -> list[str]:
    choice = row["choice"]
    if not actions:
        return [f"in sync, nothing to do: {row['env']} (generation {row['generation']})"]
    torch, wheel = choice["torch"], choice["bitsandbytes"]
    cuda = f"CUDA {torch['cuda']}" if torch["cuda"] else "CPU"
    verb = "switched to" if row["changed"] else "kept"
    lines = [
        f"{row['env']}: {verb} generation {row['generation']}: bitsandbytes {wheel['version']}, "
        f"torch {torch['version']} ({cuda}), Python {choice['python']}",
    ]
    verification = row["verification"]
    if verification:
        for device in verification["devices"]:
            passed = sum(1 for step in device["steps"] if step["ok"])
            lines.append(f"  verified on {device['device']}: {passed} kernel checks agree with their references")
    else:
        lines.append("  not verified: run bnbenv verify")
    lines += [f"  note: {note}" for note in row["notes"]]
    lines.append(f"use it: {row['python']}")
    return lines
