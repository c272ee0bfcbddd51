"""Ten kills at random times of a running sync, half of them around its switch, by scripts/soak.py, which does any
number of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are found through /proc"),
]

SOAK = Path(__file__).parents[2] / "scripts" / "soak.py"


def test_ten_kills_at_random_times_break_nothing(project: Any, tmp_path: Path) -> None:
    words = ["--kills", "10", "--seed", "1", "--verify", "0.15", "--project", str(project.root), "--json", "-v"]
    environ = {**project.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, SOAK, *words], env=environ, capture_output=True, text=True, timeout=580, check=False
    )
    assert done.stdout, done.stderr
    found = json.loads(done.stdout)
    assert done.returncode == 0, f"{found['found']}\n{done.stderr}"
    assert (found["kills"], found["broken"]) == (10, 0)
    assert found["phases"]["around the switch"] >= 5
    assert found["quantized"] >= 4
    assert project.quantizes()
    assert project.leftovers() == []
