"""How ``bnbenv fleet check`` looks: the verdict, each reason with its hosts, then those that could not be asked."""

from __future__ import annotations

from typing import Any

from bnbenv.cli.render.fleet.plan import NAMES, named
from bnbenv.cli.render.fleet.unanswered import unanswered
from bnbenv.cli.render.text import wrap


def render(document: dict[str, Any], then: str = "bnbenv fleet plan") -> str:
    """``then``: the next command."""
    apart, good, total = document["not_in_sync"], document["hosts_in_sync"], document["hosts"]
    if document["in_sync"]:
        return f"in sync: {'the one host' if total == 1 else f'all {total} hosts'}"
    lines = [f"not in sync: {len(apart)} of {_hosts(total)}"] if apart else []
    for reason in document["reasons"][:NAMES]:
        env = f"{reason['env']}: " if reason["env"] else ""
        lines += wrap(f"{env}{reason['because']}: {named(reason['hosts'])}", "  ")
    more = len(document["reasons"]) - NAMES
    lines += [f"  and {more} more reasons (--json has all)"] if more > 0 else []
    if document["reboot"]:
        lines += wrap(f"reboot required: {named([row['host'] for row in document['reboot']])}")
    lines += unanswered(document["no_answer"])
    lines += [f"in sync: {_hosts(len(good))}"] if good else []
    if apart:
        lines.append(f"next: {then}")
    return "\n".join(lines)


def _hosts(number: int) -> str:
    return f"{number} {'host' if number == 1 else 'hosts'}"
