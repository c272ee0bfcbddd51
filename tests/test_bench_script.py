"""scripts/bench.py runs from end to end; whether its limits hold is for a quiet machine to say."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPO = Path(__file__).parent.parent

pytestmark = pytest.mark.real


def test_one_round_measures_each_thing_and_writes_the_figures(project: Any, tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    words = [
        str(REPO / "scripts" / "bench.py"),
        "--rounds",
        "1",
        "--hosts",
        "200",
        "--log-megabytes",
        "2",
        "--keep",
        str(project.root.parent),
    ]
    done = subprocess.run(
        [sys.executable, *words, "--json", str(figures)],
        env=project.changed(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(figures.read_text())
    rows = {row["what"]: row for row in document["rows"]}
    assert document["schema"] == "bnbenv.bench/1"
    assert all(what in done.stdout for what in rows)
    assert {row["what"] for row in rows.values() if row["limit"] is not None} >= {
        "check, nothing changed",
        "check, peak memory",
        "fit, a config.json of 70 billion parameters",
        "doctor, nothing found",
        "doctor --log, 2 MB",
        "doctor --log, memory, 2 MB / 1 MB",
        "guard, at the start of Python",
        "sync, nothing to do",
        "python -m bitsandbytes / check",
        "solve, the command, one H200",
        "solve, 16 GPUs mixed, a solution",
        "200 different hosts in one process",
        "a wheel, bytes fetched / of its members",
        "a wheel, reading its libraries",
        "sync --fresh --no-verify, warm cache",
        "a second environment, of the first's disk space",
    }
    # What does not hang on how busy the machine is.
    assert rows["check, peak memory"]["met"]
    assert 5 < rows["a bare interpreter"]["megabytes"] < rows["check, peak memory"]["value"]
    assert rows["a bare interpreter"]["cpu_ms"] < rows["check, nothing changed"]["cpu_ms"]
    assert rows["a second environment, of the first's disk space"]["met"]
    assert rows["a wheel, bytes fetched / of its members"]["met"]
    assert rows["a wheel, bytes fetched / of its members"]["value"] >= 1
    remark = rows["200 different hosts in one process"]["remark"]
    found = re.match(r"(\d+) solved, (\d+) refused", remark)
    assert found is not None and min(map(int, found.groups())) > 50, remark
    assert not (project.root / "plain").exists()
    assert not list(project.root.rglob("bnbenv-guard.*"))
