"""How ``bnbenv add`` looks."""

from __future__ import annotations

from typing import Any

from bnbenv.cli.render.sync import made
from bnbenv.cli.render.text import wrap


def render(document: dict[str, Any]) -> str:
    env, family = document["env"], document["family"]
    if not document["added"]:
        lines = wrap(f"there already, nothing to do: {env} (family {family})")
        return "\n".join([*lines, f"next: bnbenv sync --env {env} (does nothing where it is in sync)"])
    lines = wrap(f"added {env} (family {family}) to {document['config']}")
    row = document["generation"]
    if row is None:
        return "\n".join([*lines, f"next: bnbenv sync --env {env}"])
    return "\n".join([*lines, *made(row, document["actions"]), f"use it: {row['python']}"])
