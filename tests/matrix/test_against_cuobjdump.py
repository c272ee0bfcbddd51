"""A sample of the matrix's rows against two versions of NVIDIA's cuobjdump: an old twin without PTX, and a DLL."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "check_against_cuobjdump.py"

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        (sys.platform, platform.machine()) != ("linux", "x86_64"), reason="needs Linux on x86-64, for cuobjdump"
    ),
]


@pytest.mark.parametrize(
    ("version", "library"),
    [("0.42.0", "libbitsandbytes_cuda122_nocublaslt.so"), ("0.49.2", "libbitsandbytes_cuda120.dll")],
)
def test_cuobjdump_lists_what_the_row_says(version: str, library: str) -> None:
    command = [sys.executable, SCRIPT, "--bitsandbytes", f"=={version}", "--library", library]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    if done.returncode == 7:
        pytest.skip(f"needs a package index: {done.stderr.strip()[-200:]}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 wheels, 1 CUDA libraries right, 0 wrong" in done.stdout
    assert "cuobjdump 12.8" in done.stdout
