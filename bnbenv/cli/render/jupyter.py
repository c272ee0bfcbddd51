"""How ``bnbenv jupyter`` looks."""

from __future__ import annotations

from typing import Any

from bnbenv.cli.render.text import wrap


def render(document: dict[str, Any]) -> str:
    kernel, env = document["kernel"], document["env"]
    if not document["installed"]:
        return f"kernel {kernel} is taken away" if document["changed"] else f"{env} has no kernel: nothing to do"
    lines = [f"kernel {kernel} {'installed' if document['changed'] else 'is installed already'}"]
    lines += wrap(f"it runs {document['python']}, whatever generation is in use when it starts", "  ")
    return "\n".join([*lines, f"take it away with: bnbenv jupyter --env {env} --uninstall"])
