"""The next step that a command names is one that helps."""

from __future__ import annotations

from typing import Any

import pytest

from bnbenv.cli.several import about, meaning
from bnbenv.errors import Failed


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_is_where_the_link_belongs_is_moved_away_first(empty: Any, kind: str) -> None:
    (empty.root / "bnbenv.toml").write_text("[envs.bnb]\n")
    place = empty.root / ".venv-bnb"
    place.mkdir() if kind == "folder" else place.write_text("mine\n")
    for command in ("check", "status", "path", "sync"):
        ended = empty(command)
        text = (ended.stdout + ended.stderr).strip().splitlines()
        step = next(line for line in reversed(text) if line.startswith("next: "))
        assert "mv .venv-bnb .venv-bnb.old" in step, command
        assert "then run: bnbenv sync" in step, command
    place.rename(empty.root / ".venv-bnb.old")
    assert "mv " not in empty("check").stdout


@pytest.mark.parametrize(
    ("step", "named"),
    [
        (
            "Give it up: bnbenv sync --torch '*' (gives torch)",
            "Give it up: bnbenv sync --env b --torch '*' (gives torch)",
        ),
        ("Choose again with: bnbenv lock", "Choose again with: bnbenv lock --env b"),
        ("bnbenv sync --env b", "bnbenv sync --env b"),
        ("See: bnbenv facts", "See: bnbenv facts"),
        ("", ""),
    ],
)
def test_a_command_names_the_environment_where_there_are_several(step: str, named: str) -> None:
    assert meaning("b", step) == named
    for several in (False, True):
        with pytest.raises(Failed) as raised, about("b", several):
            raise Failed("code", "it failed", step)
        said = (raised.value.message, raised.value.next_step)
        assert said == (("b: it failed", named) if several else ("it failed", step))


@pytest.mark.real
def test_what_is_done_for_one_environment_is_told_though_another_is_impossible(empty: Any) -> None:
    wishes, silent = empty.root / "bnbenv.toml", '[sources]\nindexes = ["https://index.invalid/simple"]\n'
    text = '[envs.bnb]\n[envs.other]\ntorch = "99"\n'
    wishes.write_text(text + silent + 'find-links = ["/nonexist"]\n')
    ended = empty("plan")
    assert ended.code == 4
    lines = ended.stdout.splitlines()
    assert lines[:2] == ["changes are pending: bnb", "sync would fail for: other"]
    assert "note: https://index.invalid/simple: the host name is unknown" in lines
    assert "note: file:///nonexist: no such folder" in lines
    assert "bnbenv sync --env other --torch '*'" in lines[-1]

    wishes.write_text(text)
    ended = empty("sync", "--no-verify")
    assert ended.code == 4
    assert f"bnb: switched to generation 1, use it: {empty.root}/.venv-bnb/bin/python" in ended.stderr
    assert "error: other: no known-good combination" in ended.stderr
    assert "bnbenv sync --env other --torch '*'" in ended.stderr.splitlines()[-1]
