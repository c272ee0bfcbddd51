"""The hosts that the fleet is tried on are hosts of their own, and nothing of them stays."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("fleet-real")]
SCRIPT = Path(__file__).parent.parent.parent.parent / "scripts" / "fleet_hosts.py"


def test_each_host_answers_for_itself_over_ssh(desk: Any) -> None:
    words = (
        "hostname; echo $HOME; ls -A $HOME; echo mine >/etc/a-file; cat /proc/sys/kernel/ns_last_pid; ls /etc/a-file"
    )
    ended = desk.ansible("ansible", "all", "--forks", "8", "-m", "ansible.builtin.raw", "-a", words)
    assert ended.code == 4, ended.err  # Ansible's own, for hosts that cannot be reached
    assert "dead | UNREACHABLE!" in ended.out + ended.err
    for name in set(desk.hosts) - {"dead"}:
        assert f"{name} | CHANGED" in ended.out, ended.out + ended.err
        said = ended.out.split(f"{name} | CHANGED")[1].splitlines()[1:]
        assert said[:2] == [name, "/home/desk"] and "facts.json" in said
    assert not Path("/etc/a-file").exists(), "what a host writes is its own"


def test_after_a_kill_nothing_of_them_is_left(fleet_hosts: ModuleType, tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--hosts", "1", "--folder", str(tmp_path / "hosts")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines = [process.stdout.readline()]
    while lines[-1] not in ("}\n", ""):
        lines.append(process.stdout.readline())
    (host,) = json.loads("".join(lines))["hosts"]
    assert host == "host1"

    def theirs() -> list[str]:
        found = []
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = entry.read_bytes().decode(errors="replace")
            except OSError:
                continue
            if str(tmp_path / "hosts") in words:
                found.append(words)
        return found

    assert len(theirs()) > 1
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    until = time.monotonic() + 20
    while theirs():
        assert time.monotonic() < until, theirs()
        time.sleep(0.05)
    fleet_hosts.sweep()
    assert not Path("/sys/class/net", f"bf{process.pid}a").exists()
