"""How ``bnbenv init`` looks."""

from __future__ import annotations

from typing import Any


def render(document: dict[str, Any]) -> str:
    return f"wrote {document['path']}\nnext: bnbenv sync"
