"""How ``bnbenv lock`` looks."""

from __future__ import annotations

from typing import Any

from bnbenv.cli.render.text import describe, wrap


def render(document: dict[str, Any]) -> str:
    lines = []
    for row in document["locks"]:
        lines.append(f"{'wrote' if row['changed'] else 'unchanged:'} {row['path']}")
        lines += wrap(f"{describe(row['choice'])}, {len(row['packages'])} packages", "  ")
    lines.append("next: bnbenv sync")
    return "\n".join(lines)
