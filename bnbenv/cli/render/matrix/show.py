"""How ``bnbenv matrix show`` looks."""

from __future__ import annotations

from typing import Any


def render(document: dict[str, Any]) -> str:
    """The size of the matrix."""
    return f"{len(document['bitsandbytes'])} bitsandbytes wheels, {len(document['torch'])} torch builds"
