"""A disk that is full when the kernels run: they run all the same, and what cannot be written after them is said."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.real

DRIVER = str(Path(__file__).with_name("at_effect.py"))


@pytest.fixture
def small(synced: Any, project: Any, tmp_path: Path) -> Iterator[Any]:
    """A project on a file system of 48 MB, its packages symbolic links into uv's cache."""
    place = tmp_path / "small"
    place.mkdir()
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("a small file system cannot be mounted: that takes root")
    words = ["mount", "-t", "tmpfs", "-o", "size=48m", "bnbenv-test", str(place)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    try:
        for name in ("bnbenv.toml", "pylock.bnb.toml"):
            shutil.copy(synced.root / name, place)
        # Bytecode has no room there: it lies elsewhere.
        changes = {"UV_LINK_MODE": "symlink", "PYTHONPYCACHEPREFIX": str(tmp_path / "bytecode")}
        yield type(project)(place, {**project.environ, **changes})
    finally:
        subprocess.run(["umount", "-l", place], check=False)
        shutil.rmtree(tmp_path / "bytecode", ignore_errors=True)


def at_effect(project: Any, action: str, number: int, *words: str) -> tuple[int, str, str]:
    process = project.start(str(project.root), action, str(number), *words, command=(DRIVER,))
    out, err = process.communicate(timeout=300)
    assert "Traceback" not in err, err
    return process.returncode, out, err


def test_a_disk_that_is_full_while_kernels_run(small: Any) -> None:
    small.done("sync", "--no-verify")
    _, _, err = at_effect(small, "count", 0, "sync", "--fresh", "--no-verify")
    lines = [line for line in err.splitlines() if line.startswith(("os.", "open ", "start ", "shutil."))]
    after = next(number for number, line in enumerate(lines, 1) if ".2.json." in line)
    # Where nothing is verified the record is written then; else the kernels are started.
    code, out, err = at_effect(small, "fill", after, "sync", "--fresh", "--json")
    assert code == 1, out + err
    assert json.loads(out)["error"]["code"] == "no-space"
    assert small.generation() == 2
    (small.root / "filler").unlink()
    assert set(small.drift()) == {"unverified"}
    assert small.quantizes()
    small.done("sync")
    assert small.leftovers() == []
    assert small.drift() == {}
