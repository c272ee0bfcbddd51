"""How ``bnbenv fleet sync`` looks: the answer, a few lines for each class, then the exceptions by name."""

from __future__ import annotations

from typing import Any

from bnbenv.cli.render.text import describe, harmless, wrap

NAMES = 10  # hosts by name in a line
CLASSES = 20
GROUPS = 20  # of hosts with the same to be said of them
REASONS = 3

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
        word = "" if document["ended"] == "interrupted" else "stopped: "
        lines += wrap(f"{word}{harmless(document['because'])}", "  ")
    # First those with something to be looked at; else in their order.
    classes = sorted(document["classes"], key=lambda row: all(one["state"] in DONE for one in row["states"]))
    for row in classes[:CLASSES]:
        lines += ["", *_class(row)]
    if len(classes) > CLASSES:
        lines += ["", f"and {len(classes) - CLASSES} more classes, all in --json"]
    lines += _exceptions(document["hosts"])
    if document["bootstrapped"]:
        lines += ["", *wrap(f"bnbenv was installed on: {_names(document['bootstrapped'])}")]
    if document["run_again"]:
        lines += ["", f"next: {document['run_again']}"]
    return "\n".join(lines)


def _answer(document: dict[str, Any]) -> str:
    counts = {row["state"]: row["hosts"] for row in document["states"]}
    total = len(document["hosts"])
    changed, before = counts.get("changed", 0), counts.get("in-sync", 0)
    if document["dry_run"]:
        pending = counts.get("would-change", 0)
        if before == total:
            return f"in sync, nothing to do: {_all(total)}"
        word = "changes are pending" if pending else "nothing to change"
        return f"{word}: {pending} of {_many(total)} would be changed, {before} in sync"
    if document["ended"] == "interrupted":
        return f"interrupted: {changed + before} of {_many(total)} in sync, {changed} changed now"
    if changed + before == total:
        return f"in sync: {_all(total)}, {changed} changed now" if changed else f"in sync, nothing to do: {_all(total)}"
    return f"not in sync: {total - changed - before} of {_many(total)}; {changed} changed now, {before} in sync before"


def _class(row: dict[str, Any]) -> list[str]:
    lines = wrap(f"class {row['id']}, {_many(row['hosts'])}: {harmless(row['title'])}")
    for one in row["gets"]:
        what = describe(one["choice"]) if one["choice"] else "nothing known to be good fits, see below"
        lines += wrap(f"{one['env']}: {what}", "  ")
    if row["error"]:
        lines += wrap(f"its bundle cannot be made: {harmless(row['error']['message'])}", "  ")
    lines += wrap(_done_failed_left(row["states"]), "  ")
    if row["halted_by"]:
        lines += wrap(f"stopped, since its canary failed: {harmless(row['halted_by'])}", "  ")
    return lines


def _done_failed_left(states: list[dict[str, Any]]) -> str:
    """``3 done (2 changed, 1 in sync before), 1 failed (unreachable), 4 left (in use)``."""
    parts = []
    for word in ("done", "failed", "left"):
        rows = [row for row in states if _part(row["state"]) == word]
        names = [_WORDS[row["state"]].removeprefix("left, ") for row in rows]
        if len(rows) > 1:
            names = [f"{row['hosts']} {name}" for row, name in zip(rows, names, strict=True)]
        if rows:
            named = f" ({', '.join(names)})" if names != [word] else ""
            parts.append(f"{sum(row['hosts'] for row in rows)} {word}{named}")
    return ", ".join(parts)


def _part(state: str) -> str:
    return "done" if state in DONE else "failed" if state in FAILED else "left"


def _exceptions(hosts: list[dict[str, Any]]) -> list[str]:
    """Hosts of which something is to be said, those with the same together, the worst first."""
    order = (*FAILED, *(state for state in _WORDS if _part(state) == "left"), *DONE)
    groups: dict[tuple[int, str, str], list[dict[str, Any]]] = {}
    for row in hosts:
        if row["state"] not in DONE or row["because"]:
            # Those that need a reboot are one list, whichever drivers they have.
            said = ("", "") if row["state"] == "reboot" else (row["because"], row["next_step"])
            groups.setdefault((order.index(row["state"]), *said), []).append(row)
    lines = []
    ordered = sorted(groups.items(), key=lambda item: item[0][0])
    for (state, _, _), rows in ordered[:GROUPS]:
        lines += ["", *_group(_WORDS[order[state]], rows)]
    if len(ordered) > GROUPS:
        more = sum(len(rows) for _, rows in ordered[GROUPS:])
        lines += ["", f"and {_many(more)} with other reasons, all in --json"]
    return lines


def _group(word: str, rows: list[dict[str, Any]]) -> list[str]:
    many = f" ({_many(len(rows))})" * (len(rows) > 1)
    lines = wrap(f"{word}{many}: {_names([row['host'] for row in rows])}")
    reasons = list(dict.fromkeys(harmless(row["because"]) for row in rows if row["because"]))
    for because in reasons[:REASONS]:
        lines += wrap(f"because {because}", "  ")
    if len(reasons) > REASONS:
        lines.append(f"  and {len(reasons) - REASONS} other reasons, all in --json")
    for step in dict.fromkeys(harmless(row["next_step"]) for row in rows[:1]):
        lines += wrap(f"then: {step}", "  ") if step and step != _AGAIN else []
    return lines


def _names(names: list[str]) -> str:
    more = f" and {len(names) - NAMES} more" * (len(names) > NAMES)
    return ", ".join(map(harmless, names[:NAMES])) + more


def _many(count: int) -> str:
    return f"{count} host" if count == 1 else f"{count} hosts"


def _all(count: int) -> str:
    return "1 host" if count == 1 else f"all {count} hosts"
