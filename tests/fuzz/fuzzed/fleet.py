"""What is recorded of the hosts of a fleet: whatever one of them says, the others are planned for."""

from __future__ import annotations

from functools import lru_cache

from bnbenv.cli.render.fleet.plan import render
from bnbenv.errors import InputError
from bnbenv.fleet.answers import encode_report
from bnbenv.fleet.asking import Planned
from bnbenv.fleet.classes import classify
from bnbenv.fleet.model import Cause, HostAnswer, HostEnv, HostReport
from bnbenv.fleet.planned import document, exit_of
from bnbenv.fleet.planning import plan_classes
from bnbenv.fleet.reports import read_reports
from bnbenv.solve.model import Request

from .oracle import Target
from .places import matrix, put, recorded, scratch

FILE = "fleet.jsonl"
_KINDS = ("linux-x86_64__580.65.06__h100-sm90__mig", "linux-x86_64__absent__nogpu__glibc2.36")


@lru_cache(maxsize=1)
def _lines() -> tuple[bytes, ...]:
    env = HostEnv("bnb", False, 3, "ab" * 32, True, "cuda", {"torch": "2.15.0"}, (Cause("host-changed", "a GPU"),))
    answers = [HostAnswer("1.0", "/srv/train", recorded(kind), (env,)) for kind in _KINDS]
    reports = [HostReport(f"gpu-{number}", "ok", answer) for number, answer in enumerate(answers)]
    reports.append(HostReport("far", "unreachable", None, "no route to host", "See whether it is up."))
    return tuple(encode_report(report).encode() for report in reports)


def _record(data: bytes) -> None:
    good = _lines()[0].replace(b"gpu-0", b"the good one")
    reports = read_reports(put(FILE, good + b"\n" + data))
    requests = {"bnb": Request()}
    classes, left = classify(reports, matrix(), requests)
    assert any("the good one" in kind.hosts for kind in classes)
    assert len(reports) == len(left) + sum(len(kind.hosts) for kind in classes)
    planned = Planned(classes, left, plan_classes(classes, matrix(), requests), requests, matrix())
    found = document(planned, reports, "/x", True, {})
    assert render(found) and int(exit_of(found)) in (1, 3, 4, 6, 7)


def _alone(data: bytes) -> None:
    assert read_reports(put(FILE, data))


TARGETS = (
    Target("fleet-record", "json", _record, _lines, slow=True),
    Target("fleet-record-alone", "json", _alone, _lines, (InputError,), str(scratch() / FILE)),
)
