"""What ``status`` tells of a disk, and of another bnbenv on a file system without locks."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest

from bnbenv.envs.hold import MARKER
from bnbenv.envs.project import Project
from bnbenv.envs.status import Disk, at_work, disk


def blocks(path: Path) -> int:
    found = path.stat()
    return found.st_blocks * 512 if hasattr(found, "st_blocks") else found.st_size


def test_a_file_counts_once_and_is_freed_with_its_last_link(tmp_path: Path) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    first.mkdir()
    second.mkdir()
    twice, cached = first / "twice", first / "cached"
    twice.write_bytes(bytes(100_000))
    cached.write_bytes(bytes(300_000))
    os.link(twice, second / "twice")
    os.link(cached, second / "cached")
    os.link(cached, tmp_path / "in-the-cache")
    assert disk([first, second]) == Disk(blocks(twice) + blocks(cached), blocks(twice))
    assert disk([first]) == Disk(blocks(twice) + blocks(cached), 0)


@pytest.mark.skipif(os.name == "nt", reason="a process is asked for by a signal")
def test_whether_a_process_is_at_work_can_be_seen_on_its_own_machine_only(tmp_path: Path) -> None:
    project = Project(tmp_path, tmp_path / "bnbenv.toml")
    project.home.mkdir()
    assert at_work(project) is False
    nobody = 2**22 + 1  # more than Linux gives out
    for number, machine, held in [
        (os.getpid(), platform.node(), True),
        (nobody, platform.node(), False),
        (nobody, "another-machine", True),
    ]:
        (project.home / MARKER).write_text(f"{number}\n{machine}\n")
        assert at_work(project) is held
