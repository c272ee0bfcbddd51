"""Colour: where it is wanted and where not, on a real terminal and everywhere else."""

from __future__ import annotations

import io
import os
import re
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bnbenv.cli.render import style


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environ", "terminal", "expected"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"NO_COLOR": "1"}, True, False),
        ({"NO_COLOR": ""}, True, True),  # empty is not set
        ({"FORCE_COLOR": "1"}, False, True),
        ({"FORCE_COLOR": ""}, False, False),
        ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, True, False),
        ({"TERM": "dumb"}, True, False),
        ({"TERM": "dumb", "FORCE_COLOR": "1"}, True, True),
        ({"TERM": "xterm-256color"}, True, True),
    ],
)
def test_when_colour_is_wanted(environ: dict[str, str], terminal: bool, expected: bool) -> None:
    stream = Terminal() if terminal else io.StringIO()
    assert style.wanted(stream, environ, "posix") is expected


def test_an_old_windows_console_and_streams_that_are_none_get_no_codes() -> None:
    assert not style.wanted(Terminal(), {}, "nt")
    assert style.wanted(Terminal(), {"WT_SESSION": "x"}, "nt")
    assert not style.wanted(None, {}, "posix")
    closed = io.StringIO()
    closed.close()
    assert not style.wanted(closed, {}, "posix")


def test_only_the_beginning_of_a_line_is_coloured() -> None:
    text = "bnb: in sync, as of now\n  because it is in sync\nthe word error: here\nin synch\nverified: cpu"
    assert style.paint(text).replace("\x1b[0m", ">").splitlines() == [
        "bnb: \x1b[32min sync>, as of now",
        "  \x1b[33mbecause> it is in sync",
        "the word error: here",
        "in synch",
        "\x1b[32mverified>: cpu",
    ]


CODE = re.compile(r"\x1b\[")


def test_what_is_not_for_a_terminal_has_no_codes(bnbenv: Any) -> None:
    for words in (("check",), ("status",), ("nonsense",)):
        plain, forced = bnbenv(*words), bnbenv(*words, FORCE_COLOR="1")
        assert not CODE.search(plain.out + plain.err)
        assert CODE.search(forced.out + forced.err), words
        assert re.sub(r"\x1b\[[0-9]+m", "", forced.out + forced.err) == plain.out + plain.err
        assert bnbenv(*words, FORCE_COLOR="1", NO_COLOR="1") == plain


def test_documents_and_what_scripts_read_are_never_coloured(bnbenv: Any) -> None:
    for words in (("check", "--json"), ("status", "--json"), ("facts", "--json"), ("completion", "bash")):
        assert not CODE.search(bnbenv(*words, FORCE_COLOR="1").out), words
    assert not CODE.search(bnbenv("path", "--json", FORCE_COLOR="1").out)


@pytest.mark.skipif(os.name == "nt", reason="a pseudo-terminal is missing")
def test_on_a_terminal(tool_environ: dict[str, str], tmp_path: Path) -> None:
    environ = {**tool_environ, "TERM": "xterm", "NO_COLOR": "", "FORCE_COLOR": ""}
    assert "\x1b[33mnot in sync\x1b[0m: bnb" in _on_terminal(environ, tmp_path)
    for name, value in (("NO_COLOR", "1"), ("TERM", "dumb")):
        seen = _on_terminal({**environ, name: value}, tmp_path)
        assert "not in sync: bnb" in seen and not CODE.search(seen)


def _on_terminal(environ: dict[str, str], folder: Path) -> str:
    import pty

    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "bnbenv", "check"], cwd=folder, env=environ, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    seen = b""
    while process.poll() is None or select.select([ours], [], [], 0.2)[0]:
        try:
            seen += os.read(ours, 65536)
        except OSError:  # Linux: the other end is closed
            break
    process.wait(60)
    os.close(ours)
    return seen.decode()
