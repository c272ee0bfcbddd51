"""Two bnbenv at once on one project: the second waits briefly, and says that it could not."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.real

DRIVER = str(Path(__file__).with_name("at_effect.py"))


@pytest.fixture
def first(project: Any) -> Iterator[Any]:
    """A sync that was stopped in the middle of its work."""
    # Its tenth effect comes after it has taken the project and before it has switched.
    words = (str(project.root), "stop", "10", "sync", "--fresh", "--no-verify")
    process = project.start(*words, command=(DRIVER,))
    ended = os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    assert ended is not None
    assert ended.si_code == os.CLD_STOPPED, process.communicate()
    yield process
    process.send_signal(signal.SIGCONT)
    process.communicate(timeout=60)


def test_the_second_ends_with_exit_8(project: Any, first: Any) -> None:
    begun = time.monotonic()
    for words in (("sync", "--fresh", "--wait", "0.5"), ("rollback", "1"), ("gc",)):
        ended = project(*words, "--json")
        assert ended.code == 8, ended.stderr
        assert ended.document["error"]["code"] == "busy"
        assert str(project.root) in ended.document["error"]["message"]
    assert time.monotonic() - begun < 30
    # What only looks is answered all the same, and the unfinished generation is left alone.
    assert project.drift() == {}
    assert [row["finished"] for row in project.done("list")["generations"]][:1] == [True]
    assert project.done("path")["generation"] == 1
    assert first.poll() is None


def test_the_second_waits_as_long_as_it_is_told(project: Any, first: Any) -> None:
    second = project.start("sync", "--fresh", "--no-verify", "--json", "--wait", "60")
    time.sleep(1)
    assert second.poll() is None
    first.send_signal(signal.SIGCONT)
    assert first.wait(60) == 0
    out, err = second.communicate(timeout=60)
    assert second.returncode == 0, out + err
    assert project.generation() == 3
    assert project.leftovers() == []


def test_the_hold_of_a_killed_bnbenv_is_free(project: Any, first: Any) -> None:
    first.kill()
    first.wait(10)
    done = project.done("sync", "--fresh", "--no-verify", "--wait", "0")
    assert done["generations"][0]["generation"] == 2
    assert project.leftovers() == []


def test_two_projects_do_not_wait_for_each_other(project: Any, first: Any, locked: Any) -> None:
    assert locked.done("sync", "--no-verify", "--wait", "0")["generations"][0]["generation"] == 1
    assert Path(project.root) != Path(locked.root)
    assert first.poll() is None


def test_an_edit_while_sync_is_at_work_is_not_written_over(project: Any) -> None:
    words = ("sync", "--fresh", "--no-verify", "--bitsandbytes", ">=0.45", "--json")
    process = project.start(str(project.root), "stop", "10", *words, command=(DRIVER,))
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
    edited = project.replace("bnbenv.toml", lambda text: text + b"# mine\n").read_bytes()
    process.send_signal(signal.SIGCONT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1, err
    assert '"edited-meanwhile"' in out
    assert (project.root / "bnbenv.toml").read_bytes() == edited
    assert project.generation() == 1
    project.done("sync", "--no-verify", "--bitsandbytes", ">=0.45")
    text = (project.root / "bnbenv.toml").read_text()
    assert "# mine\n" in text
    assert 'bitsandbytes = ">=0.45"' in text
