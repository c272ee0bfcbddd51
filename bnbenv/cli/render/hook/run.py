"""How ``bnbenv hook run`` looks."""

from __future__ import annotations

from typing import Any

from bnbenv.cli.render.text import wrap


def render(document: dict[str, Any]) -> str:
    if document["trouble"]:
        return "\n".join(wrap(f"nothing was done: {document['trouble']}"))
    if document["state"] is None:
        return "no hooks are installed here\nnext: bnbenv hook install"
    if document["state"] == "mismatch":
        lines = wrap("reboot required: the driver's kernel module and library differ; nothing was touched")
    elif document["changes"]:
        lines = ["the machine changed"]
    else:
        lines = ["nothing changed since the last look"]
    lines += [line for change in document["changes"] for line in wrap(change, "  ")]
    for row in document["projects"]:
        said = f": {row['said']}" if row["said"] else ""
        lines += wrap(f"{row['state']} {row['path'] or 'your own environment'}{said}", "  ")
    if document["started"]:
        lines += wrap("systemd was asked to sync the projects, each as its owner", "  ")
    return "\n".join(lines)
