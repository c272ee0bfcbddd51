"""How ``bnbenv solve`` looks."""

from __future__ import annotations

from typing import Any

from bnbenv.cli.render.choice import chosen, compiled_for, passed_over, rests_on, short_source, why
from bnbenv.cli.render.text import wrap
from bnbenv.solve.wording import line


def render(
    document: dict[str, Any],
    everything: bool = False,
    asked: bool = False,
    elsewhere: bool = False,
    driver: str | None = None,
    make: str | None = None,
) -> str:
    """``asked``: the package sources were; ``elsewhere``: of recorded facts; ``driver``: as if it were installed;
    ``make``: the command that makes an environment of another family than bitsandbytes."""
    if document["status"] != "solved":
        return "\n".join(_refused(document, everything, elsewhere))
    when = f" (once driver {driver} is installed)" if driver else " (on that machine)" if elsewhere else ""
    next_step = f"next: {make}{when}" if make else f"next: {_to_make_it(document, asked, elsewhere, driver)}"
    return "\n".join([*_solved(document, everything, asked), next_step])


def _to_make_it(document: dict[str, Any], asked: bool, elsewhere: bool, driver: str | None) -> str:
    """What makes it, and on what that depends."""
    where = " there" if elsewhere else ""
    if driver is not None:
        return f"bnbenv sync{where}, once driver {driver} is installed"
    if document["choice"]["bitsandbytes"]["source"] == "build":
        _, archs = compiled_for(document)
        took = "about a minute" if len(archs) == 1 else f"about {len(archs)} minutes"
        return f"bnbenv sync{where} with these wishes compiles it, {took} on two cores"
    makes = "makes it on top of that torch" if document["choice"]["torch"]["source"] == "existing" else "makes it"
    if elsewhere:
        return f"bnbenv sync there, with these wishes, {makes}, if its sources offer it"
    offer = "" if asked else ", if the package sources offer it"
    return f"bnbenv sync with these wishes {makes}{offer}"


def _solved(document: dict[str, Any], everything: bool, asked: bool) -> list[str]:
    lines = chosen(document)
    if document["driver_change"]:
        lines += wrap(document["driver_change"], "  ")
    for note in document["notes"]:
        lines += wrap(f"note: {note}", "  ")
    lines += why(document, "newest", asked)
    lines += passed_over(document["rejected"], everything)
    return lines + rests_on(document, everything)


def _refused(document: dict[str, Any], everything: bool, elsewhere: bool) -> list[str]:
    lines = ["nothing known to be good fits:"]
    for part in document["conflict"]:
        lines += [
            *wrap(part["because"], "  "),
            *wrap(f"from {part['source'] if everything else short_source(part['source'])}", "    ", " "),
        ]
    if document["driver_change"]:
        lines += wrap(document["driver_change"])
    options = document["options"]
    if options:
        lines.append("what would change that:")
    for option in options if everything else options[:8]:
        lines += [*wrap(option["change"], "  "), *wrap(f"gives {option['gives']}", "    ")]
        if option["command"]:
            lines.append(f"    {option['command']}")
    lines.append(f"next: {_next_step(options)}{' (on that machine)' if elsewhere and options else ''}")
    return lines


def _next_step(options: list[dict[str, Any]]) -> str:
    if not options:
        return "bnbenv facts shows what this was judged on"
    first = options[0]
    if first["command"]:
        return str(first["command"])
    words = [*(first["solve_args"] or ())]
    if "--driver" not in words:
        return f"{first['change']}, then run: {line(words)}"
    position = words.index("--driver")
    _, driver = words[position : position + 2]
    return f"once driver {driver} is installed: {line(words[:position] + words[position + 2 :])}"
