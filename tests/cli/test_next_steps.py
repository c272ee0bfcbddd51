"""The next step that a command names is one that helps."""

from __future__ import annotations

from typing import Any

import pytest


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
