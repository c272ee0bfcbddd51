"""``bnbenv run`` and signals: they reach the command, once, and how it ends is how bnbenv ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(os.name != "posix", reason="a POSIX system is missing: signals")

BNBENV = (sys.executable, "-m", "bnbenv", "run", "--")
# Counts what comes, and ends by itself.
COUNTS = """\
import os, signal, sys, time
came = []
for name in ("INT", "TERM", "HUP", "QUIT", "USR1", "USR2", "CONT"):
    signal.signal(getattr(signal, f"SIG{name}"), lambda number, frame: came.append(signal.Signals(number).name))
print(os.getpid(), flush=True)
while "SIGTERM" not in came:
    time.sleep(0.01)
print(" ".join(came))
sys.exit(7)
"""


def unignored() -> None:
    """Whoever runs the tests may ignore signals (nohup, a script's background job); what is started inherits that."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture
def start(place: Path, tool_environ: dict[str, str]) -> Iterator[Callable[..., Any]]:
    """Starts ``bnbenv run -- WORDS`` in a group of its own and waits for the first line of its output."""
    begun: list[subprocess.Popen[bytes]] = []

    def run(*words: str, **more: Any) -> tuple[Any, bytes]:
        settings: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        settings |= {"cwd": place, "env": tool_environ, "start_new_session": True, "preexec_fn": unignored}
        process = subprocess.Popen([*BNBENV, *words], **{**settings, **more})
        begun.append(process)
        assert process.stdout is not None
        return process, process.stdout.readline()

    yield run
    for process in begun:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=30)


def gone(pid: int) -> bool:
    """Whether a process has ended, within some seconds; one that nobody has waited for yet has."""
    for _ in range(500):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.01)
    return False


def test_signals_are_passed_on_once_and_the_command_decides(start: Any) -> None:
    process, _ = start("python", "-c", COUNTS)
    for number in (signal.SIGUSR1, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR2, signal.SIGCONT):
        process.send_signal(number)
        time.sleep(0.05)  # two that wait at once have no order
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=30)
    assert out == b"SIGUSR1 SIGINT SIGHUP SIGQUIT SIGUSR2 SIGCONT SIGTERM\n"
    assert (process.returncode, err) == (7, b"")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_death_by_a_signal_is_kept(number: signal.Signals, start: Any) -> None:
    process, _ = start("sh", "-c", "echo up; exec sleep 60")
    process.send_signal(number)
    assert process.wait(timeout=30) == -number
    assert process.stderr.read() == b""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_command_that_is_killed(number: signal.Signals, start: Any) -> None:
    process, line = start("sh", "-c", "echo $$; exec sleep 60")
    os.kill(int(line), number)
    assert process.wait(timeout=30) == -number


def test_a_shell_sees_128_and_the_number(place: Path, tool_environ: dict[str, str]) -> None:
    script = '"$@" sh -c "kill -TERM \\$\\$"; echo $?; "$@" sh -c "kill -KILL \\$\\$"; echo $?'
    words = ["sh", "-c", script, "sh", *BNBENV]
    done = subprocess.run(words, cwd=place, env=tool_environ, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["143", "137"]


@pytest.mark.skipif(sys.platform != "linux", reason="Linux is missing, whose kernel ends a child with its parent")
def test_no_command_outlives_a_bnbenv_that_is_killed(start: Any) -> None:
    process, line = start("sh", "-c", "echo $$; exec sleep 60")
    process.kill()
    process.wait(timeout=30)
    assert gone(int(line))


def test_what_is_ignored_stays_ignored(start: Any) -> None:
    """nohup: neither bnbenv nor the command ends."""

    def nohup() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    process, line = start("sh", "-c", "echo $$; read x; echo end", stdin=subprocess.PIPE, preexec_fn=nohup)
    process.send_signal(signal.SIGHUP)
    os.kill(int(line), signal.SIGHUP)
    time.sleep(0.1)
    assert process.communicate(b"go\n", timeout=30)[0] == b"end\n"
    assert process.returncode == 0


def test_a_reader_that_goes_away_ends_the_command(start: Any) -> None:
    """As in ``| head -1``: the command gets SIGPIPE, which would not have come from a pipe that bnbenv still reads."""
    process, line = start("sh", "-c", "echo $$; exec yes")
    process.stdout.close()
    assert process.wait(timeout=30) == -signal.SIGPIPE
    assert process.stderr.read() == b""
    assert gone(int(line))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is missing")
def test_an_output_that_is_full_is_said(place: Path, tool_environ: dict[str, str]) -> None:
    with Path("/dev/full").open("wb") as full:
        words = [*BNBENV, "sh", "-c", "echo lost; exit 5"]
        done = subprocess.run(words, cwd=place, env=tool_environ, stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 5
    assert done.stderr.startswith(b"warning: what the command wrote could not be passed on (no space left on device)")


def test_closed_streams(place: Path, tool_environ: dict[str, str]) -> None:
    for script, code in [('"$@" true <&- >&- 2>&-', 0), ('"$@" sh -c "echo x >&2; exit 3" >&-', 3)]:
        words = ["sh", "-c", script, "sh", *BNBENV]
        done = subprocess.run(words, cwd=place, env=tool_environ, capture_output=True, timeout=60, check=False)
        assert (done.returncode, done.stdout) == (code, b"")


def test_a_reader_that_is_slow_holds_up_its_own_stream_alone(start: Any) -> None:
    """Standard output is full and nobody reads it; standard error comes all the same."""
    code = """\
import os, sys, threading
print("up", flush=True)
threading.Thread(target=lambda: os.write(1, b"x" * (8 << 20)), daemon=True).start()
import time; time.sleep(0.2)
os.write(2, b"error\\n")
time.sleep(60)
"""
    process, _ = start("python", "-c", code)
    assert process.stderr.readline() == b"error\n"
    process.terminate()
    out, _ = process.communicate(timeout=30)
    assert out.strip(b"x") == b"" and len(out) > 65536
    assert process.returncode == -signal.SIGTERM


@pytest.mark.skipif(sys.platform != "linux", reason="Linux is missing, whose pipes can be made smaller")
def test_a_bnbenv_that_waits_for_a_reader_can_be_ended(start: Any) -> None:
    """The command has ended, and nobody reads the rest of what it wrote."""
    import fcntl

    process, line = start("sh", "-c", "echo $$; read x; head -c 7000 /dev/zero; exit 7", stdin=subprocess.PIPE)
    fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, 4096)
    process.stdin.write(b"go\n")
    process.stdin.flush()
    assert gone(int(line))
    process.terminate()
    assert process.wait(timeout=30) != 7
