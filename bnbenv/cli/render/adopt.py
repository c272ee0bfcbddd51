"""How ``bnbenv adopt`` looks: what was taken in, whether it fits, and what follows."""

from __future__ import annotations

from typing import Any

from bnbenv.cli.render.text import describe, wrap


def render(document: dict[str, Any]) -> str:
    env = document["env"]
    kind = "conda environment" if document["kind"] == "conda" else "venv"
    lines = wrap(f"{env}: adopted {document['adopted']}, as it is: {describe(document['choice'])}")
    lines += wrap(f"a {kind} with {document['packages']} packages; nothing in it was changed", "  ")
    for reason in document["reasons"]:
        lines += wrap(f"not in sync: {reason['because']}", "  ")
    lines += _verified(document)
    if document["wrote"]:
        wishes = f"[envs.{env}] was written into {document['config']}"
        asked = ", ".join(document["requirements"])
        lines += wrap(f"{wishes}{f', with what was installed in it on purpose: {asked}' if asked else ''}", "  ")
    for note in document["notes"]:
        lines += wrap(f"note: {note}", "  ")
    if document["reasons"]:
        return "\n".join([*lines, f"next: bnbenv plan --env {env} (what a generation made from it would be)"])
    return "\n".join([*lines, f"use it: {document['python']}"])


def _verified(document: dict[str, Any]) -> list[str]:
    if document["reasons"]:
        return []
    if not document["verification"]:
        return ["  not verified yet: bnbenv sync runs its kernels"]
    lines = []
    for device in document["verification"]["devices"]:
        passed = sum(1 for step in device["steps"] if step["ok"])
        lines += wrap(f"verified on {device['device']}: {passed} checks agree with their references", "  ")
    for warning in document["verification"]["warnings"]:
        lines += wrap(f"warning: {warning}", "  ")
    return lines
