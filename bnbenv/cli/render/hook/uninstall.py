"""How ``bnbenv hook uninstall`` looks."""

from __future__ import annotations

from typing import Any

from bnbenv.cli.render.hook.install import projects
from bnbenv.cli.render.text import listed, wrap


def render(document: dict[str, Any]) -> str:
    whose = "of this user" if document["user"] else "of the system"
    files = document["files"]
    if not files:
        lines = wrap(f"no hook {whose} was removed")
    else:
        lines = wrap(f"removed hooks {whose}: {listed(list(dict.fromkeys(file['kind'] for file in files)))}")
    for file in files:
        lines += wrap(f"{file['state']} {file['path']}", "  ")
    lines += projects(document) if document["projects"] else []
    lines += [line for note in document["notes"] for line in wrap(f"note: {note}", "  ")]
    return "\n".join(lines)
