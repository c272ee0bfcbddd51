"""Shell completion in the real shells: commands, options, values, names of environments, numbers of generations."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bnbenv.cli import COMMANDS, command_names, parser_of

TOOL = Path(sys.executable).with_name("bnbenv")

# A line that is typed, and what is offered for its last word.
LINES: list[tuple[str, set[str]]] = [
    ("bnbenv sta", {"status"}),
    ("bnbenv sync --ba", {"--backend"}),
    ("bnbenv sync --backend ", {"auto", "cuda", "cpu"}),
    ("bnbenv solve --backend c", {"cuda", "cpu"}),
    ("bnbenv check --env ", {"bnb", "eval"}),
    ("bnbenv status --why --env e", {"eval"}),
    ("bnbenv rollback ", {"1", "2"}),
    ("bnbenv rollback --env eval ", {"7"}),
    ("bnbenv facts --facts bnbenv", {"bnbenv.toml"}),
    ("bnbenv completion ", {"bash", "zsh", "fish"}),
    ("bnbenv verify --device ", {"cpu"}),
    ("bnbenv run --wait-m", {"--wait-memory"}),
    ("bnbenv matrix sh", {"show"}),
]


def shell(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"the shell {name} is missing")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project with two environments, of which one has a name only, and three finished generations."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "bnbenv.toml").write_text("[envs.bnb]\n[envs.eval]\n")
    fields = ["python", "wishes", "config", "lock"]
    for env, number in [("bnb", 1), ("bnb", 2), ("eval", 7)]:
        python = folder / ".bnbenv" / "generations" / env / str(number) / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text("")
        record: dict[str, Any] = dict.fromkeys(fields, "") | {"generation": number, "created": "2026-11-21"}
        record |= {name: {} for name in ("host", "facts", "packages", "files", "decision", "verification")}
        record |= {"schema": "bnbenv.generation/1", "environments": [], "verified": True}
        (python.parents[2] / f"{number}.json").write_text(json.dumps(record))
    (folder / ".bnbenv" / "generations" / "bnb" / "3").mkdir()  # unfinished
    return folder


@pytest.fixture
def script(tool_environ: dict[str, str]) -> Callable[[str], str]:
    """What ``bnbenv completion`` prints for a shell."""

    def run(name: str) -> str:
        done = subprocess.run(
            [TOOL, "completion", name], env=tool_environ, capture_output=True, text=True, timeout=60, check=True
        )
        assert done.stderr == ""
        return done.stdout

    return run


def test_bash(script: Callable[[str], str], folder: Path, tool_environ: dict[str, str]) -> None:
    found = _bash(script("bash"), [line for line, _ in LINES], folder, tool_environ)
    assert dict(zip([line for line, _ in LINES], found, strict=True)) == dict(LINES)


def test_bash_offers_every_command_and_every_option(
    script: Callable[[str], str], folder: Path, tool_environ: dict[str, str]
) -> None:
    lines = ["bnbenv ", *(f"bnbenv {name} -" for name in command_names())]
    commands, *options = _bash(script("bash"), lines, folder, tool_environ)
    assert commands == set(COMMANDS)
    for name, offered in zip(command_names(), options, strict=True):
        assert offered == {word for action in parser_of(name)._actions for word in action.option_strings}, name


def _bash(script: str, lines: list[str], folder: Path, environ: dict[str, str]) -> list[set[str]]:
    calls = []
    for line in lines:
        words = line.split(" ")
        calls.append(f"COMP_WORDS=({' '.join(words[:-1])} '{words[-1]}'); COMP_CWORD={len(words) - 1}")
        calls.append('COMPREPLY=(); _shtab_bnbenv; printf "%s " "${COMPREPLY[@]}"; echo')
    text = "\n".join([script, *calls])
    done = subprocess.run(
        [shell("bash"), "--norc"],
        input=text,
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stderr == ""
    return [set(line.split()) for line in done.stdout.splitlines()]


def test_fish(script: Callable[[str], str], folder: Path, tool_environ: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "bnbenv.fish"
    file.write_text(script("fish"))
    calls = "; ".join(f"echo '== '; complete -C '{line}'" for line, _ in LINES)
    done = subprocess.run(
        [shell("fish"), "--no-config", "-c", f"source {file}; {calls}"],
        cwd=folder,
        env={**tool_environ, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stderr == ""
    found = [{line.split("\t")[0] for line in part.split("\n") if line} for part in done.stdout.split("== \n")[1:]]
    assert dict(zip([line for line, _ in LINES], found, strict=True)) == dict(LINES)


def test_zsh(script: Callable[[str], str], folder: Path, tool_environ: dict[str, str], tmp_path: Path) -> None:
    functions = tmp_path / "functions"
    functions.mkdir()
    (functions / "_bnbenv").write_text(script("zsh"))
    setup = f"PS1=; fpath=({functions} $fpath); autoload -Uz compinit; compinit -u -D; setopt no_beep auto_list"
    for line, expected in LINES:
        screen = _typed([shell("zsh"), "-f", "-i"], setup, line, expected, folder, tool_environ)
        assert all(word in screen for word in expected), (line, screen)


def _typed(command: list[str], setup: str, line: str, expected: set[str], folder: Path, environ: dict[str, str]) -> str:
    """What a shell on a terminal shows after a line and the tabulator key; read until all that is expected is there."""
    import pty
    import signal

    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        os.execve(command[0], command, {**environ, "TERM": "xterm", "COLUMNS": "200"})
    try:
        os.write(terminal, f"{setup}; echo RE''ADY\n".encode())
        _read(terminal, {"READY\r\n"})
        os.write(terminal, (line + "\t").encode())
        return _read(terminal, expected)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(terminal)


def _read(terminal: int, expected: set[str]) -> str:
    seen, end = b"", time.monotonic() + 60
    while time.monotonic() < end and not all(word.encode() in seen for word in expected):
        if select.select([terminal], [], [], 0.2)[0]:
            seen += os.read(terminal, 65536)
    return seen.decode(errors="replace")


def test_the_names_come_from_what_can_be_read(bnbenv: Any, folder: Path) -> None:
    assert bnbenv("completion", "envs", cwd=folder).out.split() == ["bnb", "eval"]
    assert bnbenv("completion", "generations", "--", "rollback", "--env=eval", cwd=folder).out.split() == ["7"]
    assert bnbenv("completion", "generations", "--", "rollback", "--env", "=", "eval", cwd=folder).out.split() == ["7"]
    elsewhere = folder.parent / "elsewhere"
    elsewhere.mkdir()
    words = ("completion", "envs", "--", "check", "--project", str(folder), "--env", "")
    assert bnbenv(*words, cwd=elsewhere).out.split() == ["bnb", "eval"]
    # Somebody is typing: what is broken has no names, and nothing else is said.
    for config in ("[envs.bnb", "[envs.'../x']\n"):
        (folder / "bnbenv.toml").write_text(config)
        ran = bnbenv("completion", "envs", cwd=folder)
        assert (ran.code, ran.err, ran.out.split()) == (0, "", ["bnb", "eval"])
    assert bnbenv("completion", "envs", "--", "--project", str(folder / "gone")).out == ""
    assert bnbenv("completion", "generations", "--", "--env", "../..", cwd=folder).out == ""


def test_a_script_for_another_shell_is_refused(refused: Callable[..., str]) -> None:
    assert 'expected bash, zsh or fish, found "tcsh"' in refused("completion", "tcsh")
    refused("completion")
