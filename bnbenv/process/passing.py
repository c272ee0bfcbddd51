"""Runs a user's own command: its output is passed on as it comes, its exit code, signals and terminal kept.

What can be kept by leaving it alone is left alone: standard input, the controlling terminal, the process group, signals
that were ignored. Only what it writes goes through here, for its end to be read if it fails. Of a stream that is a
terminal the command sees a terminal (a pseudo-terminal), of any other a pipe. An interactive shell is given the
terminal itself: it needs the controlling one for its jobs, and has no failure of its own.

Signals. What the terminal sends (Ctrl-C, Ctrl-Z, Ctrl-\\) reaches the command by itself, and is not sent twice. What
another process sends to bnbenv is passed on to the command alone, as if it had been started without bnbenv. If bnbenv
is killed, the kernel kills the command with it (Linux), as a kill of the command itself would; elsewhere it learns of
it at its next write. A command that stops (Ctrl-Z) stops bnbenv, so that the shell sees it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from bnbenv.process.pump import Pump
from bnbenv.process.tail import Tail

# Asked to end. A command that was is not started again.
_ENDING = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT")
# SIGUSR1 and SIGUSR2 are what batch systems announce the end of a job's time with.
_PASSED = (*_ENDING, "SIGUSR1", "SIGUSR2", "SIGWINCH", "SIGTSTP", "SIGCONT")
_SHELLS = frozenset({"sh", "bash", "dash", "zsh", "fish", "ksh", "tcsh"})
_FROM_THE_KERNEL = 0x80  # si_code SI_KERNEL: the terminal's driver sent it, to the whole foreground group


@dataclass(frozen=True)
class Passed:
    """How a command ended. ``returncode`` is negative for a signal; ``tail`` is the end of what it wrote.

    ``interrupted``: somebody asked it, or bnbenv, to end. ``unwritten`` says why output could not be passed on.
    """

    returncode: int
    seconds: float
    tail: bytes
    interrupted: bool = False
    unwritten: str = ""

    @property
    def signal_name(self) -> str | None:
        """``SIGSEGV`` and the like, if a signal ended it."""
        if self.returncode >= 0:
            return None
        try:
            return signal.Signals(-self.returncode).name
        except ValueError:
            return f"signal {-self.returncode}"


class Passer(Protocol):
    """The port through which a user's command is run."""

    def run(self, argv: tuple[str, ...], env: Mapping[str, str], started: Callable[[int], None]) -> Passed:
        """Run to the end; ``started`` is told the process id. Raises OSError if it cannot be started."""


@dataclass(frozen=True)
class SystemPasser:
    """Runs commands for real. ``outputs``: the file descriptors that their stdout and stderr are passed on to."""

    outputs: tuple[int, int] = (1, 2)

    def run(self, argv: tuple[str, ...], env: Mapping[str, str], started: Callable[[int], None]) -> Passed:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                with contextlib.suppress(OSError, ValueError):
                    stream.flush()
        if os.name == "posix":
            return _run(argv, env, started, self.outputs)
        return _run_on_windows(argv, env, started, self.outputs)


class _Streams:
    """What the command writes to: a pipe each, or a pseudo-terminal, which both share if they are one terminal."""

    def __init__(self, outputs: tuple[int, int], direct: bool) -> None:
        from bnbenv.process.terminal import Terminal, same_terminal

        self.terminals: list[Terminal] = []
        self._pairs: list[tuple[int, int, Callable[[], None]]] = []  # read here, written to, called at each piece
        self.given: list[int] = []
        self._tail, self.pumps, self._direct = Tail(), list[Pump](), direct
        for number, output in enumerate(outputs):
            if direct:
                self.given.append(output)
            elif number and same_terminal(*outputs):
                self.given.append(self.given[0])
            elif (terminal := Terminal.like(output)) is not None:
                self.terminals.append(terminal)
                self.given.append(terminal.command_end)
                self._pairs.append((terminal.own_end, output, terminal.follow))
            else:
                read, write = os.pipe()
                _widen(write)
                self.given.append(write)
                self._pairs.append((read, output, lambda: None))

    def begin(self) -> None:
        """The command has its ends now."""
        self._close_given()
        for number, (read, output, each) in enumerate(self._pairs):
            self.pumps.append(Pump(read, output, self._tail, number, each))

    def drop(self) -> None:
        """There is no command."""
        self._close_given()
        for read, _, _ in self._pairs:
            os.close(read)

    def _close_given(self) -> None:
        for end in set(self.given):
            if not self._direct:
                os.close(end)

    def settle(self) -> None:
        """Pass on what the command wrote before it stopped."""
        for pump in self.pumps:
            pump.quiet()
        for terminal in self.terminals:
            terminal.follow()

    def end(self) -> tuple[bytes, str]:
        """Pass on the rest; what is kept of it, and why some could not be written (a reader that left is no fault)."""
        for pump in self.pumps:
            pump.finish(_asked_to_end)
        for terminal in self.terminals:
            terminal.follow()
            terminal.restore()
        faults = [pump.fault for pump in self.pumps if pump.fault and not isinstance(pump.fault, BrokenPipeError)]
        return self._tail.bytes(), (faults[0].strerror or "").lower() if faults else ""


def _run(
    argv: tuple[str, ...], env: Mapping[str, str], started: Callable[[int], None], outputs: tuple[int, int]
) -> Passed:
    import subprocess

    _fill_closed()
    begun = time.monotonic()
    with _held_back() as (held, before):
        streams = _Streams(outputs, _is_interactive_shell(argv))
        try:
            process = subprocess.Popen(
                argv,
                env=dict(env),
                stdout=streams.given[0],
                stderr=streams.given[1],
                preexec_fn=_in_the_child(before),  # noqa: PLW1509 - only system calls, made before exec
            )
        except BaseException:
            streams.drop()
            raise
        streams.begin()
        started(process.pid)
        process.returncode, interrupted = _attend(process.pid, held, streams)
        seconds = time.monotonic() - begun
        tail, unwritten = streams.end()
    interrupted = interrupted or process.returncode in {-getattr(signal, name) for name in _ENDING}
    return Passed(process.returncode, seconds, tail, interrupted, unwritten)


def _is_interactive_shell(argv: tuple[str, ...]) -> bool:
    """A shell that is given nothing to run, at a terminal."""
    shell = argv[0].rpartition("/")[2] in _SHELLS and all(word in ("-i", "-l", "--login") for word in argv[1:])
    return shell and all(os.isatty(number) for number in range(3))


def _asked_to_end() -> bool:
    """Whether a signal waits to end bnbenv, which it does when it is no longer held back."""
    return bool({int(getattr(signal, name)) for name in _ENDING} & signal.sigpending())


class _Came(NamedTuple):
    number: int
    from_the_kernel: bool
    from_itself: bool


def _attend(command: int, held: set[int], streams: _Streams) -> tuple[int, bool]:
    """Pass signals on until the command has ended: its return code, and whether somebody asked for its end."""
    asked = False
    while True:
        found, status = os.waitpid(command, os.WNOHANG | os.WUNTRACED)
        if found and not os.WIFSTOPPED(status):
            return os.waitstatus_to_exitcode(status), asked
        if found:
            _stop_too(os.WSTOPSIG(status), command, streams)
            continue
        came = _next(held)
        if came.number == signal.SIGCHLD or came.from_itself:
            continue
        asked = asked or signal.Signals(came.number).name in _ENDING
        if came.number == signal.SIGWINCH and streams.terminals:
            for terminal in streams.terminals:
                terminal.resize()
            streams.terminals[0].tell_resized(command)
        elif not (came.from_the_kernel and _in_our_group(command)):
            with contextlib.suppress(OSError):  # it has ended, or became another user's
                os.kill(command, came.number)


def _next(held: set[int]) -> _Came:
    """The next signal. macOS does not say who sent it: there those of the keyboard are taken for the terminal's."""
    if sys.platform == "darwin":
        number = signal.sigwait(held)
        return _Came(number, number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP) and os.isatty(0), False)
    info = signal.sigwaitinfo(held)
    return _Came(info.si_signo, info.si_code == _FROM_THE_KERNEL, info.si_pid == os.getpid())


def _in_our_group(command: int) -> bool:
    try:
        return os.getpgid(command) == os.getpgrp()
    except OSError:
        return False


def _stop_too(number: int, command: int, streams: _Streams) -> None:
    """The command stopped: by job control, as Ctrl-Z, bnbenv stops as well, and goes on when the shell lets it.

    What was stopped by SIGSTOP, whoever did it lets go on again; nobody would let bnbenv.
    """
    if number == signal.SIGSTOP:
        return
    streams.settle()
    waitid = getattr(os, "waitid", None)  # not on macOS
    again = os.WCONTINUED | os.WEXITED | os.WNOHANG | os.WNOWAIT
    if waitid is not None and waitid(os.P_PID, command, again) is not None:  # it was let go on meanwhile
        return
    before = signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})  # here it stops
    signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    signal.signal(number, before)
    for terminal in streams.terminals:
        terminal.resize()


@contextlib.contextmanager
def _held_back() -> Iterator[tuple[set[int], set[Any]]]:
    """While the command runs, signals are waited for and interrupt nothing. Gives those, and the mask before.

    One that is ignored (nohup, a shell's background job) stays ignored, by the command too.
    """
    numbers = {int(getattr(signal, name)) for name in _PASSED}
    held = {number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN}
    children = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, no exit code would be kept
    held.add(int(signal.SIGCHLD))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, held)
    try:
        yield held, before
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        signal.signal(signal.SIGCHLD, children)


def _in_the_child(mask: set[Any]) -> Callable[[], None]:
    """What the child does before it becomes the command: it takes signals again, and does not outlive bnbenv."""
    from bnbenv.process.runner import end_with_parent

    tie, parent = end_with_parent(), os.getpid()

    def prepare() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        tie()
        if os.getppid() != parent:  # bnbenv was killed before the kernel knew
            os._exit(127)

    return prepare


def _fill_closed() -> None:
    """Standard streams that are closed become /dev/null: a pipe made here would take their numbers."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)


def _widen(pipe: int) -> None:
    """A larger pipe takes fewer calls; what a user may have of it is limited, and then it stays as it is."""
    import fcntl

    with contextlib.suppress(OSError, AttributeError):
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 1 << 20)


def _run_on_windows(
    argv: tuple[str, ...], env: Mapping[str, str], started: Callable[[int], None], outputs: tuple[int, int]
) -> Passed:
    """Plain pipes. Ctrl-C goes to all programs of a console, so bnbenv waits for the command to end of it."""
    import shutil
    import subprocess

    begun, tail, interrupted = time.monotonic(), Tail(), False
    # Windows would look for it on bnbenv's own PATH.
    words = (shutil.which(argv[0], path=env.get("PATH")) or argv[0], *argv[1:])
    process = subprocess.Popen(words, env=dict(env), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    started(process.pid)
    assert process.stdout is not None and process.stderr is not None
    sources = (process.stdout.fileno(), process.stderr.fileno())
    pumps = [Pump(os.dup(one), to, tail, number) for number, (one, to) in enumerate(zip(sources, outputs, strict=True))]
    while True:
        try:
            code = process.wait()
            break
        except KeyboardInterrupt:
            interrupted = True
    for pump in pumps:
        pump.finish()
    faults = [pump.fault.strerror or "" for pump in pumps if pump.fault and not isinstance(pump.fault, BrokenPipeError)]
    return Passed(code, time.monotonic() - begun, tail.bytes(), interrupted, faults[0].lower() if faults else "")
