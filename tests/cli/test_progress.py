"""What people see while something is under way, how much of it with -v and -q, and what the log keeps."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bnbenv.cli.log import KEEP, RunLog
from bnbenv.cli.progress import Teller, TellingRunner, can_overwrite
from bnbenv.process import Command, SystemRunner

BNBENV = (sys.executable, "-m", "bnbenv")


class Screen:
    """A terminal of one column of lines: what was put stays, what was drawn may be cleared."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.drawn: list[str] = []

    def put(self, line: str) -> None:
        assert not self.at_hand, "a line was put behind what was drawn"
        self.lines.append(line)

    def draw(self, text: str) -> None:
        self.drawn.append(text.removeprefix("\r\x1b[2K"))

    @property
    def at_hand(self) -> str:
        return self.drawn[-1] if self.drawn else ""


@pytest.fixture
def screen() -> Screen:
    return Screen()


@pytest.fixture
def teller(screen: Screen) -> Iterator[Teller]:
    one = Teller(screen.put, RunLog(["sync"]), 0, screen.draw)
    yield one
    one.close()


def soon(condition: Any, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_terminal_shows_what_lasts(screen: Screen, teller: Teller) -> None:
    teller.at("bnb: downloading")
    soon(lambda: screen.at_hand.startswith("bnb: downloading"))
    teller.say("bnb: a line that stays")  # put asserts that the line at hand was cleared before
    teller.at("bnb: another")
    soon(lambda: screen.at_hand.startswith("bnb: another"))
    teller.at("")
    assert screen.at_hand == ""
    assert screen.lines == ["bnb: a line that stays"]


def test_what_is_quick_is_not_shown(screen: Screen, teller: Teller) -> None:
    for _ in range(3):
        teller.at("bnb: at something")
        time.sleep(0.3)
        teller.say("bnb: done")
    teller.close()
    assert screen.drawn == []


def test_many_short_things_are_no_long_silence(screen: Screen, teller: Teller) -> None:
    end = time.monotonic() + 20
    while not screen.drawn:
        teller.at("bnb: at something")
        time.sleep(0.3)
        teller.at("")
        assert time.monotonic() < end


def test_the_end_leaves_whole_lines(screen: Screen, teller: Teller) -> None:
    teller.at("bnb: downloading")
    soon(lambda: screen.at_hand)
    teller.close()
    assert screen.at_hand == ""


def test_where_nothing_can_be_overwritten_a_line_says_that_it_goes_on(screen: Screen) -> None:
    teller = Teller(screen.put, RunLog(["sync"]), 0, None, still=0.5)
    teller.at("bnb: downloading")
    soon(lambda: len(screen.lines) >= 2)
    teller.close()
    assert screen.lines[0].startswith("bnb: downloading (")
    assert screen.lines[0].endswith(" s so far)")
    quiet = Teller(screen.put, RunLog(["sync"]), -1, None, still=0.1)
    before = len(screen.lines)
    quiet.at("bnb: downloading")
    time.sleep(0.6)
    quiet.close()
    assert len(screen.lines) == before


def test_nothing_wider_than_the_terminal_is_drawn(screen: Screen, teller: Teller) -> None:
    teller.at("x" * 1000)
    soon(lambda: screen.at_hand)
    import shutil

    assert len(screen.at_hand) < shutil.get_terminal_size().columns
    assert screen.at_hand.endswith("s)")


@pytest.mark.parametrize(("level", "shown"), [(-1, []), (0, ["said"]), (1, ["said", "  exit 1", "  why"])])
def test_how_much_is_told(level: int, shown: list[str], screen: Screen, tmp_path: Path) -> None:
    log = RunLog(["sync"])
    teller = Teller(screen.put, log, level)
    teller.say("said")
    teller.detail("exit 1\nwhy")
    teller.close()
    log.open(tmp_path)
    assert "\n".join(screen.lines).splitlines() == shown
    assert log.path is not None
    assert "said\n" in log.path.read_text()  # the log has all of it
    assert "why\n" in log.path.read_text()


def test_credentials_are_told_to_nobody(screen: Screen, tmp_path: Path) -> None:
    log = RunLog(["sync", "--torch", "https://reader:pa55-w0rd@host/x"])
    teller = Teller(screen.put, log, 1)
    log.open(tmp_path)
    echo = "echo https://reader:pa55-w0rd@host/y >&2; exit 3"
    assert TellingRunner(SystemRunner(), teller).run(Command(("/bin/sh", "-c", echo), 10.0)).returncode == 3
    teller.close()
    log.end(1)
    assert log.path is not None
    for text in ("\n".join(screen.lines), log.path.read_text()):
        assert "exit 3" in text
        assert "host/y" in text
        assert "pa55" not in text


def test_the_last_runs_are_kept(tmp_path: Path) -> None:
    for number in range(KEEP + 5):
        log = RunLog(["sync", str(number)])
        log.open(tmp_path)
        log.end(0)
        time.sleep(0.002)  # their names are in milliseconds
    texts = [path.read_text() for path in sorted((tmp_path / "log").iterdir())]
    assert len(texts) == KEEP
    assert [f"sync {number}\n" in text for number, text in enumerate(texts, 5)] == [True] * KEEP
    assert all(text.splitlines()[-1].split("s  ")[1].startswith("exit 0 after ") for text in texts)


def test_a_log_that_cannot_be_written_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("a file where the folder belongs")
    log = RunLog(["sync"])
    log.add("a line")
    log.open(tmp_path)
    log.add("another")
    log.end(0)
    assert log.path is None


def test_terminals_that_cannot_be_written_over() -> None:
    class Terminal:
        def isatty(self) -> bool:
            return True

    assert can_overwrite(Terminal(), {"TERM": "xterm"}, "posix")
    assert can_overwrite(Terminal(), {"WT_SESSION": "1"}, "nt")
    assert not can_overwrite(Terminal(), {}, "nt")
    assert not can_overwrite(Terminal(), {"TERM": "dumb"}, "posix")
    assert not can_overwrite(Terminal(), {"TERM": "xterm", "BNBENV_PROGRESS": "lines"}, "posix")
    assert not can_overwrite(None, {"TERM": "xterm"}, "posix")


@pytest.mark.real
def test_a_sync_with_details_and_its_log(project: Any) -> None:
    ended = project("sync", "--fresh", "--no-verify", "-v")
    assert ended.code == 0
    assert "  uv venv " in ended.stderr
    assert ": exit 0 after " in ended.stderr
    logs = sorted((project.root / ".bnbenv" / "log").iterdir())
    text = logs[-1].read_text()
    assert "$ bnbenv sync --fresh --no-verify -v\n" in text
    assert "installing" in text
    assert "switched to generation 2" in text
    assert text.splitlines()[-1].endswith(" s") and "exit 0 after" in text.splitlines()[-1]


@pytest.mark.real
def test_quiet_says_nothing_but_errors(project: Any) -> None:
    for words in (("sync", "-q"), ("check", "-q"), ("sync", "--fresh", "--no-verify", "-q"), ("rollback", "-q")):
        ended = project(*words)
        assert (ended.code, ended.stdout, ended.stderr) == (0, "", ""), words
    assert project("list", "-q").stdout != ""
    assert "[envs.bnb]" in project.replace("bnbenv.toml", lambda text: text + b"x = 1\n").read_text()
    ended = project("check", "-q")
    assert (ended.code, ended.stdout) == (2, "")
    assert ended.stderr.startswith("error: ")


@pytest.mark.real
def test_a_failure_names_its_log(project: Any) -> None:
    change = (b"# find-links = []", b'find-links = ["https://localhost:9/none"]')
    project.replace("bnbenv.toml", lambda text: text.replace(*change))
    ended = project("sync", UV_OFFLINE="1", UV_CACHE_DIR=str(project.root / "empty-cache"))
    assert ended.code == 7, ended.stderr
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("log: ")]
    assert "error: " in Path(line.removeprefix("log: ")).read_text()


@pytest.mark.skipif(os.name != "posix", reason="a POSIX system is missing: pseudo terminals and signals")
def test_waiting_for_a_source_is_shown_and_interrupted(index_free_project: Path, tool_environ: dict[str, str]) -> None:
    """A source that never answers: after a second the terminal says what is waited for; Ctrl-C leaves whole lines."""
    import pty

    ours, theirs = pty.openpty()
    environ = {**tool_environ, "TERM": "xterm-256color", "UV_CACHE_DIR": str(index_free_project / "cache")}
    process = subprocess.Popen(
        [*BNBENV, "sync"], cwd=index_free_project, env=environ, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    seen = b""
    while b"waiting for" not in seen:
        seen += os.read(ours, 4096)
    process.send_signal(signal.SIGINT)
    try:
        while chunk := os.read(ours, 4096):
            seen += chunk
    except OSError:  # how Linux tells that the other side was closed
        pass
    os.close(ours)
    assert process.wait(30) == 130
    last = seen.decode().rpartition("\r\x1b[2K")[2]
    assert last.startswith("interrupted: what is in use is whole")


@pytest.fixture
def index_free_project(tmp_path: Path) -> Iterator[Path]:
    """A project whose only index takes connections and never answers."""
    import socket

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(20)
        address = f"http://127.0.0.1:{listening.getsockname()[1]}/simple"
        (tmp_path / "bnbenv.toml").write_text(f'[sources]\nindexes = ["{address}"]\n')
        yield tmp_path
