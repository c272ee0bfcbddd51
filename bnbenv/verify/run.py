"""Verify an environment: one process of its own Python per device, each with a time limit."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from bnbenv.errors import UsageError
from bnbenv.process import Command, Finished, Runner
from bnbenv.progress import Progress, Quiet
from bnbenv.solve.model import FamilyName
from bnbenv.verify.devices import Device, devices_for
from bnbenv.verify.report import DeviceReport, Died, Report, Step, explain_failure

__all__ = ["LIMITS", "Device", "Report", "devices_for", "explain_failure", "verify_environment"]

LIMIT = 180.0  # seconds for one device: first imports from a cold disk take 30 s, the steps take a few
# gptqmodel and autoawq import transformers, datasets and more: 20 s on a busy machine, with a cold disk far more.
LIMITS: Mapping[FamilyName, float] = {"bitsandbytes": LIMIT, "none": LIMIT, "gptq": 360.0, "awq": 360.0}
SCRIPT = Path(__file__).with_name("script.py")
TAIL = 25  # lines of standard error that a report keeps

# NVIDIA's containers set this one; the float32 products of torch that results are held against would be TF32.
_ENVIRONMENT: Mapping[str, str | None] = {"TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": None}

_IDENTITY = ("python", "torch", "torch_cuda", "bitsandbytes", "library", "library_path", "packages")
_HARDWARE = ("name", "compute_capability", "memory_total")


def verify_environment(
    python: Path,
    devices: Sequence[Device],
    runner: Runner,
    *,
    family: FamilyName = "bitsandbytes",
    limit_seconds: float | None = None,
    environ: Mapping[str, str | None] | None = None,
    progress: Progress | None = None,
) -> Report:
    """Run the kernels of the environment that ``python`` belongs to, on one device after another.

    ``python`` may be any interpreter with torch and the packages of ``family`` (``gptq``: gptqmodel or auto-gptq,
    ``awq``: autoawq, ``none``: torch alone), bnbenv is not needed there. What the environment
    sets at interpreter start (``BNB_CUDA_VERSION``) and the caller's PYTHONPATH hold as they do for any program;
    modules in the current folder do not. ``environ`` are further changes to the environment of the processes.
    ``limit_seconds`` is for each device (None: what the family needs). A crash or a hang becomes part of the report.
    Raises UsageError if ``python`` cannot be started.
    """
    progress = progress or Quiet()
    reports, warnings = [], []
    for device in devices:
        progress.say(f"running kernels on {device.id}" + (f" ({device.name})" if device.name else ""))
        changes = {**_ENVIRONMENT, **(environ or {}), "CUDA_VISIBLE_DEVICES": device.visible}
        with _temporary_folder() as place:
            argv = (str(python), str(SCRIPT), "--device", device.kind, "--family", family)
            watch = partial(_tell, progress, device.id)
            finished = _run(runner, Command(argv, limit_seconds or LIMITS[family], {**changes, **place}, watch=watch))
        progress.at("")
        report, noted = read_device(device, finished)
        reports.append(report)
        warnings += [f"{device.id}: {text}" for text in noted]
    ok = bool(reports) and all(report.ok for report in reports)
    return Report(ok=ok, python=str(python), family=family, devices=tuple(reports), warnings=tuple(warnings))


def _run(runner: Runner, command: Command) -> Finished:
    try:
        return runner.run(command)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        message = f"{command.argv[0]} cannot be started ({reason})"
        raise UsageError("no-such-python", message, "Give the path of an environment's Python.") from None


def _tell(progress: Progress, device: str, pid: int, stdout: str, stderr: str) -> None:
    step, done = step_at_hand(read_events(stdout))
    progress.at(f"{device}: {f'{done} checks done, ' if done else ''}running {step or 'Python'}")


@contextlib.contextmanager
def _temporary_folder() -> Iterator[Mapping[str, str]]:
    """A place for temporary files: a process that crashes or is killed cannot delete its own."""
    try:
        folder = tempfile.TemporaryDirectory(prefix="bnbenv-", ignore_cleanup_errors=True)
    except OSError:  # the process will say what it could not do without
        yield {}
        return
    with folder as name:
        yield {"TMPDIR": name}


def read_device(device: Device, finished: Finished) -> tuple[DeviceReport, list[str]]:
    """The report of one process from what it printed and how it ended, and its warnings. Pure."""
    events = read_events(finished.stdout)
    steps = tuple(read_step(event) for event in events if event["event"] == "end")
    skipped: dict[str, list[str]] = {}
    for step in steps:
        if step.skipped:
            skipped.setdefault(step.skipped, []).append(step.name)
    warnings = [f"{', '.join(names)} skipped: {reason}" for reason, names in skipped.items()]
    warnings += [str(event.get("text")) for event in events if event["event"] == "warning"]
    known = {"name": device.name, **_identity(events)}
    done = bool(steps) and any(event["event"] == "done" for event in events)
    died = None if done else how_it_died(events, finished)
    if done and finished.signal_name:
        warnings.append(f"the process was killed by {finished.signal_name} while it ended, after all steps")
    ok = done and all(step.ok is not False for step in steps)
    return DeviceReport(device=device.id, ok=ok, steps=steps, died=died, **known), warnings


def read_step(event: Mapping[str, Any]) -> Step:
    """What a step found. One that does not say what it has to say has failed. Pure."""
    try:
        step = msgspec.convert(event, Step)
    except msgspec.ValidationError as error:
        return Step(name=str(event.get("name")), ok=False, message=f"its result cannot be read ({error})")
    if step.error is not None and step.threshold is not None:
        return step
    if step.ok is False and not step.message:
        return msgspec.structs.replace(step, message="it failed and did not say by how much")
    return msgspec.structs.replace(step, error=None, threshold=None)


def _identity(events: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the process said of its packages and its device; nothing where that makes no sense."""
    known: dict[str, Any] = {}
    for event in events:
        if event["event"] in ("environment", "library", "packages"):
            known.update({key: event[key] for key in _IDENTITY + _HARDWARE if event.get(key) is not None})
    try:
        msgspec.convert({"device": "", "name": None, "ok": False, "steps": (), **known}, DeviceReport)
    except msgspec.ValidationError:
        return {}
    return known


def read_events(text: str) -> list[dict[str, Any]]:
    """The protocol's lines. Other lines, and a last one that was cut off, are left out. Pure."""
    events = []
    for line in text.splitlines():
        if not line.startswith("{"):
            continue
        try:
            event = msgspec.json.decode(line)
        except (msgspec.DecodeError, RecursionError):
            continue
        if isinstance(event, dict) and isinstance(event.get("event"), str):
            events.append(event)
    return events


def step_at_hand(events: Sequence[Mapping[str, Any]]) -> tuple[str | None, int]:
    """The step that has begun and not ended, and how many have ended. Pure."""
    step, done = None, 0
    for event in events:
        if event["event"] == "start":
            step = str(event.get("name"))
        elif event["event"] == "end":
            step, done = None, done + 1
    return step, done


def how_it_died(events: Sequence[Mapping[str, Any]], finished: Finished) -> Died:
    """The step that had begun and not ended, the signal, and the lines that tell most. Pure."""
    step, _ = step_at_hand(events)
    return Died(
        signal=finished.signal_name,
        step=step,
        timed_out=finished.timed_out,
        exit_code=finished.returncode if finished.returncode is not None and finished.returncode >= 0 else None,
        stderr=telling_lines(finished),
    )


def telling_lines(finished: Finished) -> str:
    """The last lines, or, where Python's fault handler printed a stack, that stack from its innermost call on. Pure."""
    noise = [line for line in finished.stdout.splitlines() if line.strip() and not line.startswith('{"event"')]
    lines = [line for line in [*noise, *finished.stderr.splitlines()] if "<frozen importlib" not in line]
    stacks = [number for number, line in enumerate(lines) if "most recent call first" in line]
    if stacks:
        begin = max(stacks[-1] - 2, 0)  # the line before says what happened: "Fatal Python error: ..."
        return "\n".join(lines[begin : begin + TAIL])[:4000]
    return "\n".join(lines[-TAIL:])[-4000:]
