"""How ``bnbenv gc`` looks."""

from __future__ import annotations

from typing import Any

from bnbenv.cli.render.text import listed


def render(document: dict[str, Any]) -> str:
    lines = []
    for row in document["environments"]:
        lines.append(f"{row['env']}: deleted {_generations(row['removed'])}; kept {_generations(row['kept'])}")
    return "\n".join(lines)


def _generations(numbers: list[int]) -> str:
    if not numbers:
        return "nothing"
    return f"generation{'s' if len(numbers) > 1 else ''} {listed([str(number) for number in numbers])}"
