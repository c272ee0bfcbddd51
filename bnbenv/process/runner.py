"""Runs a command to its end or its time limit, and keeps what it printed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

GRACE = 2.0  # seconds between asking a process to end and killing it
TICK = 0.25  # seconds between two looks at a command that is watched

_POLITE = {getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)}

# Called about every TICK seconds with the process id and all that was printed so far (stdout, stderr).
Watch = Callable[[int, str, str], None]


@dataclass(frozen=True)
class Command:
    """A program to run; never a shell string.

    ``timeout`` is in seconds. ``env`` changes the inherited environment: a value sets, ``None`` removes. ``watch`` is
    told of what it prints while it runs (on Windows: only that it runs).
    """

    argv: tuple[str, ...]
    timeout: float
    env: Mapping[str, str | None] = field(default_factory=dict)
    cwd: str | None = None
    stdin: str | None = None
    watch: Watch | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Finished:
    """How a command ended. ``returncode`` is negative for a signal (``-9``) and ``None`` if it could not be reaped."""

    command: Command
    returncode: int | None
    stdout: str
    stderr: str
    timed_out: bool
    seconds: float

    @property
    def ok(self) -> bool:
        return self.returncode == 0 and not self.timed_out

    @property
    def signal_name(self) -> str | None:
        """``SIGSEGV`` and the like, if a signal ended it."""
        if self.returncode is None or self.returncode >= 0:
            return None
        try:
            return signal.Signals(-self.returncode).name
        except ValueError:
            return f"signal {-self.returncode}"


class Runner(Protocol):
    """The port that code which starts programs is given."""

    def run(self, command: Command) -> Finished:
        """Run to the end or to the time limit. Raises OSError if the program cannot be started."""


def end_with_parent() -> Callable[[], None]:
    """What a child calls for the kernel to end it when its parent is killed, so that no orphan goes on. Linux only.

    The kernel means the thread that made the child.
    """
    prctl = None
    if sys.platform.startswith("linux"):
        import ctypes

        with contextlib.suppress(OSError, AttributeError):
            prctl = ctypes.CDLL(None).prctl
    pr_set_pdeathsig, kill = 1, int(signal.SIGKILL) if os.name == "posix" else 0

    def tie() -> None:
        if prctl is not None:
            prctl(pr_set_pdeathsig, kill)

    return tie


def in_the_child() -> Callable[[], None] | None:
    """What a child does before it becomes the program: it takes signals again, which its parent holds back."""
    if os.name != "posix":
        return None
    tie = end_with_parent()

    def prepare() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _POLITE)
        tie()

    return prepare


@contextlib.contextmanager
def _held_back() -> Iterator[None]:
    """While a child is made, Ctrl-C and the like wait: what they raise in the midst of a fork, Python drops."""
    if os.name != "posix":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _POLITE)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def postponed() -> Iterator[None]:
    """What is begun in it comes to its end: Ctrl-C and the like come after it. In another than the main thread, no."""
    came: list[int] = []
    before: dict[int, Any] = {}
    with contextlib.suppress(ValueError):  # another thread
        for number in _POLITE:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, lambda one, _: came.append(one))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in dict.fromkeys(came):
            signal.raise_signal(number)


def environment(changes: Mapping[str, str | None]) -> dict[str, str]:
    env = dict(os.environ)
    for name, value in changes.items():
        if value is None:
            env.pop(name, None)
        else:
            env[name] = value
    return env


def _signal_group(process: subprocess.Popen[str], sig: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if os.name == "posix":
            os.killpg(process.pid, sig)
        else:
            process.terminate()


def _communicate(process: subprocess.Popen[str], command: Command) -> tuple[str, str]:
    """All that it prints. Raises TimeoutExpired at the command's time limit."""
    if command.watch is None:
        return process.communicate(command.stdin, timeout=command.timeout)
    end, text = time.monotonic() + command.timeout, command.stdin
    while True:
        left = end - time.monotonic()
        try:
            return process.communicate(text, timeout=max(0.0, min(TICK, left)))
        except subprocess.TimeoutExpired as so_far:
            if left <= TICK:
                raise
            text = None  # it is under way; communicate sends the rest of it
            command.watch(process.pid, _text(so_far.stdout), _text(so_far.stderr))


def _end(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Terminate, then kill; a process that hangs inside the kernel is left behind rather than waited for."""
    for sig in (signal.SIGTERM, getattr(signal, "SIGKILL", signal.SIGTERM)):
        _signal_group(process, sig)
        try:
            return process.communicate(timeout=GRACE)
        except subprocess.TimeoutExpired as error:
            partial = error
    return _text(partial.stdout), _text(partial.stderr)


def _text(data: str | bytes | None) -> str:
    if data is None:
        return ""
    return data if isinstance(data, str) else data.decode("utf-8", "replace")


class SystemRunner:
    """Runs commands for real. Each gets its own process group, so that its children end with it."""

    def run(self, command: Command) -> Finished:
        started = time.monotonic()
        process: subprocess.Popen[str] | None = None
        timed_out = False
        try:
            with _held_back():
                process = subprocess.Popen(
                    command.argv,
                    stdin=subprocess.DEVNULL if command.stdin is None else subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    env=environment(command.env),
                    cwd=command.cwd,
                    start_new_session=os.name == "posix",
                    preexec_fn=in_the_child(),  # noqa: PLW1509 - only system calls, made before exec
                    text=True,
                    encoding="utf-8",
                    errors="replace",
                )
            out, err = _communicate(process, command)
        except subprocess.TimeoutExpired:
            assert process is not None
            timed_out = True
            out, err = _end(process)
        except BaseException:  # Ctrl-C and the like: leave no child behind
            if process is not None:
                _end(process)
            raise
        return Finished(command, process.returncode, out, err, timed_out, time.monotonic() - started)
