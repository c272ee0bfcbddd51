"""How hosts that did not answer look: by name, those with the same reason together."""

from __future__ import annotations

from typing import Any

from bnbenv.cli.render.fleet.plan import NAMES, named
from bnbenv.cli.render.text import wrap

_STATES = {
    "unreachable": "not reached",
    "failed": "failed",
    "no-bnbenv": "without bnbenv",
    "bad-answer": "with an answer that cannot be used",
}


def unanswered(rows: list[dict[str, Any]]) -> list[str]:
    """Of each state the hosts, with reasons, and below those what to do; at most ten reasons of each."""
    lines: list[str] = []
    for state, title in _STATES.items():
        found = [row for row in rows if row["state"] == state]
        steps = list(dict.fromkeys(row["next_step"] for row in found))
        reasons: dict[tuple[str, str], list[str]] = {}
        for row in sorted(found, key=lambda row: steps.index(row["next_step"])):
            reasons.setdefault((row["next_step"], row["because"]), []).append(row["host"])
        if not reasons:
            continue
        lines.append(f"{title}: {len(found)} {'host' if len(found) == 1 else 'hosts'}")
        shown = list(reasons.items())[:NAMES]
        for number, ((step, because), hosts) in enumerate(shown):
            lines += wrap(f"{named(hosts)}: {because}", "  ")
            if step and (number + 1 == len(shown) or shown[number + 1][0][0] != step):
                lines += wrap(step, "    ")
        rest = sum(len(hosts) for _, hosts in list(reasons.items())[NAMES:])
        lines += [f"  and {rest} more (--json has all)"] if rest else []
    return lines
