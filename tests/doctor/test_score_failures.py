"""The script that scores a file of labelled reports."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts" / "score_failures.py"


def score(path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), str(path)], capture_output=True, text=True, check=False)


def test_right_wrong_and_unknown_are_counted_and_misses_shown(tmp_path: Path) -> None:
    reports = [
        {
            "id": "a",
            "error_text": "RuntimeError: No CUDA GPUs are available",
            "cause": "no_gpu_visible",
            "alt_causes": [],
        },
        {"id": "b", "error_text": "CUDA out of memory", "cause": "oom_in_conversion", "alt_causes": ["out_of_memory"]},
        {"id": "c", "error_text": "all is well", "cause": "other", "alt_causes": []},
        {"id": "d", "error_text": "KeyError: 'x'", "cause": "rocm", "alt_causes": []},
        {"id": "e", "error_text": "HIP error: invalid device function", "cause": "driver_too_old", "alt_causes": None},
        {"id": "f", "error_text": "all is well", "cause": "none", "alt_causes": []},
        {"id": "g", "error_text": "all is well", "cause": "rocm", "alt_causes": ["other"]},
        {"id": "h", "error_text": "HIP error: invalid device function", "cause": "none", "alt_causes": []},
        {"id": "i", "error_text": "KeyError: 'x'", "cause": "none", "alt_causes": ["unknown"]},
    ]
    path = tmp_path / "reports.jsonl"
    path.write_text("\n".join(map(json.dumps, reports)) + "\n")
    done = score(path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1].startswith("9 reports: right 5 (55.6 %), wrong 3 (33.3 %), unknown 1 (11.1 %)")
    assert "unknown  d: unknown (unknown), expected rocm" in lines
    assert "wrong    e: rocm (rocm-runtime), expected driver_too_old" in lines
    assert "wrong    g: none (nothing), expected rocm" in lines
    assert "wrong    h: rocm (rocm-runtime), expected none" in lines


def test_a_file_that_is_not_there_or_no_such_file_is_refused(tmp_path: Path) -> None:
    missing = score(tmp_path / "none.jsonl")
    assert missing.returncode == 1
    assert missing.stderr.startswith("error: ") and "next: " in missing.stderr
    (tmp_path / "bad.jsonl").write_text('{"x": 1}\n')
    assert "line 1" in score(tmp_path / "bad.jsonl").stderr
