"""How ``bnbenv export`` looks."""

from __future__ import annotations

from typing import Any

from bnbenv.cli.render.text import wrap


def render(document: dict[str, Any]) -> str:
    """The text itself, which another program reads; where it was written to a file, that."""
    if document["path"] is None:
        return str(document["text"]).rstrip("\n")
    held = f"{document['packages']} packages of {document['env']}" if document["packages"] is not None else ""
    held = ", ".join(one["name"] for one in document["files"]) or held or document["env"] or "all environments"
    lines = wrap(f"wrote {document['path']} ({held})")
    for note in document["notes"]:
        lines += wrap(f"note: {note}", "  ")
    return "\n".join(lines)
