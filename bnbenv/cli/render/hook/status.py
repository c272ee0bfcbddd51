"""How ``bnbenv hook status`` looks."""

from __future__ import annotations

from typing import Any

from bnbenv.cli.render.text import listed, local_time, wrap


def render(document: dict[str, Any]) -> str:
    places = document["places"]
    if not places:
        return "no hooks are installed\nnext: bnbenv hook install"
    return "\n".join(line for place in places for line in _place(place))


def _place(place: dict[str, Any]) -> list[str]:
    user = " --user" if place["user"] else ""
    kinds = list(dict.fromkeys(file["kind"] for file in place["files"] if file["kind"] != "scripts"))
    lines = wrap(f"hooks {'of this user' if place['user'] else 'of the system'}: {listed(kinds or ['none'])}")
    wrong = [file for file in place["files"] if file["state"] != "as written"]
    for file in wrong:
        lines += wrap(f"problem: {file['path']}: {_SAID[file['state']]}", "  ")
    if not wrong:
        count = len(place["files"])
        lines += wrap(f"all {count} files are as they were written", "  ")
    if not place["works"]:
        lines += wrap(f"problem: they call {place['command'][0]}, and that, or the bnbenv in it, is gone", "  ")
    for row in place["projects"]:
        lines += wrap(_project(row), "  ")
    lines += _noted(place["noted"]) if place["noted"] else []
    if place["message"]:
        told = "you were told" if place["message"]["told"] else "the next shell tells you"
        lines += wrap(f"{told}: {place['message']['text']}", "  ")
    if wrong or not place["works"]:
        lines.append(f"next: bnbenv hook install{user} {' '.join(kinds)}".rstrip())
    return lines


_SAID = {
    "missing": "what was written there is missing",
    "edited": "it is not as it was written",
    "older": "it is that of another bnbenv",
    "not ours": "it is not bnbenv's any more",
}


def _project(row: dict[str, Any]) -> str:
    name = f"{row['path'] or 'the own environment'} of {row['owner']}"
    if row["exit"] is None:
        return f"project {name}: no hook had to sync it yet"
    how = "synced" if row["exit"] == 0 else f"sync ended with {row['exit']}"
    return f"project {name}: {how} at {local_time(row['when'])}: {row['said']}"


def _noted(noted: dict[str, Any]) -> list[str]:
    state = {"mismatch": "reboot required", "ok": "the driver works", "absent": "no NVIDIA driver"}
    if noted["restarted"]:
        state["mismatch"] = "a reboot was required, and there was one since"
    line = f"last noted at {local_time(noted['when'])} ({noted['event']}): {state.get(noted['state'], noted['state'])}"
    lines = wrap(line, "  ")
    for change in noted["changes"]:
        lines += wrap(change, "    ")
    return lines
