"""bnbenv ended while uv installs or kernels run: no child goes on, what was in use works, the next sync is clean."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are found through /proc"),
]

# What a child of bnbenv is known by.
CHILDREN = {"the installation": (b"pip", b"install"), "the verification": (b"script.py",)}


def state(pid: int) -> str:
    """The state of a process: R, S, T (stopped), Z (ended, not yet reaped), or nothing where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def child_of(parent: int, words: tuple[bytes, ...]) -> int:
    """The child whose command line holds these words, stopped in the middle of its work."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                line = (entry / "cmdline").read_bytes()
                mine = (entry / "stat").read_text().rpartition(")")[2].split()[1] == str(parent)
                if mine and all(word in line for word in words) and b"bnbenv\0sync" not in line:
                    os.kill(int(entry.name), signal.SIGSTOP)
                    return int(entry.name)
            except (OSError, IndexError):
                continue
        assert state(parent) not in ("", "Z"), "bnbenv ended before the child was seen"
    raise AssertionError("no such child was seen")


def has_ended(pid: int) -> bool:
    deadline = time.monotonic() + 10
    while state(pid) not in ("", "Z"):
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            return False
        time.sleep(0.02)
    return True


@pytest.mark.parametrize("during", CHILDREN)
@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=["KILL", "TERM", "INT"])
def test_ended_during(project: Any, during: str, sig: signal.Signals) -> None:
    process = project.start("sync", "--fresh")
    child = child_of(process.pid, CHILDREN[during])
    os.kill(process.pid, sig)
    out, err = process.communicate(timeout=60)
    assert has_ended(child)
    if sig is not signal.SIGKILL:  # a polite kill ends it as Ctrl-C does
        assert process.returncode == 130
        assert "interrupted: what is in use is whole" in err
        assert out == ""
        assert project.leftovers() == []
    else:
        assert process.returncode == -sig
    assert project.drift() == {}
    assert project.generation() == 1
    assert project.quantizes()
    done = project.done("sync")
    assert done["generations"][0]["generation"] == 1
    assert project.leftovers() == []
