"""``--help`` of everything: what it does, an example, exit codes, in 80 columns."""

from __future__ import annotations

import re
from typing import Any

import pytest

from bnbenv.cli import COMMANDS, GROUPS, command_names
from bnbenv.errors import Exit

# What each command can end with, beside Ctrl-C: scripts branch on it.
EXITS = {
    "init": {0, 1},
    "adopt": {0, 1, 2, 6, 8},
    "facts": {0, 2},
    "matrix show": {0, 2},
    "matrix update": {0, 1, 2, 3, 7, 8},
    "matrix inspect": {0, 1, 2, 7},
    "matrix html": {0, 1, 2},
    "solve": {0, 2, 4, 6},
    "why-not": {0, 2, 4, 6},
    "plan": {0, 1, 2, 3, 4, 6, 7},
    "lock": {0, 1, 2, 4, 6, 7, 8},
    "add": {0, 1, 2, 4, 5, 6, 7, 8},
    "sync": {0, 1, 2, 4, 5, 6, 7, 8},
    "check": {0, 2, 3, 6},
    "verify": {0, 1, 2, 5, 6},
    "run": {0, 1, 2, 126, 127},
    "doctor": {0, 1, 2, 3, 4, 5, 6, 7, 8},
    "build": {0, 1, 2, 4, 6, 7, 8},
    "bundle": {0, 1, 2, 4, 6, 7},
    "fit": {0, 1, 2, 4, 7},
    "list": {0, 2},
    "rollback": {0, 1, 2, 8},
    "gc": {0, 2, 8},
    "path": {0, 1, 2},
    "status": {0, 1, 2, 3, 6},
    "export": {0, 1, 2},
    "jupyter": {0, 1, 2},
    "config": {0, 1, 2, 7},
    "completion": {0, 2},
    "prequantize": {0, 1, 2, 8},
    "guard": {0, 1, 2, 8},
    "hook install": {0, 1, 2, 8},
    "hook uninstall": {0, 1, 2, 8},
    "hook status": {0, 2, 3},
    "hook run": {0, 2},
    "fleet apply": {0, 1, 2, 3, 4, 5, 6, 7, 8},
    "fleet facts": {0, 1, 2},
    "fleet check": {0, 1, 2, 3, 6},
    "fleet collection": {0, 1, 2},
    "fleet host": {0, 2},
    "fleet plan": {0, 1, 2, 3, 4, 6, 7},
    "fleet sync": {0, 1, 2, 3, 4, 5, 6, 7, 8},
}


def test_the_overview(bnbenv: Any) -> None:
    ran = bnbenv("--help")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("usage: bnbenv <command> [options]\n")
    for name in COMMANDS:
        assert re.search(rf"^  {name}\s+\S", ran.out, re.M), name
    words = " ".join(ran.out.split())
    for code in Exit:
        assert re.search(rf"\b{int(code)} [a-z]", words.partition("exit codes:")[2]), code
    assert "bnbenv init && bnbenv sync" in ran.out
    assert max(map(len, ran.out.splitlines())) <= 80
    assert bnbenv("-h").out == bnbenv("help").out == ran.out


def test_alone_it_is_wrong_usage_and_shows_the_overview(bnbenv: Any) -> None:
    ran = bnbenv()
    assert ran.code == 2
    assert ran.out == bnbenv("--help").out


@pytest.mark.parametrize("name", command_names())
def test_a_command_says_what_it_does_with_an_example(name: str, bnbenv: Any) -> None:
    ran = bnbenv(*name.split(), "--help")
    assert (ran.code, ran.err) == (0, "")
    text = ran.out
    assert text.startswith(f"usage: bnbenv {name} ")
    for part in ("options:", "--json", "--project DIR", "example:\n  ", "exit codes: "):
        assert part in text, part
    description = text.partition("\n\n")[2].partition("\n\n")[0]
    assert len(description) > 30 and description[0].isupper() and description.endswith("."), description
    assert max(map(len, text.splitlines())) <= 80
    codes = " ".join(text.partition("exit codes: ")[2].split())
    assert {int(code) for code in re.findall(r"(?:^|, )(\d+) ", codes)} == EXITS[name]


@pytest.mark.parametrize("name", command_names())
def test_the_examples_can_be_read_by_the_commands_they_name(name: str, bnbenv: Any) -> None:
    """Every option of an example is one that the command knows."""
    text = bnbenv(*name.split(), "--help").out
    example = text.partition("example:\n")[2].partition("\n\n")[0]
    calls = re.findall(r"bnbenv ((?:matrix |hook |fleet )?[a-z-]+)([^|&>\n]*)", example)
    assert name in [command for command, _ in calls]
    for command, rest in calls:
        known = bnbenv(*command.split(), "--help").out
        assert all(option in known for option in re.findall(r"--[a-z-]+", rest)), rest


@pytest.mark.parametrize("name", GROUPS)
def test_a_group_of_commands_names_them(name: str, bnbenv: Any) -> None:
    ran = bnbenv(name, "--help")
    assert (ran.code, ran.err) == (0, "")
    for word in GROUPS[name]:
        assert re.search(rf"^  {word}\s+\S", ran.out, re.M), word
    assert max(map(len, ran.out.splitlines())) <= 80
    assert bnbenv("help", name).out == ran.out
    assert (bnbenv(name).code, bnbenv(name).out) == (2, ran.out)
    near = bnbenv(name, next(iter(GROUPS[name])) + "w")
    assert near.code == 2 and f"Did you mean: bnbenv {name} {next(iter(GROUPS[name]))}" in near.err


def test_width_does_not_hang_on_the_terminal(bnbenv: Any) -> None:
    assert bnbenv("sync", "--help", COLUMNS="200").out == bnbenv("sync", "--help", COLUMNS="40").out


def test_help_for_a_command_in_three_ways(bnbenv: Any) -> None:
    assert bnbenv("help", "sync").out == bnbenv("sync", "-h").out == bnbenv("sync", "--help").out


def test_the_version(bnbenv: Any) -> None:
    from bnbenv import __version__

    for option in ("--version", "-V"):
        ran = bnbenv(option)
        assert (ran.code, ran.out, ran.err) == (0, f"bnbenv {__version__}\n", "")
