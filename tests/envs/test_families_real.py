"""Three families in one project, with the real packages: each command on it, and what it takes on the disk."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("families")]  # which one worker has made

IMPORTS = {"gptq": "gptqmodel", "awq": "awq", "bnb": "bitsandbytes"}


def disk(*folders: Path) -> int:
    """Bytes, each file once however many links it has."""
    sizes = {}
    for folder in folders:
        for where, _, files in os.walk(folder):
            for name in files:
                found = Path(where, name).lstat()
                sizes[found.st_ino] = found.st_blocks * 512
    return sum(sizes.values())


def test_each_family_is_made_apart_from_the_others(families: Any) -> None:
    for family, package in {"gptq": "gptqmodel", "awq": "autoawq"}.items():
        document = families.first[family].document
        row = document["generation"]
        assert (document["added"], document["env"], row["generation"]) == (True, family, 1)
        assert row["choice"]["bitsandbytes"] is None
        assert row["choice"]["packages"][0]["name"] == package
    (device,) = families.first["gptq"].document["generation"]["verification"]["devices"]
    assert "gptq-quantize" in [step["name"] for step in device["steps"] if step["ok"]]


def test_three_families_are_known_to_every_command(families_project: Any) -> None:
    project = families_project
    assert set(project.drift()) == {"unverified"}  # awq
    for env in ("bnb", "gptq"):
        assert project.done("sync", "--env", env)["actions"] == []
    plan = project("plan", "--json").document
    assert [(action["env"], action["action"]) for action in plan["actions"]] == [("awq", "verify")]
    held = {row["env"]: [*row["packages"], row["bitsandbytes"]] for row in project.done("list")["generations"]}
    assert held["gptq"] == ["gptqmodel", None] and held["awq"] == ["autoawq", None] and held["bnb"][-1]
    status = project("status", "--why").stdout
    assert "holds gptqmodel" in status and "holds autoawq" in status
    assert project("add", "awq").stdout.startswith("there already, nothing to do: awq")
    find = "import importlib.util as u, sys; print([n for n in sys.argv[1:] if u.find_spec(n)])"
    for env, module in IMPORTS.items():
        ran = project("run", "--env", env, "--", "python", "-c", find, *IMPORTS.values())
        assert ran.stdout.strip() == str([module]), ran


def test_they_take_little_more_of_the_disk_than_the_largest(families_project: Any) -> None:
    """Of the two that were made together: since the first one another test may have had uv load torch anew."""
    generations = families_project.root / ".bnbenv" / "generations"
    each = {env: disk(generations / env) for env in ("gptq", "awq")}
    assert disk(*(generations / env for env in each)) <= 1.3 * max(each.values()), each


def test_what_is_changed_behind_a_lock_of_a_family_is_named_and_put_right(families_copy: Any) -> None:
    project = families_copy
    project.done("guard", "on", "--env", "awq")
    project.replace(".venv-awq/lib/python*/site-packages/awq/__init__.py", lambda text: b"raise SystemExit\n")
    assert project.drift()["files-changed"] == "changed behind bnbenv's back: awq/__init__.py"
    said = project("run", "--env", "awq", "--", "python", "-c", "import awq").stderr
    assert "environment awq was changed behind pylock.awq.toml: awq/__init__.py had" in said, said
    (done,) = (row for row in project.done("sync", "--no-verify")["generations"] if row["changed"])
    assert (done["env"], done["generation"]) == ("awq", 2)
    assert set(project.drift()) == {"unverified"}
