"""Kills at random times of a running sync, half of them around its switch, by scripts/soak.py, which does any number
of them. BNBENV_TEST_KILLS says how many are tried here; BNBENV_TEST_SEED other times."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are found through /proc"),
]

KILLS = int(os.environ.get("BNBENV_TEST_KILLS", "4"))
SEED = os.environ.get("BNBENV_TEST_SEED", "1")
SOAK = Path(__file__).parents[2] / "scripts" / "soak.py"


@pytest.mark.timeout(60 * KILLS + 360)
def test_kills_at_random_times_break_nothing(project: Any, tmp_path: Path) -> None:
    words = ["--kills", str(KILLS), "--seed", SEED, "--verify", "0.15", "--project", str(project.root), "--json", "-v"]
    environ = {**project.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, SOAK, *words],
        env=environ,
        capture_output=True,
        text=True,
        timeout=60 * KILLS + 340,
        check=False,
    )
    assert done.stdout, done.stderr
    found = json.loads(done.stdout)
    assert done.returncode == 0, f"{found['found']}\n{done.stderr}"
    assert (found["kills"], found["broken"]) == (KILLS, 0)
    assert found["phases"]["around the switch"] >= KILLS // 2
    assert found["quantized"] >= 1 + KILLS // 3
    assert project.quantizes()
    assert project.leftovers() == []
