"""``bnbenv run`` at a terminal, with a real shell in a real pseudo-terminal: what people type and see."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    os.name != "posix" or shutil.which("bash") is None, reason="bash or a POSIX terminal is missing"
)

PROMPT = "shell> "


class Shell:
    """bash in a terminal of 33 rows and 101 columns, in which ``bnb`` is ``bnbenv run --``."""

    def __init__(self, place: Path, environ: dict[str, str]) -> None:
        import fcntl
        import pty
        import termios

        self._own, theirs = pty.openpty()
        self.resize(33, 101)
        bash = ["bash", "--norc", "--noprofile", "--noediting", "-i"]
        self._process = subprocess.Popen(
            bash,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=place,
            env={**environ, "TERM": "xterm", "PS1": PROMPT, "HISTFILE": "", "HOME": str(place)},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - one system call
        )
        os.close(theirs)
        self._seen = ""
        self.until(PROMPT)
        self.type(f'bnb() {{ {sys.executable} -m bnbenv run -- "$@"; }}; stty -echo\n')
        self.until(PROMPT)

    def resize(self, rows: int, columns: int) -> None:
        import fcntl
        import termios

        fcntl.ioctl(self._own, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self._own, text.encode())

    def until(self, text: str, seconds: float = 20.0) -> str:
        """What comes up to and with a text."""
        end = time.monotonic() + seconds
        while text not in self._seen:
            ready, _, _ = select.select([self._own], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"{text!r} did not come, but {self._seen!r}"
            self._seen += os.read(self._own, 65536).decode().replace("\r\n", "\n")
        before, found, self._seen = self._seen.partition(text)
        return before + found

    def __call__(self, line: str) -> str:
        """What a command line prints."""
        self.type(line + "\n")
        return self.until(PROMPT).removesuffix(PROMPT)

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        os.close(self._own)
        self._process.wait(timeout=30)


@pytest.fixture
def shell(place: Path, tool_environ: dict[str, str]) -> Iterator[Shell]:
    one = Shell(place, tool_environ)
    yield one
    one.close()


def test_the_command_sees_a_terminal_where_there_is_one(shell: Shell, place: Path) -> None:
    (place / "ask.py").write_text(
        "import os, sys\nsys.stderr.write(f'{[int(os.isatty(one)) for one in range(3)]}')\n"
        "if os.isatty(1): sys.stderr.write(f' {os.get_terminal_size(1)[:]}')\n"
        "sys.stderr.write('\\n')\n"
    )
    assert shell("bnb python ask.py") == "[1, 1, 1] (101, 33)\n"
    assert shell("bnb python ask.py | cat") == "[1, 0, 1]\n"
    assert shell("bnb python ask.py </dev/null") == "[0, 1, 1] (101, 33)\n"
    assert shell("bnb python ask.py 2>errors; cat errors") == "[1, 1, 0] (101, 33)\n"
    # Colours, lines that are written over and an end without a line's end: byte for byte.
    assert shell(r"bnb printf '\033[31mred\033[0m 10%%\r 20%%'") == "\x1b[31mred\x1b[0m 10%\r 20%"


def test_what_is_typed_reaches_the_command(shell: Shell) -> None:
    shell.type("bnb python -c \"print('got', repr(input('name: ')))\"\n")
    shell.until("name: ")
    shell.type("Ada\n")
    assert shell.until(PROMPT) == f"got 'Ada'\n{PROMPT}"
    assert "ok" in shell("bnb cat && echo ok\n\x04")  # Ctrl-D


def test_ctrl_c_comes_once(shell: Shell, place: Path) -> None:
    (place / "slow.py").write_text(
        "import time\ncount, end = 0, time.time() + 60\n"
        "while time.time() < end:\n"
        "    try: print('up', flush=True); time.sleep(0.3 if count > 2 else 60)\n"
        "    except KeyboardInterrupt: count += 1\n"
        "    else: break\n"
        "print('times', count)\nraise SystemExit(9)\n"
    )
    shell.type("bnb python slow.py\n")
    for _ in range(3):  # two that come at once can be one
        shell.until("up\n")
        shell.type("\x03")
    assert "times 3\n" in shell.until(PROMPT)
    assert shell("echo $?") == "9\n"
    shell.type("bnb sh -c 'echo up; exec sleep 60'\n")
    shell.until("up\n")
    shell.type("\x03")
    shell.until(PROMPT)
    assert shell("echo $?") == "130\n"


def test_ctrl_z_stops_both_and_fg_goes_on(shell: Shell) -> None:
    shell.type("bnb sh -c 'echo up; read line; echo \"again $line\"; exit 5'\n")
    shell.until("up\n")
    shell.type("\x1a")
    assert "Stopped" in shell.until(PROMPT)
    shell.resize(40, 140)
    shell.type("fg\n")
    shell.until("bnb")
    shell.type("here\n")
    assert "again here\n" in shell.until(PROMPT)
    assert shell("echo $?") == "5\n"


def test_a_window_that_changes(shell: Shell, place: Path) -> None:
    (place / "size.py").write_text(
        "import os, signal, time\nsizes = []\n"
        "signal.signal(signal.SIGWINCH, lambda *_: sizes.append(os.get_terminal_size()[:]))\n"
        "print('up', flush=True)\nend = time.time() + 20\n"
        "while (40, 12) not in sizes and time.time() < end: time.sleep(0.01)\n"
        "time.sleep(0.2)\nprint(sizes[-1:], len(sizes) < 9)\n"  # bnbenv, which tells its group, is in that group
    )
    shell.type("bnb sh -c 'python size.py'\n")  # not the command itself: a program that it started
    shell.until("up\n")
    shell.resize(12, 40)
    assert shell.until(PROMPT) == f"[(40, 12)] True\n{PROMPT}"


CURSES = """\
import curses, os, signal, sys
def main(screen):
    screen.addstr(0, 0, f"lines {curses.LINES}"); screen.refresh()
    screen.addstr(1, 0, f"key {screen.getch()}"); screen.refresh()
    if sys.argv[1:]: os.kill(os.getpid(), signal.SIGKILL)
curses.wrapper(main)
"""


@pytest.mark.parametrize("killed", ["", "killed"])
def test_a_program_that_draws_on_the_whole_screen(killed: str, shell: Shell, place: Path) -> None:
    """It gets single keys without an echo, and the terminal is as before, also if it was killed in the midst of it."""
    pytest.importorskip("curses", reason="Python's curses is missing")
    (place / "screen.py").write_text(CURSES)
    shell("stty echo")
    shell.type(f"bnb python screen.py {killed}\n")
    shell.until("lines 33")
    shell.type("x")
    assert shell.until("key 120").count("x") == 0
    shell.until(PROMPT)
    modes = shell("stty -a").split()
    assert {"icanon", "echo", "isig", "opost", "icrnl"} <= {*modes}


def test_in_the_background_it_leaves_the_terminal_alone(shell: Shell) -> None:
    shell.type("bnb sh -c 'echo one; sleep 0.3; echo two' &\n")
    shell.until("two\n")
    assert "free" in shell("wait; echo free")


def test_a_shell_has_jobs_of_its_own(shell: Shell) -> None:
    """It is given the terminal itself, for it has to be the controlling one."""
    shell.type("bnb bash -i\n")
    shell.type("echo read''y; which python\n")
    shell.until("ready\n")
    shell.until("/.bnbenv/generations/bnb/1/bin/python")
    shell.type("sh -c 'echo u''p; exec sleep 60'\n")
    shell.until("up\n")
    shell.type("\x1a")
    shell.until("Stopped")
    shell.type("kill -9 %1; exec sh -c 'exit 4'\n")
    shell.until(PROMPT)
    assert shell("echo $?").endswith("4\n")
