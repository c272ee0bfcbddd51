"""How ``bnbenv hook install`` looks."""

from __future__ import annotations

from typing import Any

from bnbenv.cli.render.text import listed, wrap


def render(document: dict[str, Any]) -> str:
    kinds = list(dict.fromkeys(file["kind"] for file in document["files"] if file["kind"] != "scripts"))
    changed = [file for file in document["files"] if file["state"] != "unchanged"]
    whose = "for this user" if document["user"] else "for the system"
    did = "installed" if changed else "nothing to do: installed"
    lines = wrap(f"{did} {whose}: {listed(kinds)}")
    for file in changed:
        lines += wrap(f"{file['state']} {file['path']}", "  ")
    lines += projects(document)
    lines += [line for note in document["notes"] for line in wrap(f"note: {note}", "  ")]
    user = " --user" if document["user"] else ""
    lines.append(f"next: bnbenv hook status (to remove them: bnbenv hook uninstall{user})")
    return "\n".join(lines)


def projects(document: dict[str, Any]) -> list[str]:
    """Which projects the hooks are about."""
    rows = document["projects"]
    if not rows:
        return wrap("no project is synced by them (bnbenv hook install --project DIR names one)", "  ")
    return [
        line for row in rows for line in wrap(f"syncs {row['path'] or 'the own environment'} of {row['owner']}", "  ")
    ]
