"""What a verification found: the document of ``bnbenv verify``, and one sentence for a failure."""

from __future__ import annotations

import msgspec

from bnbenv.solve.model import FamilyName

SCHEMA = "bnbenv.verify/1"


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One step on one device. ``ok`` is null where it was skipped, ``skipped`` then says why.

    ``error`` and ``threshold`` are those of the check that came nearest to its threshold or went farthest beyond it:
    ``check`` names it, ``reason`` says in which unit and why that threshold; null where the step is no comparison.
    ``message`` is set where no number can say what is wrong. ``figures`` are measured rates and times.
    """

    name: str
    ok: bool | None
    error: float | None = None
    threshold: float | None = None
    seconds: float = 0.0
    check: str | None = None
    reason: str | None = None
    message: str | None = None
    skipped: str | None = None
    figures: dict[str, float] = {}


class Died(msgspec.Struct, frozen=True, kw_only=True):
    """How the process ended before it was done.

    ``signal`` is ``SIGSEGV`` and the like, null where it exited by itself; ``step`` the one in which it was, null
    before the first; ``stderr`` the last lines, with Python's own stack where a fault handler could print it.
    """

    signal: str | None
    step: str | None
    timed_out: bool
    exit_code: int | None
    stderr: str


class DeviceReport(msgspec.Struct, frozen=True, kw_only=True):
    """One device: the UUID of a GPU or MIG slice, or ``cpu``. Versions are null where the packages did not import.

    ``packages`` are the versions of transformers, accelerate and peft, as far as they are installed; in another family
    than bitsandbytes those of its own packages come first.
    """

    device: str
    name: str | None
    ok: bool
    steps: tuple[Step, ...]
    died: Died | None = None
    python: str | None = None
    torch: str | None = None
    torch_cuda: str | None = None
    bitsandbytes: str | None = None
    library: str | None = None
    library_path: str | None = None
    packages: dict[str, str] = {}
    compute_capability: str | None = None
    memory_total: int | None = None


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The whole verification of a ``family``'s packages; ``python`` is the interpreter whose environment was run."""

    schema: str = SCHEMA
    ok: bool
    python: str
    family: FamilyName = "bitsandbytes"
    devices: tuple[DeviceReport, ...]
    warnings: tuple[str, ...] = ()


def explain_failure(report: Report) -> str:
    """One sentence about the first device that failed; empty where all passed."""
    for device in report.devices:
        if device.ok:
            continue
        failed = next((step for step in device.steps if step.ok is False), None)
        if failed is not None:
            return f"{failed.name} on {device.device}: {explain_step(failed)}"
        if device.died is not None:
            return f"{explain_death(device.died)} on {device.device}"
    return ""


def explain_all(report: Report) -> str:
    """A line for each step that failed, and the last words of each process that died."""
    lines = []
    for device in report.devices:
        failed = [step for step in device.steps if step.ok is False]
        lines += [f"{device.device}: {step.name}: {explain_step(step)}" for step in failed]
        if device.died is not None:
            lines += [f"{device.device}: {explain_death(device.died)}", *device.died.stderr.splitlines()]
    return "\n".join(lines)


def explain_step(step: Step) -> str:
    """Why a step failed, or was skipped."""
    if step.skipped or step.message:
        return step.skipped or step.message or ""
    return f"{step.check}: error {step.error:.3g}, allowed {step.threshold:.3g}"


def explain_death(died: Died) -> str:
    """How the process ended, and where."""
    where = f"in step {died.step}" if died.step else "outside any step"
    if died.timed_out:
        return f"no end within the time limit, {where}"
    if died.signal:
        return f"the process was killed by {died.signal} {where}"
    return f"the process ended with exit code {died.exit_code} {where}"
