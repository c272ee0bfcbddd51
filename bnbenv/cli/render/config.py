"""How ``bnbenv config`` looks: the code itself, so that it can be written into a file."""

from __future__ import annotations

from typing import Any


def render(document: dict[str, Any]) -> str:
    return str(document["code"]).rstrip("\n")
