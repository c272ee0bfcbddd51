"""A user's command from its first attempt to its end: memory is waited for, a failure judged, retried, got round."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from bnbenv.doctor.running.attempts import Attempt, Judged, Limits, pause, why_no_other, worth_another
from bnbenv.doctor.running.peak import Peak, Peaks, Watch, documents
from bnbenv.doctor.running.sizes import show_size
from bnbenv.errors import Failed
from bnbenv.progress import Progress

if TYPE_CHECKING:
    from bnbenv.doctor.running.waiting import Ask, Request
    from bnbenv.process.passing import Passed, Passer

CPU = "cpu"


class Clock(Protocol):
    """Time and chance."""

    def now(self) -> float:
        """Seconds, of which only differences count."""

    def sleep(self, seconds: float) -> None: ...

    def chance(self) -> float:
        """At random from 0 to 1."""


@dataclass(frozen=True)
class Job:
    """``on_oom``: what to run once, if memory was the cause: another command, or the same on the CPU (``cpu``).

    ``shown`` is the value of CUDA_VISIBLE_DEVICES that holds for the command (None: all GPUs).
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    limits: Limits = field(default_factory=Limits)
    memory: Request | None = None
    on_oom: tuple[str, ...] | None = None
    shown: str | None = None


@dataclass(frozen=True)
class Ports:
    """The effects. ``rewind`` makes standard input begin again, or says that it cannot. ``kills`` is how many processes
    the kernel has ended for lack of memory (None: unknown). ``watch`` is None where there is no GPU to watch."""

    passer: Passer
    clock: Clock
    rewind: Callable[[], bool]
    judge: Callable[[bytes], Judged | None]
    judge_kill: Callable[[], Judged]
    kills: Callable[[], int | None]
    watch: Watch | None
    ask: Ask
    progress: Progress


@dataclass
class Report:
    """What happened. ``fallback`` is the attempt with ``on_oom``; ``note`` is why there was no other attempt.

    ``tail`` is the end of what the last one wrote.
    """

    attempts: list[Attempt] = field(default_factory=list)
    waited: float = 0.0
    paused: float = 0.0
    fallback: Attempt | None = None
    fallback_argv: tuple[str, ...] = ()
    note: str = ""
    unwritten: str = ""
    tail: bytes = b""
    peaks: tuple[Peak, ...] = ()

    @property
    def last(self) -> Attempt:
        return self.fallback or self.attempts[-1]

    def document(self, argv: tuple[str, ...], env: str, output: str | None) -> dict[str, Any]:
        """The document of ``--json``. ``output`` is the file in which ``tail`` was kept."""
        last, fallback = self.last.document(), None
        if self.fallback is not None:
            fallback = {"command": list(self.fallback_argv), **self.fallback.document()}
        return {
            "schema": "bnbenv.run/1",
            "env": env,
            "command": list(argv),
            "exit_code": last["exit_code"],
            "signal": last["signal"],
            "attempts": [attempt.document() for attempt in self.attempts],
            "finding": self.last.judged.document() if self.last.judged else None,
            "output": output,
            "note": self.note or None,
            "peak_memory": documents(self.peaks),
            "waited_seconds": round(self.waited + self.paused, 3),
            "fallback": fallback,
        }


def run_job(job: Job, ports: Ports) -> Report:
    """Run it to its end.

    Raises OSError (it cannot be started), Failed (the memory that is asked for does not come free).
    """
    report, peaks = Report(), Peaks(job.shown)
    while True:
        try:
            env = _with_memory(job, ports, report)
        except Failed as error:
            if not report.attempts:
                raise
            report.note = f"not tried again: {error.message}"
            break
        attempt = _attempt(job.argv, env, ports, peaks, report)
        report.attempts.append(attempt)
        if not worth_another(attempt):
            break
        assert attempt.judged is not None
        made = len(report.attempts) - 1
        reason = why_no_other(attempt, job.limits, made, report.paused, ports.rewind())
        if reason is not None:
            report.note = reason
            break
        seconds = min(pause(job.limits, made + 1, ports.clock.chance()), job.limits.total - report.paused)
        what = f"{attempt.judged.title}; this passes, trying again in {seconds:.0f} s"
        ports.progress.say(f"{what} (retry {made + 1} of {job.limits.retries})")
        ports.clock.sleep(seconds)
        report.paused += seconds
    if job.on_oom is not None:
        _get_round(job, ports, peaks, report)
    report.peaks = peaks.result()
    return report


def _get_round(job: Job, ports: Ports, peaks: Peaks, report: Report) -> None:
    """Run what was asked for in case memory is the cause, if it is."""
    assert job.on_oom is not None
    last = report.attempts[-1]
    if last.judged is None or not last.judged.memory or last.interrupted:
        return
    if not ports.rewind():
        report.note = "--on-oom was not run: standard input cannot be given twice (</dev/null, or a file, can)"
        return
    cpu = job.on_oom == (CPU,)
    report.fallback_argv = job.argv if cpu else job.on_oom
    what = "running it on the CPU instead" if cpu else f"running instead: {shlex.join(job.on_oom)}"
    ports.progress.say(f"{last.judged.title}; {what}")
    env = {**job.env, "CUDA_VISIBLE_DEVICES": ""} if cpu else job.env
    report.note = ""
    try:
        report.fallback = _attempt(report.fallback_argv, env, ports, peaks, report)
    except OSError as error:  # how the command ended is not lost for that
        reason = (error.strerror or type(error).__name__).lower()
        report.note = f"--on-oom could not be run: {report.fallback_argv[0]}: {reason}"


def _with_memory(job: Job, ports: Ports, report: Report) -> Mapping[str, str]:
    """The command's environment, once a GPU has the memory that is asked for."""
    if job.memory is None:
        return job.env
    from bnbenv.doctor.running.waiting import wait_for_memory

    free = wait_for_memory(job.memory, ports.ask, ports.clock.now, ports.progress)
    report.waited += free.seconds
    ports.progress.detail(f"{free.place.title} has {show_size(free.place.free)} free")
    if free.shown is None:
        return job.env
    ports.progress.say(f"{free.place.title} has {show_size(free.place.free)} free: the command sees it first")
    return {**job.env, "CUDA_VISIBLE_DEVICES": free.shown}


def _attempt(argv: tuple[str, ...], env: Mapping[str, str], ports: Ports, peaks: Peaks, report: Report) -> Attempt:
    watches = []

    def started(process: int) -> None:
        if ports.watch is not None:
            watches.append(ports.watch(process, peaks.add))

    before = ports.kills()
    try:
        passed = ports.passer.run(argv, env, started)
    finally:
        for watch in watches:
            watch.stop()
    report.unwritten, report.tail = passed.unwritten, passed.tail
    judged = _judge(passed, before, ports)
    return Attempt(passed.returncode, passed.signal_name, passed.seconds, passed.interrupted, judged)


def _judge(passed: Passed, kills_before: int | None, ports: Ports) -> Judged | None:
    """The cause; none of what succeeded, or ended because somebody asked for it."""
    if passed.returncode == 0 or passed.interrupted:
        return None
    found = ports.judge(passed.tail)
    if found is None and passed.signal_name == "SIGKILL" and kills_before is not None:
        after = ports.kills()
        if after is not None and after > kills_before:
            return ports.judge_kill()
    return found
