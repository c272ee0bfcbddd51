"""How ``bnbenv run`` looks: nothing where there is nothing to say, for the output is the command's own."""

from __future__ import annotations

import shlex
from typing import Any

from bnbenv.cli.render.text import wrap
from bnbenv.doctor.running.sizes import show_size

OF = {"command": "peak GPU memory", "device": "GPU memory in use at most (by all processes)"}


def render(document: dict[str, Any], unwritten: str = "", unfinished: bool = False) -> str:
    """After a failure cause and fix, a line each; then the peak memory of each GPU that was used.

    ``unfinished``: the command's last line has no end. ``unwritten``: why its output could not be passed on.
    """
    lines: list[str] = []
    finding = document["finding"]
    if finding is not None:
        lines += wrap(f"cause: {finding['title']}")
        lines.append(f"fix: {_fix(finding['fix'])}")
        if document["output"]:
            lines.append(f"more: bnbenv doctor --log {shlex.quote(document['output'])}")
    if document["note"]:
        lines += wrap(document["note"])
    if unwritten:
        lines += wrap(f"warning: what the command wrote could not be passed on ({unwritten})")
    peaks = document["peak_memory"]
    if peaks:
        sizes = ", ".join(f"GPU {peak['gpu']}{_slice(peak)} {show_size(peak['bytes'])}" for peak in peaks)
        lines += wrap(f"{OF[peaks[0]['of']]}: {sizes}")
    return "\n".join(["", *lines] if lines and unfinished else lines)


def _fix(fix: dict[str, Any]) -> str:
    """One line: what to do, and the command that does it."""
    summary = fix["summary"].replace(" (code below)", "")
    return f"{summary.rstrip('.')}: {fix['command']}" if fix["command"] else summary


def _slice(peak: dict[str, Any]) -> str:
    return f" ({peak['uuid']})" if peak["uuid"].startswith("MIG-") else ""
