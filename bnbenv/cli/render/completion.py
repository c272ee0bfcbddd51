"""How ``bnbenv completion`` looks: the script itself."""

from __future__ import annotations

from typing import Any


def render(document: dict[str, Any]) -> str:
    return str(document["script"])
