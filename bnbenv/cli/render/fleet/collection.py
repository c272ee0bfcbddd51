"""How ``bnbenv fleet collection`` looks."""

from __future__ import annotations

from typing import Any

from bnbenv.cli.render.text import wrap


def render(document: dict[str, Any]) -> str:
    """The folder alone, which a shell puts into a variable; of a copy, what was done."""
    if not document["copied"]:
        return str(document["path"])
    name = f"{document['name']} {document['version']}"
    said = f"copied {name} to" if document["changed"] else f"{name} is already in"
    return "\n".join(
        [*wrap(said), f"  {document['collection']}", f"use {document['path']} as ANSIBLE_COLLECTIONS_PATH"]
    )
