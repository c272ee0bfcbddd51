"""What uv says while it works is told in bytes and rates, and stays out of its errors."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bnbenv.envs.uv import Uv
from bnbenv.envs.uvprogress import Follower, describe, read_stage, without_progress
from bnbenv.errors import BnbenvError
from bnbenv.process import Command, SystemRunner
from bnbenv.progress import Quiet

# Printed by uv 0.13.8 into a pipe.
DOWNLOADS = """\
Using Python 3.11.7 environment at: env
Resolved 5 packages in 422ms
Downloading numpy (16.1MiB)
Downloading pandas (11.8MiB)
Downloading torch (1.2GiB)
 Downloaded pandas
"""
REST = """\
 Downloaded numpy
 Downloaded torch
Prepared 5 packages in 427ms
Installed 5 packages in 28ms
 + numpy==2.4.6
 + torch==2.13.0
"""


def test_what_is_on_its_way() -> None:
    stage = read_stage(DOWNLOADS)
    assert describe(stage, "-") == "downloading torch (1229 MiB) and 1 more, 1245 MiB to come; 1 are here"
    assert describe(read_stage(DOWNLOADS + REST), "-") == "linking the files into the environment"
    assert describe(read_stage("Resolved 1 package in 3ms\n"), "waiting") == "waiting"
    assert describe(read_stage("   Building gptqmodel==7.6.0\n"), "-") == "building gptqmodel==7.6.0"
    assert describe(read_stage("   Building a==1\n      Built a==1\n"), "waiting") == "waiting"


def test_bytes_and_rates() -> None:
    told: list[str] = []
    clock, sizes = iter([0.0, 0.5, 2.0, 8.0]), iter([None, 0, 30 << 20, 90 << 20])
    follower = Follower(told.append, "waiting", lambda pid: next(sizes), lambda: next(clock))
    for _ in range(4):
        follower(1, "", "")
    assert told == [
        "waiting",
        "waiting",
        "waiting: 30 MiB unpacked, 20 MiB/s",
        # The rate is that of the last seconds, and there was nothing in them to compare with.
        "waiting: 90 MiB unpacked",
    ]


def test_errors_keep_their_words_and_lose_the_rest() -> None:
    error = "error: Failed to fetch: `https://host/x`\n  cause: Downloading is not allowed\nwarning: slow\n"
    assert without_progress(DOWNLOADS + error + REST) == error


class Told(Quiet):
    """Keeps what is at hand."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = lines

    def at(self, text: str) -> None:
        self.lines.append(text)


def test_a_real_download_is_followed(index: Any, tmp_path: Path, wheel_maker: Callable[..., Path]) -> None:
    """Half a MB a second: long enough to be seen, with its size."""
    import zipfile

    wheel = index.add("largepackage", "1.0")
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("largepackage_data.bin", os.urandom(2 << 20))
    told: list[str] = []
    foreign: dict[str, str | None] = {name: None for name in os.environ if name.startswith(("UV_", "PIP_"))}
    changes = {**foreign, "UV_CACHE_DIR": str(tmp_path / "cache"), "UV_DEFAULT_INDEX": index.url("throttled")}
    uv = Uv.find(SystemRunner(), changes, tmp_path, ("--no-config",), Told(told))
    text = uv.compile("largepackage\n", _python())
    assert "largepackage" in text
    uv.venv(tmp_path / "env", _python())
    lock = tmp_path / "pylock.toml"
    lock.write_text(text)
    with pytest.raises(
        BnbenvError
    ) as caught:  # the data stands in no RECORD, which uv does not mind; its hash is right
        uv.install(lock, tmp_path / "nowhere" / "python")
    assert "Resolved" not in caught.value.message + caught.value.detail
    uv.install(lock, tmp_path / "env" / "bin" / "python")
    assert any("downloading largepackage (2 MiB)" in line for line in told), told
    assert told[-1] == ""


def _python() -> str:
    import sys

    return sys.executable


def test_a_command_that_is_watched_ends_as_any_other(tmp_path: Path) -> None:
    seen: list[tuple[str, str]] = []

    def watch(pid: int, out: str, err: str) -> None:
        seen.append((out, err))

    script = "read line; echo first $line; echo second >&2; sleep 0.6; echo third"
    done = SystemRunner().run(Command(("/bin/sh", "-c", script), 20.0, stdin="word\n", watch=watch))
    assert (done.returncode, done.stdout, done.stderr) == (0, "first word\nthird\n", "second\n")
    assert seen[-1] == ("first word\n", "second\n")
    late = SystemRunner().run(Command(("/bin/sh", "-c", "echo begun; sleep 30"), 0.7, watch=watch))
    assert late.timed_out
    assert late.stdout == "begun\n"
