"""Recorded answers of hosts: the lines that ``bnbenv fleet facts --out`` writes, or a folder of facts.

A host whose line or file cannot be read is one with the state ``bad-answer``; the others are not harmed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from bnbenv.decode import shown
from bnbenv.errors import InputError
from bnbenv.facts.model import HostFacts, decode_facts
from bnbenv.fleet.answers import decode_report
from bnbenv.fleet.model import HostAnswer, HostReport

LARGEST = 4 << 20  # bytes of one line or file
_NAME = 253  # characters; longer names of hosts cannot be resolved
_RECORD = "Record them with: bnbenv fleet facts -i INVENTORY --out FILE"
_AGAIN = "Record it again: bnbenv fleet facts --limit HOST --out FILE"
_BEGIN = re.compile(rb'\s*\{\s*"name"\s*:\s*"([^"\\]{1,253})"')


def read_reports(path: Path) -> tuple[HostReport, ...]:
    """What is recorded of hosts, in the order of the file; of a folder by name.

    Raises InputError where there is nothing, or nothing of it is what a record of hosts holds.
    """
    try:
        rows = list(_of_folder(path)) if path.is_dir() else list(_of_file(path))
    except OSError as error:
        raise InputError(str(path), "", f"cannot be read ({(error.strerror or '').lower()})", _RECORD) from None
    if not rows:
        what = "no *.json in it" if path.is_dir() else "it is empty"
        raise InputError(str(path), "", f"expected facts of hosts, found none: {what}", _RECORD)
    if not any(report.state != "bad-answer" for report, _ in rows):
        first = rows[0][0]
        raise InputError(str(path), "", f"these are no facts of hosts: {first.because}", _RECORD)
    return tuple(_each_once(rows))


def only_facts(name: str, facts: HostFacts) -> HostReport:
    """A report of a host of which only the facts are known: neither its project nor what it has in use."""
    return HostReport(name, "ok", HostAnswer("", "", facts))


def _each_once(rows: list[tuple[HostReport, str]]) -> Iterator[HostReport]:
    """Where a host stands twice, and differs, nobody can tell which is true."""
    places: dict[str, list[str]] = {}
    known: dict[str, HostReport] = {}
    for report, place in rows:
        if report.name not in known or known[report.name] != report:
            places.setdefault(report.name, []).append(place)
        known.setdefault(report.name, report)
    for name, report in known.items():
        if len(places[name]) == 1:
            yield report
        else:
            because = f"it stands there {len(places[name])} times, with different facts: {' and '.join(places[name])}"
            yield HostReport(name, "bad-answer", None, because, "Take out all but one of them.")


def _of_file(path: Path) -> Iterator[tuple[HostReport, str]]:
    with path.open("rb") as stream:
        number = 0
        while line := stream.readline(LARGEST + 1):
            number += 1
            if number == 1 and line.strip() == b"{":  # a document over several lines
                yield from _of_document(line + stream.read(LARGEST), path)
                return
            if line.strip():
                yield _of_line(line, number, stream), f"line {number}"


def _of_document(data: bytes, path: Path) -> Iterator[tuple[HostReport, str]]:
    """The facts of one host, as ``bnbenv facts --json`` prints them."""
    yield only_facts(path.stem, decode_facts(data, str(path))), path.name


def _of_line(line: bytes, number: int, stream: IO[bytes]) -> HostReport:
    where = f"line {number}"
    if len(line) > LARGEST:
        begun = _name_in(line) or where
        while line and not line.endswith(b"\n"):
            line = stream.readline(LARGEST)
        return _bad(begun, f"{where} is longer than {LARGEST >> 20} MB")
    try:
        document = json.loads(line)
        name = document.get("name") if isinstance(document, dict) else None
        if not isinstance(name, str) or not name:
            return _bad(where, f"{where}: expected a report of a host, which has a name")
        if len(name) > _NAME or not name.isprintable():
            return _bad(where, f'{where}: "{shown(ascii(name)[1:-1])}" is no name of a host')
        return decode_report(document, where)
    except InputError as error:
        return _bad(_name_in(line) or where, error.message)
    except RecursionError:
        return _bad(_name_in(line) or where, f"{where}: nested too deeply")
    except ValueError:  # no JSON, no UTF-8, a number of thousands of digits
        cut = "" if line.endswith(b"\n") else ", and it breaks off"
        return _bad(_name_in(line) or where, f"{where} is no JSON document{cut}")


def _bad(name: str, because: str) -> HostReport:
    return HostReport(name, "bad-answer", None, because, _AGAIN)


def _name_in(line: bytes) -> str | None:
    """The name at the beginning of a line that cannot be read further."""
    found = _BEGIN.match(line)
    name = found[1].decode("utf-8", "replace") if found else ""
    return name if name.isprintable() and name else None


def _of_folder(folder: Path) -> Iterator[tuple[HostReport, str]]:
    """``NAME.json`` and ``NAME/facts.json``."""
    paths: list[tuple[str, Path]] = [(path.stem, path) for path in sorted(folder.glob("*.json"))]
    paths += [(path.parent.name, path) for path in sorted(folder.glob("*/facts.json"))]
    for name, path in sorted(paths):
        place = str(path.relative_to(folder))
        try:
            with path.open("rb") as stream:
                data = stream.read(LARGEST + 1)
            if len(data) > LARGEST:
                raise InputError(place, "", f"longer than {LARGEST >> 20} MB")
            yield only_facts(name, decode_facts(data, place)), place
        except (InputError, OSError) as error:
            because = error.message if isinstance(error, InputError) else f"{place} cannot be read"
            yield HostReport(name, "bad-answer", None, because, "Record it again: bnbenv facts --json"), place
