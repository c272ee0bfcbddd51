"""From ``init`` to ``gc`` with real packages on the CPU: each document, and what is on the disk after each step."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.real

REASON = {"env", "code", "because"}
ACTION = {"env", "action", "what"}


def test_init_writes_the_defaults_as_comments(synced: Any) -> None:
    assert synced.first["init"].document == {"schema": "bnbenv.init/1", "path": str(synced.root / "bnbenv.toml")}
    text = (synced.root / "bnbenv.toml").read_text()
    assert '# torch = "*"' in text


def test_a_plan_says_what_a_first_sync_would_do_and_touches_nothing(synced: Any) -> None:
    ended = synced.first["plan"]
    assert ended.code == 3
    document = ended.document
    assert document["schema"] == "bnbenv.plan/1"
    assert document["in_sync"] is False
    assert [reason["code"] for reason in document["reasons"]] == ["no-environment"]
    assert [action["action"] for action in document["actions"]] == ["lock", "stage", "verify", "switch"]
    assert all(set(action) == ACTION for action in document["actions"])
    assert all(set(reason) == REASON for reason in document["reasons"])


def test_a_lock_says_what_it_holds(synced: Any) -> None:
    (row,) = synced.first["lock"].document["locks"]
    assert row["changed"] is True
    assert row["path"] == str(synced.root / "pylock.bnb.toml")
    assert row["choice"]["torch"]["version"] == row["packages"]["torch"]
    assert row["choice"]["bitsandbytes"]["library"] == "libbitsandbytes_cpu.so"


def test_the_first_sync_ends_with_a_verified_environment(synced: Any) -> None:
    ended = synced.first["sync"]
    document = ended.document
    assert document["schema"] == "bnbenv.sync/1"
    assert document["in_sync"] is True
    assert [action["action"] for action in document["actions"]] == ["lock", "stage", "verify", "switch"]
    (row,) = document["generations"]
    assert (row["env"], row["generation"], row["changed"], row["backend"]) == ("bnb", 1, True, "cpu")
    assert row["python"] == str(synced.root / ".venv-bnb" / "bin" / "python")
    (device,) = row["verification"]["devices"]
    assert row["verification"]["ok"] is True
    assert device["device"] == "cpu"
    assert {step["name"] for step in device["steps"]} >= {"nf4-64", "gemv-4bit", "adamw8bit", "qlora"}
    assert all(step["ok"] is not False for step in device["steps"])
    # Standard output holds the document alone; what goes on is told on standard error.
    assert "installing" in ended.stderr
    assert "running kernels" in ended.stderr
    # Nothing else lies in the folder.
    assert {path.name for path in synced.root.iterdir()} == {".bnbenv", ".venv-bnb", "bnbenv.toml", "pylock.bnb.toml"}


def test_the_life_of_an_environment(project: Any) -> None:
    root = project.root
    check = project.done("check")
    assert check == {
        "schema": "bnbenv.check/1",
        "in_sync": True,
        "project": str(root),
        "environments": ["bnb"],
        "reasons": [],
        "actions": [],
    }
    plan = project.done("plan")
    assert (plan["schema"], plan["in_sync"], plan["reasons"], plan["actions"]) == ("bnbenv.plan/1", True, [], [])
    before = project.listing()
    nothing = project.done("sync")
    assert (nothing["in_sync"], nothing["reasons"], nothing["actions"]) == (True, [], [])
    (row,) = nothing["generations"]
    assert (row["generation"], row["changed"], row["verification"]) == (1, False, None)
    assert project.listing() == before

    fresh = project.done("sync", "--fresh", "--no-verify")
    assert [action["action"] for action in fresh["actions"]] == ["stage", "switch"]
    assert (fresh["generations"][0]["generation"], fresh["generations"][0]["changed"]) == (2, True)
    assert project.generation() == 2
    assert set(project.drift()) == {"unverified"}

    rows = project.done("list")["generations"]
    assert [(row["generation"], row["in_use"], row["verified"], row["finished"], row["usable"]) for row in rows] == [
        (1, False, True, True, True),
        (2, True, False, True, True),
    ]
    back = project.done("rollback")
    assert (back["schema"], back["from"], back["generation"]) == ("bnbenv.rollback/1", 2, 1)
    assert project.generation() == 1
    assert project.drift() == {}
    assert project.quantizes()

    assert project.done("gc", "--keep", "0") == {
        "schema": "bnbenv.gc/1",
        "environments": [{"env": "bnb", "removed": [2], "kept": [1]}],
        "builds": {"deleted": [], "kept": []},
    }
    path = project.done("path")
    assert path["path"] == str(root / ".venv-bnb")
    assert path["generation"] == 1
    plain = project("path", "--python")
    assert plain.stdout.strip() == str(root / ".venv-bnb" / "bin" / "python")
    assert project.leftovers() == []


def test_what_people_see(project: Any) -> None:
    assert project("check").stdout == "in sync: bnb\n"
    assert project("sync").stdout == "in sync, nothing to do: bnb (generation 1)\n"
    assert project("plan").stdout == "in sync, nothing to do: bnb\n"
    fresh = project("sync", "--fresh", "--no-verify")
    assert fresh.stdout.startswith("bnb: switched to generation 2: bitsandbytes ")
    assert "installing" not in fresh.stdout
    shown = project("check")
    assert shown.code == 3
    assert "made without running its kernels" in shown.stdout
    assert shown.stderr == ""
    assert "bnb 2, in use: " in project("list").stdout


def test_sync_verifies_what_was_made_without(project: Any) -> None:
    project.done("sync", "--fresh", "--no-verify")
    project.lend_bytecode()
    done = project.done("sync")
    assert [action["action"] for action in done["actions"]] == ["verify"]
    (row,) = done["generations"]
    assert (row["generation"], row["changed"], row["verification"]["ok"]) == (2, False, True)
    assert project.drift() == {}


def test_a_moved_project_stays_in_sync(project: Any, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    project.root.rename(moved)
    there = type(project)(moved, project.environ)
    assert there.drift() == {}
    assert there.quantizes()
    shutil.rmtree(moved)


def test_a_second_project_from_the_lock_alone(locked: Any) -> None:
    before = (locked.root / "pylock.bnb.toml").read_bytes()
    done = locked.done("sync", "--locked", "--no-verify")
    assert [action["action"] for action in done["actions"]] == ["stage", "switch"]
    assert (locked.root / "pylock.bnb.toml").read_bytes() == before
    assert locked.quantizes()


def test_without_a_project_the_environment_is_the_users_own(empty: Any, synced: Any, tmp_path: Path) -> None:
    own = str(tmp_path / "own")
    assert set(empty.drift(BNBENV_HOME=own)) == {"no-environment"}
    assert not os.path.lexists(own)
    place = Path(own) / "default"
    place.mkdir(parents=True)
    shutil.copy(synced.root / "pylock.bnb.toml", place)
    done = empty.done("sync", "--no-verify", BNBENV_HOME=own)
    assert done["project"] == str(place)
    assert done["generations"][0]["path"] == str(place / ".venv-bnb")
    assert any("no bnbenv.toml here or above" in note for note in done["notes"])
    assert list(empty.root.iterdir()) == []
    shutil.rmtree(own)


def test_a_folder_below_the_project_is_the_project(project: Any) -> None:
    below = project.root / "src" / "deep"
    below.mkdir(parents=True)
    there = type(project)(below, project.environ)
    assert there.done("check")["project"] == str(project.root)
    elsewhere = project("check", "--json", "--project", str(below))
    assert elsewhere.code == 3
    assert json.loads(elsewhere.stdout)["reasons"][0]["code"] == "no-environment"


def test_wishes_given_as_options_are_written_down(project: Any) -> None:
    project.replace("bnbenv.toml", lambda text: b"# mine\n" + text)
    done = project.done("sync", "--no-verify", "--backend", "cpu", "--bitsandbytes", ">=0.46")
    text = (project.root / "bnbenv.toml").read_text()
    assert text.startswith("# mine\n")
    assert 'bitsandbytes = ">=0.46"' in text
    assert 'backend = "cpu"' in text
    # The same packages: the generation stays, and its record is renewed.
    assert (done["generations"][0]["generation"], done["generations"][0]["changed"]) == (1, False)
    assert set(project.drift()) == {"unverified"}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("sync", "--no-such"), "unrecognized arguments"),
        (("sync", "--env", "../x"), "expected letters"),
        (("sync", "--env", "other"), 'names no environment "other"'),
        (("sync", "--torch", "not a version"), "--torch"),
        (("gc", "--keep", "-1"), "--keep"),
        (("check", "--project", "missing"), "is not a folder"),
        (("chekc",), "Did you mean: bnbenv check"),
    ],
)
def test_wrong_usage_is_one_sentence_and_a_document(empty: Any, words: tuple[str, ...], says: str) -> None:
    ended = empty(*words, "--json")
    assert ended.code == 2
    error = ended.document["error"]
    assert set(error) == {"code", "message", "next_step", "detail"}
    assert says in error["message"] + error["next_step"]
    assert error["message"] in ended.stderr
    assert list(empty.root.iterdir()) == []
