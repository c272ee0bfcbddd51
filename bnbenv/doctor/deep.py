"""What running the kernels of an environment adds to its examination."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import msgspec

from bnbenv.doctor.model import Verdict
from bnbenv.doctor.rules import Case, unknown
from bnbenv.facts.model import HostFacts
from bnbenv.process import Runner
from bnbenv.progress import Progress
from bnbenv.verify.devices import Device, default_selection, devices_for
from bnbenv.verify.report import DeviceReport, Report, explain_death, explain_step

MOST = 6  # lines of evidence


def verdicts(
    case: Case, environ: Mapping[str, str], runner: Runner, progress: Progress, recorded: bool = False
) -> tuple[tuple[str, Verdict], ...]:
    """What failed as a verdict, and what its message means where that is known.

    Nothing is run where there is no Python, the facts are of another machine, or the driver is half upgraded.
    """
    python = case.examination.target.python
    facts = case.examination.facts
    if python is None:
        return (("verify-failed", unknown("the kernels were not run: there is no environment")),)
    if recorded or facts.driver.state == "mismatch":
        because = "the facts are of another machine" if recorded else "no GPU can be used before the reboot"
        return (("verify-failed", unknown(f"the kernels were not run: {because}")),)
    from bnbenv.verify.run import verify_environment

    devices = _devices(case, facts, environ)
    reports = [
        verify_environment(Path(python), devices, runner, family=family, progress=progress)
        for family in case.families or ("bitsandbytes",)
    ]
    found = tuple(device for report in reports for device in report.devices)
    return judge(msgspec.structs.replace(reports[0], devices=found))


def judge(report: Report) -> tuple[tuple[str, Verdict], ...]:
    """A report as verdicts. Pure."""
    failed = [device for device in report.devices if not device.ok]
    lines = [line for device in failed for line in _lines(device)]
    if not failed:
        return (("verify-failed", Verdict("no")),)
    own: tuple[tuple[str, Verdict], ...] = (("verify-failed", Verdict("yes", tuple(lines[:MOST]))),)
    return (*_meaning(failed), *own)


def _lines(device: DeviceReport) -> list[str]:
    lines = [f"{device.device}: {step.name}: {explain_step(step)}" for step in device.steps if step.ok is False]
    return [*lines, f"{device.device}: {explain_death(device.died)}"] if device.died else lines


def _meaning(failed: list[DeviceReport]) -> tuple[tuple[str, Verdict], ...]:
    """What the programs' own words say, as an error text would be read."""
    from bnbenv.doctor.text import diagnose

    words = [step.message or "" for device in failed for step in device.steps if step.ok is False]
    words += [device.died.stderr for device in failed if device.died]
    said = diagnose(io.BytesIO("\n".join(words).encode()))
    found = [one for one in said.seen if one.role == "primary" and one.cause not in ("unknown", "other")]
    return tuple((one.code, Verdict("yes", tuple(line for _, line in one.lines))) for one in found)


def _devices(case: Case, facts: HostFacts, environ: Mapping[str, str]) -> tuple[Device, ...]:
    torch = case.examination.torch
    selection = ("cpu",) if torch is not None and torch.cuda is None else default_selection(facts, environ)
    return devices_for(facts, selection)
