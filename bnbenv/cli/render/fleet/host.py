"""How ``bnbenv fleet host`` looks."""

from __future__ import annotations

from typing import Any

from bnbenv.cli.render.text import wrap
from bnbenv.progress import shown_size

_SYSTEMS = {"linux": "Linux", "windows": "Windows", "macos": "macOS"}


def render(document: dict[str, Any]) -> str:
    """The verdict, the host, a line an environment with what is wrong, and who is on the GPUs."""
    lines = wrap(_verdict(document))
    lines += [f"project: {document['project']}", *wrap(f"host: {_host(document['facts'])}")]
    for row in document["environments"]:
        lines += environment(row)
    lines += [line for one in document["processes"] for line in wrap(f"in use: {_process(one)}")]
    if document["processes_unknown"]:
        lines += wrap(f"in use, perhaps: {document['processes_unknown']}")
    return "\n".join(lines)


def _verdict(document: dict[str, Any]) -> str:
    rows = document["environments"]
    apart = [row["env"] for row in rows if not row["in_sync"]]
    if document["reboot"]:
        return f"reboot required: {document['reboot']}"
    if not rows:
        return "no environment here yet"
    return f"not in sync: {', '.join(apart)}" if apart else f"in sync: {', '.join(row['env'] for row in rows)}"


def _host(facts: dict[str, Any]) -> str:
    platform, names = facts["platform"], [gpu["name"] or gpu["compute_capability"] for gpu in facts["gpus"]]
    cards = [f"{number} x {name}" if (number := names.count(name)) > 1 else name for name in dict.fromkeys(names)]
    driver = facts["driver"]["version"]
    words = [f"{_SYSTEMS.get(platform['os'], platform['os'])} {platform['machine']}", *(cards or ["no GPU"])]
    return ", ".join([*words, f"driver {driver}"] if driver else words)


def environment(row: dict[str, Any]) -> list[str]:
    """What one environment has in use, and why it is not in sync."""
    if row["generation"] is None:
        lines = [f"{row['env']}: nothing in use"]
    else:
        held = ", ".join(f"{name} {version}" for name, version in row["holds"].items())
        verified = "verified here" if row["verified"] else "not verified here"
        lock = f", lock {row['lock'][:12]}" if row["lock"] else ""
        lines = wrap(f"{row['env']} {row['generation']}: {held or 'unknown'}, {verified}{lock}")
    return lines + [line for reason in row["reasons"] for line in wrap(reason["because"], "  ")]


def _process(one: dict[str, Any]) -> str:
    size = f", {shown_size(one['memory'])}" if one["memory"] is not None else ""
    of = f" of {one['user']}" if one["user"] else ""
    return f"GPU {one['gpu']}: {one['name'] or 'a process'} ({one['pid']}{of}{size})"
