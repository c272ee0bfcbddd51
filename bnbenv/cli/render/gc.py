"""How ``bnbenv gc`` looks."""

from __future__ import annotations

from typing import Any


def render(document: dict[str, Any]) -> str:
    lines = []
    for row in document["environments"]:
        removed = ", ".join(map(str, row["removed"])) or "nothing"
        kept = ", ".join(map(str, row["kept"])) or "none"
        lines.append(f"{row['env']}: deleted {removed}; kept {kept}")
    return "\n".join(lines)
