"""How ``bnbenv solve`` looks."""

from __future__ import annotations

from typing import Any

from bnbenv.cli.render.choice import chosen, passed_over, rests_on, short_source, why
from bnbenv.cli.render.text import wrap


def render(document: dict[str, Any], everything: bool = False) -> str:
    solved = document["status"] == "solved"
    return "\n".join(_solved(document, everything) if solved else _refused(document, everything))


def _solved(document: dict[str, Any], everything: bool) -> list[str]:
    lines = chosen(document)
    for note in document["notes"]:
        lines += wrap(f"note: {note}", "  ")
    lines += why(document, "newest")
    lines += passed_over(document["rejected"], everything)
    lines += rests_on(document["evidence"], everything)
    lines.append("next: bnbenv sync, with the same wishes, makes it")
    return lines


def _refused(document: dict[str, Any], everything: bool) -> list[str]:
    lines = ["nothing known to be good fits:"]
    for part in document["conflict"]:
        lines += [
            *wrap(part["because"], "  "),
            *wrap(f"from {part['source'] if everything else short_source(part['source'])}", "    ", " "),
        ]
    options = document["options"]
    if options:
        lines.append("what would change that:")
    for option in options if everything else options[:8]:
        lines += [*wrap(option["change"], "  "), *wrap(f"gives {option['gives']}", "    ")]
        if option["command"]:
            lines.append(f"    {option['command']}")
    lines.append(f"next: {_next_step(options)}")
    return lines


def _next_step(options: list[dict[str, Any]]) -> str:
    if not options:
        return "bnbenv facts shows what this was judged on"
    return str(options[0]["command"] or f"{options[0]['change']}, then run: bnbenv sync")
