"""What the kernels' own report adds to the findings."""

from __future__ import annotations

from typing import Any

from bnbenv.doctor.deep import judge
from bnbenv.verify.report import DeviceReport, Died, Report, Step


def report(*steps: Step, died: Died | None = None) -> Report:
    known: dict[str, Any] = dict.fromkeys(DeviceReport.__struct_fields__)
    ok = died is None and all(step.ok for step in steps)
    values = {**known, "device": "cpu", "ok": ok, "steps": steps, "died": died, "packages": {}}
    return Report(ok=ok, python="/env/bin/python", devices=(DeviceReport(**values),))


def step(name: str, ok: bool, message: str | None = None) -> Step:
    known: dict[str, Any] = dict.fromkeys(Step.__struct_fields__)
    return Step(**{**known, "name": name, "ok": ok, "message": message, "seconds": 0.1, "figures": {}})


def test_kernels_that_agree_add_nothing() -> None:
    assert [(code, one.answer) for code, one in judge(report(step("nf4", True)))] == [("verify-failed", "no")]


def test_a_message_that_is_known_is_a_finding_of_its_own() -> None:
    failed = step("import", False, "ModuleNotFoundError: No module named 'triton.ops'")
    first, last = judge(report(failed))
    assert first[1].answer == "yes" and "triton" in first[0]
    assert (last[0], last[1].evidence) == (
        "verify-failed",
        ("cpu: import: ModuleNotFoundError: No module named 'triton.ops'",),
    )


def test_how_a_process_died_is_evidence() -> None:
    died = Died(signal="SIGSEGV", step="nf4", timed_out=False, exit_code=-11, stderr="")
    ((code, found),) = judge(report(step("import", True), died=died))
    assert (code, found.evidence) == ("verify-failed", ("cpu: the process was killed by SIGSEGV in step nf4",))
