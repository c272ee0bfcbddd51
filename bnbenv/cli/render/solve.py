"""How ``bnbenv solve`` looks."""

from __future__ import annotations

from typing import Any

from bnbenv.cli.render.choice import chosen, passed_over, rests_on, short_source, why
from bnbenv.cli.render.text import wrap
from bnbenv.solve.wording import by_hand, line


def render(
    document: dict[str, Any],
    everything: bool = False,
    asked: bool = False,
    elsewhere: bool = False,
    driver: str | None = None,
) -> str:
    """``asked``: the package sources were; ``elsewhere``: of recorded facts; ``driver``: as if it were installed."""
    if document["status"] != "solved":
        return "\n".join(_refused(document, everything, elsewhere))
    by_people = _by_people(document["choice"])
    next_step = by_people or _to_make_it(asked, elsewhere, driver)
    return "\n".join([*_solved(document, everything, asked), f"next: {next_step}"])


def _by_people(choice: dict[str, Any]) -> str | None:
    """What bnbenv does not do itself."""
    if choice["bitsandbytes"]["source"] == "build":
        return "compile it with the Python of that environment"
    if choice["torch"]["source"] == "existing":
        version = choice["bitsandbytes"]["version"]
        return f"with the Python of that torch: python -m pip install --no-deps bitsandbytes=={version}"
    return None


def compiling(document: dict[str, Any]) -> list[str]:
    """How to compile what a solution needs compiled; nothing for a wheel."""
    choice = document["choice"]
    if choice["bitsandbytes"]["source"] != "build":
        return []
    archs = [cover["bitsandbytes"].partition(" ")[2] for cover in document["covers"]]
    cuda = choice["torch"]["cuda"]
    head = f"bnbenv does not compile yet; by hand, with the nvcc of CUDA {cuda}, in a clone of bitsandbytes:"
    return [*wrap(head), *(f"    {line}" for line in by_hand(choice, archs))]


def _to_make_it(asked: bool, elsewhere: bool, driver: str | None) -> str:
    """What makes it, and on what that depends."""
    where = " there" if elsewhere else ""
    if driver is not None:
        return f"bnbenv sync{where}, once driver {driver} is installed"
    if elsewhere:
        return "bnbenv sync there, with these wishes, makes it, if its sources offer it"
    offer = "" if asked else ", if the package sources offer it"
    return f"bnbenv sync with these wishes makes it{offer}"


def _solved(document: dict[str, Any], everything: bool, asked: bool) -> list[str]:
    lines = chosen(document)
    if document["driver_change"]:
        lines += wrap(document["driver_change"], "  ")
    for note in document["notes"]:
        lines += wrap(f"note: {note}", "  ")
    lines += compiling(document)
    lines += why(document, "newest", asked)
    lines += passed_over(document["rejected"], everything)
    return lines + rests_on(document["evidence"], everything)


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
