"""A second environment with the same packages costs next to nothing: packages are hard links into uv's cache."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from uv import find_uv_bin

pytestmark = pytest.mark.real


def used(*folders: Path) -> int:
    """Bytes on the disk below the folders, each file counted once however many links it has, bytecode left out."""
    seen: set[tuple[int, int]] = set()
    total = 0
    for top in folders:
        for folder, names, files in os.walk(top):
            names[:] = [name for name in names if name != "__pycache__"]
            for name in (".", *files):
                stat = Path(folder, name).lstat()
                if (stat.st_dev, stat.st_ino) not in seen:
                    seen.add((stat.st_dev, stat.st_ino))
                    total += stat.st_blocks * 512
    return total


def test_a_second_environment_costs_less_than_five_percent_more(project: Any) -> None:
    asked = subprocess.run(
        [find_uv_bin(), "cache", "dir"], env=project.changed(), capture_output=True, text=True, check=True
    )
    cache = Path(asked.stdout.strip())
    if cache.stat().st_dev != project.root.stat().st_dev:
        pytest.skip(f"uv's cache ({cache}) lies on another file system than the test's folder: no hard links")
    project.replace("bnbenv.toml", lambda text: text.replace(b"[policy]", b"[envs.second]\n[policy]"))
    # Both are made now: another program may renew what is in the cache between two runs.
    project.done("sync", "--fresh", "--no-verify")
    first, second = (project.root / ".bnbenv" / "generations" / name for name in ("bnb/2", "second/1"))
    alone, both = used(first), used(first, second)
    assert alone > 300e6
    assert both - alone < 0.05 * alone
    # They are two: neither is seen in the other, and both run.
    assert project.python("import sys; print(sys.prefix)") != project.python(
        "import sys; print(sys.prefix)", env="second"
    )
    assert project.python("import bitsandbytes, torch; print('imported')", env="second") == "imported"


def test_each_environment_is_synced_and_checked_by_its_name(project: Any) -> None:
    project.replace("bnbenv.toml", lambda text: text.replace(b"[policy]", b"[envs.second]\n[policy]"))
    done = project.done("sync", "--no-verify")
    assert [(row["env"], row["generation"], row["changed"]) for row in done["generations"]] == [
        ("bnb", 1, False),
        ("second", 1, True),
    ]
    assert {path.name for path in project.root.glob(".venv-*")} == {".venv-bnb", ".venv-second"}
    assert {path.name for path in project.root.glob("pylock.*")} == {"pylock.bnb.toml", "pylock.second.toml"}
    (project.root / ".venv-second").unlink()
    assert project("check", "--env", "bnb").code == 0
    reasons = project("check", "--json").document["reasons"]
    assert [(reason["env"], reason["code"]) for reason in reasons] == [("second", "no-environment")]
    # bnbenv.toml names it no more: it is left alone, and no longer spoken of.
    project.replace("bnbenv.toml", lambda text: text.replace(b"[envs.second]\n", b""))
    assert project.drift() == {}
    assert project.done("sync")["environments"] == ["bnb"]
    assert (project.root / ".bnbenv" / "generations" / "second" / "1").is_dir()
