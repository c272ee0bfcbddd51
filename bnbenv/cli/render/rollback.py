"""How ``bnbenv rollback`` looks."""

from __future__ import annotations

from typing import Any


def render(document: dict[str, Any]) -> str:
    before = f" (was {document['from']})" if document["from"] is not None else ""
    if document["from"] == document["generation"]:
        before = " already"
    return f"{document['env']}: generation {document['generation']} is in use{before}\nnext: bnbenv check"
