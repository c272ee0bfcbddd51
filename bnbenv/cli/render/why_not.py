"""How ``bnbenv why-not`` looks: yes or no, the few facts that decide, then everything that was named."""

from __future__ import annotations

from typing import Any

from bnbenv.cli.render.choice import short_source
from bnbenv.cli.render.text import describe, listed, wrap

_FEW = 6  # reasons of each kind, unless all is asked for
_NAMES = 4  # candidates that share a reason and are named


def render(document: dict[str, Any], everything: bool = False, elsewhere: bool = False) -> str:
    """``elsewhere``: of recorded facts."""
    lines = _fits(document) if document["fits"] else _does_not(document, everything)
    return "\n".join([*lines, f"next: {_next(document, elsewhere)}"])


def _fits(document: dict[str, Any]) -> list[str]:
    lines = wrap(f"it fits: {describe(document['chosen'])}{_needs(document['chosen'])}")
    lines += [line for note in document["notes"] for line in wrap(f"note: {note}", "  ")]
    preferred = document["preferred"]
    if preferred is None:
        return lines + wrap("nothing is preferred to it: it is what bnbenv chooses here", "  ")
    lines += wrap(f"preferred to it: {describe(preferred)}{_needs(preferred)}", "  ")
    return lines + wrap(f"since {document['because']}", "    ")


def _does_not(document: dict[str, Any], everything: bool) -> list[str]:
    lines = ["it does not fit, by these facts:"]
    for part in document["conflict"]:
        lines += _fact(part["because"], part["source"], everything)
    titles = ("bitsandbytes alone", "torch alone", "the two together", "all")
    groups: dict[str, list[dict[str, Any]]] = {title: [] for title in titles}
    for row in document["candidates"]:
        groups[_group(row["candidate"])].append(row)
    known = {part["because"] for part in document["conflict"]}
    for title, rows in groups.items():
        lines += _against(title, rows, known, everything)
    if document["preferred"]:
        lines += wrap(f"what fits: {describe(document['preferred'])}{_needs(document['preferred'])}")
    return lines


def _group(candidate: str) -> str:
    if " with torch " in candidate:
        return "the two together"
    name = candidate.split()[0]
    return f"{name} alone" if name in ("bitsandbytes", "torch") else "all"


def _against(title: str, rows: list[dict[str, Any]], known: set[str], everything: bool) -> list[str]:
    """Each reason once, with the candidates that it is about; what stands among the facts is not said again."""
    reasons: dict[str, list[str]] = {}
    sources: dict[str, str] = {}
    for row in rows:
        for part in row["against"]:
            if part["because"] in known and not everything:
                continue
            because = part["because"].removeprefix(row["candidate"]).strip()
            reasons.setdefault(because, []).append(row["candidate"])
            sources.setdefault(because, part["source"])
    if not reasons:
        return []
    lines = [f"{'further ' if known and not everything else ''}against {title}:"]
    for because, names in list(reasons.items())[: None if everything else _FEW]:
        lines += _fact(f"{_who(names, everything)}: {because}", sources[because], everything)
    if not everything and len(reasons) > _FEW:
        lines.append(f"  and {len(reasons) - _FEW} more (--all lists them)")
    return lines


def _who(names: list[str], everything: bool) -> str:
    names = list(dict.fromkeys(names))
    if everything or len(names) <= _NAMES:
        return listed(names)
    return f"{', '.join(names[: _NAMES - 1])} and {len(names) - _NAMES + 1} more"


def _fact(because: str, source: str, everything: bool) -> list[str]:
    shown = source if everything else short_source(source)
    return [*wrap(because, "  "), *wrap(f"from {shown}", "    ", " ")]


def _needs(choice: dict[str, Any]) -> str:
    made = ", compiled here" if choice["bitsandbytes"]["source"] == "build" else ""
    return made + "".join(f", {name}={value}" for name, value in choice["environment"].items())


def _next(document: dict[str, Any], elsewhere: bool) -> str:
    command = document["command"]
    if command is None:
        return "bnbenv solve with these wishes says what would change that"
    return f"{command}{' (on that machine)' if elsewhere else ''}"
