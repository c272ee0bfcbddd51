"""How a bundle that was written looks: where it is, for whom, what is in it, what to do with it."""

from __future__ import annotations

import shlex
from pathlib import PurePath
from typing import Any

import msgspec

from bnbenv.bundle.manifest import Machine
from bnbenv.cli.render.text import wrap
from bnbenv.progress import shown_size


def render(document: dict[str, Any]) -> str:
    """The text for people."""
    files = document["files"]
    wheels = sum(one["path"].startswith("files/") for one in files)
    lines = [f"wrote {document['path']}: {shown_size(document['size'])}, {wheels} packages"]
    for group in document["classes"]:
        lines += [line for machine in group["machines"] for line in wrap(f"for {_machine(machine)}", "  ", "      ")]
        for one in group["environments"]:
            lines += wrap(f"{one['env']}: {one['title']}, Python {one['python']}", "    ", "        ")
    lines += [line for note in document["notes"] for line in wrap(f"warning: {note}", "  ", "      ")]
    name = shlex.quote(PurePath(document["path"]).name)
    lines.append(f"  sha256 {document['sha256']}")
    lines.append(f"  where bnbenv is missing: tar -xf {name} -C DIR && sh DIR/install.sh")
    return "\n".join([*lines, f"next: bnbenv sync --offline --bundle {name} (on those machines)"])


def _machine(machine: dict[str, Any]) -> str:
    return f"{machine['facts'] or 'machines like this one'}: {msgspec.convert(machine, Machine).kind}"
