"""How ``bnbenv fleet sync`` looks: the answer, a few lines for each class, then the exceptions by name."""

from __future__ import annotations

from typing import Any

from bnbenv.cli.render.text import describe, harmless, wrap

NAMES = 10  # hosts by name in a line
CLASSES = 20
GROUPS = 20  # of hosts with the same to be said of them

DONE = ("changed", "in-sync")
FAILED = (
    *("verify-failed", "failed", "unreachable", "no-bnbenv", "bad-answer", "unknown-facts"),
    *("no-combination", "no-content"),
)
_WORDS = {
    "changed": "changed",
    "in-sync": "in sync before",
    "would-change": "would be changed",
    "in-use": "left, in use",
    "moved": "left, changed by others meanwhile",
    "busy": "left, another bnbenv is at work there",
    "reboot": "reboot required",
    "not-tried": "not tried",
    "interrupted": "interrupted",
    "verify-failed": "failed verification",
    "failed": "failed",
    "unreachable": "unreachable",
    "no-bnbenv": "without bnbenv",
    "bad-answer": "unreadable answer",
    "unknown-facts": "unknown facts",
    "no-combination": "nothing fits",
    "no-content": "no bundle",
}
_AGAIN = "Run it again: what is done is skipped."


def render(document: dict[str, Any]) -> str:
    lines = wrap(_answer(document))
    if document["because"]:
        lines += wrap(f"because {harmless(document['because'])}", "  ")
    # First those with something to be looked at; else in their order.
    classes = sorted(document["classes"], key=lambda row: all(one["state"] in DONE for one in row["states"]))
    for row in classes[:CLASSES]:
        lines += _class(row)
    if len(classes) > CLASSES:
        lines.append(f"and {len(classes) - CLASSES} more classes, all in --json")
    lines += _exceptions(document["hosts"])
    if document["bootstrapped"]:
        lines += wrap(f"bnbenv was installed on: {_names(document['bootstrapped'])}")
    if document["run_again"]:
        lines.append(f"next: {document['run_again']}")
    return "\n".join(lines)


def _answer(document: dict[str, Any]) -> str:
    counts = {row["state"]: row["hosts"] for row in document["states"]}
    total = len(document["hosts"])
    changed, before = counts.get("changed", 0), counts.get("in-sync", 0)
    if document["dry_run"]:
        pending = counts.get("would-change", 0)
        if before == total:
            return f"in sync, nothing to do: {_all(total)}"
        return f"changes are pending: {pending} of {_many(total)} would be changed, {before} in sync"
    if document["ended"] == "interrupted":
        return f"interrupted: {changed + before} of {_many(total)} in sync, {changed} of them changed now"
    if changed + before == total:
        return f"in sync: {_all(total)}, {changed} changed now" if changed else f"in sync, nothing to do: {_all(total)}"
    return f"not in sync: {total - changed - before} of {_many(total)}; {changed} changed now, {before} were in sync"


def _class(row: dict[str, Any]) -> list[str]:
    lines = wrap(f"class {row['id']}, {_many(row['hosts'])}: {harmless(row['title'])}")
    for one in row["gets"]:
        what = describe(one["choice"]) if one["choice"] else f"nothing known to be good fits: {one['because']}"
        lines += wrap(f"{one['env']}: {what}", "  ")
    if row["error"]:
        lines += wrap(f"its bundle cannot be made: {harmless(row['error']['message'])}", "  ")
    lines += wrap(_done_failed_left(row["states"]), "  ")
    if row["halted_by"]:
        lines += wrap(f"stopped, since its canary failed: {harmless(row['halted_by'])}", "  ")
    return lines


def _done_failed_left(states: list[dict[str, Any]]) -> str:
    """``3 done (2 changed, 1 in sync before), 1 failed, 4 left (in use)``."""
    parts = []
    for word, known in (("done", DONE), ("failed", FAILED), ("left", ())):
        rows = [row for row in states if row["state"] in known or (not known and row["state"] not in (*DONE, *FAILED))]
        if rows:
            named = ", ".join(f"{row['hosts']} {_WORDS[row['state']].removeprefix('left, ')}" for row in rows)
            parts.append(f"{sum(row['hosts'] for row in rows)} {word} ({named})")
    return ", ".join(parts)


def _exceptions(hosts: list[dict[str, Any]]) -> list[str]:
    """Hosts that are not done, those of which the same is to be said together, the worst first."""
    order = (*FAILED, *(state for state in _WORDS if state not in FAILED))
    groups: dict[tuple[int, str, str], list[str]] = {}
    for row in hosts:
        if row["state"] not in DONE:
            key = (order.index(row["state"]), harmless(row["because"]), harmless(row["next_step"]))
            groups.setdefault(key, []).append(row["host"])
    lines = []
    ordered = sorted(groups.items(), key=lambda item: item[0][0])
    for (state, because, step), names in ordered[:GROUPS]:
        word = _WORDS[order[state]]
        lines += wrap(f"{word} ({len(names)} hosts): {_names(names)}" if len(names) > 1 else f"{word}: {_names(names)}")
        lines += wrap(because, "  ") if because else []
        lines += wrap(step, "  ") if step and step != _AGAIN else []
    if len(ordered) > GROUPS:
        more = sum(len(names) for _, names in ordered[GROUPS:])
        lines.append(f"and {_many(more)} more with other reasons, all in --json")
    return lines


def _names(names: list[str]) -> str:
    more = f" and {len(names) - NAMES} more" * (len(names) > NAMES)
    return ", ".join(map(harmless, names[:NAMES])) + more


def _many(count: int) -> str:
    return f"{count} host" if count == 1 else f"{count} hosts"


def _all(count: int) -> str:
    return "1 host" if count == 1 else f"all {count} hosts"
