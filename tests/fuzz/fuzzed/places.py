"""What targets share: recorded hosts, the shipped tables, a folder of their own, and small fakes for the ports."""

from __future__ import annotations

import atexit
import functools
import json
import shutil
import tempfile
from collections.abc import Container
from pathlib import Path
from typing import Any

from bnbenv.facts.model import HostFacts, decode_facts
from bnbenv.matrix.load import load_matrix
from bnbenv.matrix.model import Matrix
from bnbenv.paths import Sysroot
from bnbenv.process import Command, Finished

REPO = Path(__file__).resolve().parents[3]
HOSTS = REPO / "tests" / "hosts"
H200 = "linux-x86_64__580.65.06__h200-sm90"
MIXED = "linux-x86_64__550.54.15__a6000-sm86+gt1030-sm61"
MIG = "linux-x86_64__580.65.06__h100-sm90__mig"
NO_GPU = "linux-x86_64__absent__nogpu__glibc2.36"


@functools.cache
def scratch() -> Path:
    """A folder that is gone when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="bnbenv-fuzz-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def put(name: str, data: bytes) -> Path:
    """A file in the scratch folder."""
    path = scratch() / name
    try:
        path.write_bytes(data)
    except FileNotFoundError:
        path.parent.mkdir(parents=True)
        path.write_bytes(data)
    return path


def text_of(data: bytes) -> str:
    """As texts of the system and of programs are decoded everywhere."""
    return data.decode("utf-8", "replace")


@functools.cache
def recorded_files() -> tuple[bytes, ...]:
    """The facts of every recorded host."""
    return tuple(path.read_bytes() for path in sorted(HOSTS.glob("*/facts.json")))


@functools.cache
def recorded(name: str = H200) -> HostFacts:
    return decode_facts((HOSTS / name / "facts.json").read_bytes(), name)


@functools.cache
def system_texts() -> tuple[bytes, ...]:
    """The files under /proc, /sys and /etc of the recorded hosts, each once."""
    found: dict[str, None] = {}
    for path in sorted(HOSTS.glob("*/replay.json")):
        found.update(dict.fromkeys(json.loads(path.read_bytes()).get("files", {}).values()))
    return tuple(text.encode() for text in found)


@functools.cache
def matrix() -> Matrix:
    return load_matrix()


def shipped_table(name: str, rows: int = 2) -> dict[str, Any]:
    """A shipped JSON table with some of its rows."""
    document: dict[str, Any] = json.loads((REPO / "matrices" / name).read_bytes())
    step = max(1, len(document["rows"]) // rows)
    return {**document, "rows": document["rows"][::step][:rows]}


def finished(stdout: str = "", stderr: str = "", returncode: int | None = 0, timed_out: bool = False) -> Finished:
    return Finished(Command(("program",), 5.0), returncode, stdout, stderr, timed_out, 0.1)


class Says:
    """A runner whose programs all say the same."""

    def __init__(self, stdout: str = "", stderr: str = "", returncode: int = 0) -> None:
        self._ended = finished(stdout, stderr, returncode)

    def run(self, command: Command) -> Finished:
        return self._ended


class OneText:
    """A system all of whose small files hold the same text; what else is looked for lies in a real folder."""

    def __init__(self, text: str, prefix: Path) -> None:
        self.text, self.prefix = text, prefix

    def path(self, absolute: str) -> Path:
        return Sysroot(self.prefix).path(absolute)

    def read(self, absolute: str, limit: int = 1 << 20) -> str | None:
        return self.text[:limit]


def settings(data: bytes, names: Container[str]) -> dict[str, str]:
    """Environment variables from lines ``NAME=value``; only names that are meant."""
    found = {}
    for line in data.decode("utf-8", "surrogateescape").split("\n"):
        name, mark, value = line.partition("=")
        if mark and name in names and "\0" not in value:
            found[name] = value
    return found
