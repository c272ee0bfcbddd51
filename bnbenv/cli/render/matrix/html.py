"""How ``bnbenv matrix html`` looks."""

from __future__ import annotations

from typing import Any


def render(document: dict[str, Any]) -> str:
    rows = document["rows"]
    size = f"{document['bytes'] / 1e6:.1f} MB"
    about = f"{rows['bitsandbytes']} bitsandbytes wheels and {rows['torch']} torch builds"
    return f"wrote {document['path']}\n{about}, {size}\nnext: open it in a browser"
