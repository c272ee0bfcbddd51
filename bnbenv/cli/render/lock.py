"""How ``bnbenv lock`` looks."""

from __future__ import annotations

from typing import Any


def render(document: dict[str, Any]) -> str:
    lines = []
    for row in document["locks"]:
        torch, wheel = row["choice"]["torch"], row["choice"]["bitsandbytes"]
        verb = "wrote" if row["changed"] else "unchanged:"
        lines.append(f"{verb} {row['path']}")
        lines.append(f"  torch {torch['version']}, bitsandbytes {wheel['version']}, {len(row['packages'])} packages")
    lines.append("next: bnbenv sync")
    return "\n".join(lines)
