"""How ``bnbenv fleet facts`` looks: the kinds of hosts, then the exceptions."""

from __future__ import annotations

from typing import Any

from bnbenv.cli.render.fleet.plan import named
from bnbenv.cli.render.fleet.unanswered import unanswered
from bnbenv.cli.render.text import wrap

_SYSTEMS = {"linux": "Linux", "windows": "Windows", "macos": "macOS"}
_DRIVERS = {"absent": "no driver", "mismatch": "reboot required", "error": "a driver that does not work"}


def render(document: dict[str, Any]) -> str:
    total, silent = document["hosts"], len(document["no_answer"])
    answered = total - silent
    kinds = len(document["kinds"])
    of = f"{answered} of {total}" if silent else f"{total}"
    lines = [f"{of} {'host' if total == 1 else 'hosts'} answered: {kinds} {'kind' if kinds == 1 else 'kinds'}"]
    for kind in document["kinds"]:
        number = f"{len(kind['hosts'])} {'host' if len(kind['hosts']) == 1 else 'hosts'}"
        lines += wrap(f"{number} with {_kind(kind)}: {named(kind['hosts'], 4)}", "  ")
    for key, title in (
        ("reboot", "reboot required"),
        ("in_use", "processes compute on the GPUs of"),
        ("in_use_unknown", "nobody can tell who is on the GPUs of"),
    ):
        if document[key]:
            lines += wrap(f"{title}: {named(document[key])}")
    lines += unanswered(document["no_answer"])
    if document["out"]:
        lines += [*wrap(f"wrote {document['out']}"), f"next: bnbenv fleet plan --facts {document['out']}"]
    return "\n".join(lines)


def _kind(kind: dict[str, Any]) -> str:
    gpus = [_gpu(gpu) for gpu in kind["gpus"]]
    platform, driver = kind["platform"], kind["driver"]
    system = f"{_SYSTEMS.get(platform['os'], platform['os'])} {platform['machine']}"
    system += " in WSL2" if platform["wsl"] else f" with L4T {platform['jetson']}" if platform["jetson"] else ""
    version = f"driver {driver['version']}" if driver["version"] else ""
    said = _DRIVERS.get(driver["state"], "") or ("" if version else "driver of unknown version")
    words = [" and ".join(gpus) or "no GPU", version, said if gpus or driver["state"] != "absent" else "", system]
    return ", ".join(word for word in words if word)


def _gpu(gpu: dict[str, Any]) -> str:
    number = f"{gpu['number']} " if gpu["number"] > 1 else ""
    return f"{number}{gpu['name'] or 'GPU'} (sm_{gpu['compute_capability'].replace('.', '')})"
