"""Several syncs at once: on one project, and on two projects with one cache of uv."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.real


def ended(processes: list[Any]) -> list[tuple[int, Any, str]]:
    """How they ended: exit code, document, standard error."""
    found = []
    for process in processes:
        out, err = process.communicate(timeout=300)
        assert "Traceback" not in err, err
        found.append((process.returncode, json.loads(out), err))
    return found


def another_wish(project: Any, wheel_maker: Any) -> None:
    wheel_maker(project.root / "wheels", "tinypackage", "1.0")
    text = '[envs.bnb]\nrequirements = ["tinypackage"]\n[sources]\nfind-links = ["wheels"]\n'
    (project.root / "bnbenv.toml").write_text(text)


def test_three_that_wait_make_one_generation(project: Any, wheel_maker: Any) -> None:
    another_wish(project, wheel_maker)
    found = ended([project.start("sync", "--no-verify", "--json", "--wait", "120") for _ in range(3)])
    assert [code for code, _, _ in found] == [0, 0, 0], [err for _, _, err in found]
    assert {document["generations"][0]["generation"] for _, document, _ in found} == {2}
    made = [action["action"] for _, document, _ in found for action in document["actions"]]
    assert made.count("stage") == 1
    assert [row["generation"] for row in project.done("list")["generations"]] == [1, 2]
    assert project.leftovers() == []
    assert project.python("import tinypackage; print(tinypackage.VERSION)") == "1.0"
    assert project.quantizes()


def test_three_that_do_not_wait_make_one_generation(project: Any, wheel_maker: Any) -> None:
    another_wish(project, wheel_maker)
    found = ended([project.start("sync", "--no-verify", "--json", "--wait", "0") for _ in range(3)])
    codes = sorted(code for code, _, _ in found)
    assert codes[0] == 0 and set(codes) <= {0, 8}
    assert all(document["error"]["code"] == "busy" for code, document, _ in found if code == 8)
    assert [row["generation"] for row in project.done("list")["generations"]] == [1, 2]
    assert project.leftovers() == []
    assert set(project.drift()) == {"unverified"}


def test_two_projects_fill_one_cache_at_once(project: Any, locked: Any, tmp_path: Path) -> None:
    """Both find an empty cache and load and unpack the same wheels into it."""
    cache = tmp_path / "cache"
    changes = {"UV_CACHE_DIR": str(cache)}
    words = ("sync", "--fresh", "--no-verify", "--json")
    try:
        found = ended([one.start(*words, changes=changes) for one in (project, locked)])
        assert [code for code, _, _ in found] == [0, 0], [err for _, _, err in found]
        assert project.generation() == 2
        assert locked.generation() == 1
        for one in (project, locked):
            assert set(one.drift()) == {"unverified"}
            assert one.leftovers() == []
        assert locked.quantizes()
    finally:
        shutil.rmtree(cache, ignore_errors=True)
