"""How ``bnbenv fleet plan`` looks: what is given out, to which kinds of hosts; names only where they are few."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from bnbenv.cli.render.text import describe, listed, wrap

NAMES = 10  # of hosts, before the rest is only counted
GROUPS = 10  # of hosts that are left out for one reason, likewise
_STATES = {
    "change": "would change",
    "none": "with none yet",
    "in-sync": "as planned already",
    "unknown": "of which only the facts are known",
}


def render(document: dict[str, Any], unlisted: Sequence[str] = (), then: str = "bnbenv fleet sync") -> str:
    """``unlisted``: hosts with recorded facts that are not in the inventory; ``then``: what to run."""
    kinds = document["classes"]
    lines = _first(document)
    if document["one_lock"] is not None:
        refused = {kind["id"] for kind in kinds if not all(gets["choice"] for gets in kind["gets"])}
        lines += _one_lock(document["one_lock"], document["hosts"], refused)
    solved: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for kind in kinds:
        if all(gets["choice"] for gets in kind["gets"]):
            solved.setdefault(tuple(_given(gets, kind["gets"]) for gets in kind["gets"]), []).append(kind)
    for given, alike in sorted(solved.items(), key=lambda item: -_hosts(item[1])):
        lines += ["", *_group(given, alike)]
    for kind in kinds:
        if not all(gets["choice"] for gets in kind["gets"]):
            lines += ["", *_refused(kind)]
    lines += _left_out(document["left_out"])
    remarks: dict[str, list[str]] = {}
    for row in document["remarks"]:
        remarks.setdefault(row["because"], []).append(row["host"])
    notes = [f"{named(hosts)}: {because}" for because, hosts in remarks.items()]
    if unlisted:
        notes.append(f"recorded, and not among these: {named(unlisted)}")
    lines += ["", *(line for note in notes for line in wrap(f"note: {note}"))] if notes else []
    return "\n".join([*lines, *_next(document, then)])


def named(hosts: Sequence[str], most: int = NAMES) -> str:
    """``a, b, c and 14 more``."""
    if len(hosts) <= most + 1:
        return listed(list(hosts))
    return f"{', '.join(hosts[:most])} and {len(hosts) - most} more"


def _first(document: dict[str, Any]) -> list[str]:
    """The answer: how many hosts would change, and of how many nothing can be promised."""
    kinds, total = document["classes"], document["hosts"]
    refused = [kind for kind in kinds if not all(gets["choice"] for gets in kind["gets"])]
    good = [host["state"] for kind in kinds if kind not in refused for host in kind["hosts"]]
    pending = [state for state in good if state != "in-sync"]
    lines = []
    if refused:
        lines += wrap(f"nothing known to be good fits: {_hosts(refused)} of {_many(total)} ({_kinds(len(refused))})")
    if pending:
        lines += wrap(f"changes are pending: {len(pending)} of {_many(total)}, {_kinds(len(kinds) - len(refused))}")
    elif good:
        lines += wrap(f"in sync: {len(good)} of {_many(total)}, {_kinds(len(kinds) - len(refused))}")
    elif not refused:
        lines.append(f"nothing can be planned: {_many(total)}, and none of them can be judged")
    if document["left_out"] and good:
        codes = Counter(one["code"] for one in document["left_out"])
        counted = ", ".join(f"{count} {code}" for code, count in codes.most_common())
        lines += wrap(f"left out: {_many(len(document['left_out']))} ({counted})")
    return lines


def _group(given: Iterable[str], kinds: list[dict[str, Any]]) -> list[str]:
    """One combination, and the kinds of hosts that get it, the largest first."""
    first, *more = given
    lines = wrap(f"{first}: {_many(_hosts(kinds))}") if not more else wrap(first)
    for text in more:
        lines += wrap(text)
    for kind in sorted(kinds, key=lambda one: -len(one["hosts"])):
        counts = Counter(host["state"] for host in kind["hosts"])
        lines += wrap(f"{kind['title']}: {_states(counts)}", "  ")
        lines += wrap(named([host["host"] for host in kind["hosts"]]), "    ", "")
        for note in dict.fromkeys(note for gets in kind["gets"] for note in gets["notes"]):
            if not note.startswith(("for the CPU", "not judged")):  # it is a CPU; said of the very host below
                lines += wrap(f"note: {note}", "    ")
    return lines


def _states(counts: Counter[str]) -> str:
    """``3 would change and 1 already as planned``; only how many, where nothing else is recorded of them."""
    if set(counts) == {"unknown"}:
        return _many(counts["unknown"])
    return listed([f"{counts[state]} {words}" for state, words in _STATES.items() if counts[state]])


def _given(gets: dict[str, Any], all_of_them: list[dict[str, Any]]) -> str:
    """What an environment gets; named where there are several."""
    text = describe(gets["choice"])
    compiled = (gets["choice"]["bitsandbytes"] or {}).get("source") == "build"
    text += ", compiled" if compiled else ""
    return f"{gets['env']}: {text}" if len(all_of_them) > 1 else text


def _refused(kind: dict[str, Any]) -> list[str]:
    lines = wrap(f"{kind['title']}: {_many(len(kind['hosts']))} for which nothing fits")
    lines += wrap(named([host["host"] for host in kind["hosts"]]), "  ", "")
    for gets in kind["gets"]:
        if gets["choice"] is None:
            lines += _reasons(gets, f"{gets['env']}: " if len(kind["gets"]) > 1 else "")
    return lines


def _reasons(gets: dict[str, Any], before: str, indent: str = "  ") -> list[str]:
    """Why nothing fits, and what would help; ``gives`` says what one would have then."""
    lines = []
    for part in gets["conflict"]:
        lines += wrap(f"{before}because {part['because']}", indent)
    for option in gets["options"][:2]:
        lines += wrap(f"it needs: {option['change']} (gives {option['gives']})", indent)
    return lines


def _one_lock(found: dict[str, Any], total: int, refused: set[str]) -> list[str]:
    """``refused`` are the ids of the kinds that nothing fits."""
    if found["fits_all"]:
        return ["one combination fits all that can be judged", *_pins(found["pins"])]
    if not found["pins"]:
        return wrap("no combination fits all: none fits any kind of host")
    who = f"in its way: {len(found['hosts'])} of {_many(total)}"
    lines = [*wrap(f"no combination fits all; {who}"), "without these hosts it is:", *_pins(found["pins"])]
    for kind in found["in_the_way"]:
        lines += wrap(f"in its way: {kind['title']}: {_many(len(kind['hosts']))}")
        lines += wrap(named(kind["hosts"]), "  ", "")
        for why in kind["why"]:
            lines += _reasons(why, f"{why['env']}: " if len(found["pins"]) > 1 else "")
            if not why["options"]:
                alone = "nothing fits it alone either" if kind["id"] in refused else "it needs: one of its own"
                lines += wrap(f"{alone}, see below", "  ")
    return ["", *lines]


def _pins(pins: list[dict[str, Any]]) -> list[str]:
    lines = []
    for one in pins:
        own = f"{one['package']} {one['version']}, " if one["package"] else ""
        lines += wrap(f"{one['env']}: {own}torch {one['torch']}, Python {one['python']}", "  ")
    return lines


def _left_out(rows: list[dict[str, Any]]) -> list[str]:
    """The hosts that cannot be planned for, by what is the matter with them."""
    alike: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        alike.setdefault((row["code"], row["because"], row["next_step"]), []).append(row["host"])
    lines = [""] if rows else []
    shown = list(alike.items())[:GROUPS]
    for (code, because, step), hosts in shown:
        lines += wrap(f"left out, {code}: {named(hosts)}")
        lines += wrap(f"because {because}", "  ") if because else []
        lines += wrap(f"then: {step}", "  ") if step else []
    more = len(rows) - sum(len(hosts) for _, hosts in shown)
    return [*lines, f"left out, and not shown: {_many(more)} more (--json names them)"] if more else lines


def _next(document: dict[str, Any], then: str) -> list[str]:
    states = {host["state"] for kind in document["classes"] for host in kind["hosts"]}
    if not states - {"in-sync"}:
        return []
    option = " --one-lock" if document["one_lock"] and document["one_lock"]["fits_all"] else ""
    return ["", f"next: {then}{option}"]


def _hosts(kinds: Iterable[dict[str, Any]]) -> int:
    return sum(len(kind["hosts"]) for kind in kinds)


def _many(count: int) -> str:
    return f"{count} host{'' if count == 1 else 's'}"


def _kinds(count: int) -> str:
    return f"{count} kind{'' if count == 1 else 's'} of hosts"
