"""What a hook does: it notes a change of the driver, tells of it once, and never fails."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

OLD, NEW = "570.124.06", "580.65.06"


@pytest.fixture
def driven(machine: Any) -> Any:
    """A machine with a driver and the hooks of apt, systemd and profile."""
    machine.driver(OLD, OLD)
    machine("hook", "install", "apt", "systemd", "profile")
    return machine


def noted(machine: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((machine.root / "var/lib/bnbenv/noted.json").read_text())
    return found


def test_unrelated_packages_change_nothing(driven: Any, faults: Any) -> None:
    before = driven.listing()
    document = driven.document("hook", "run", "--event", "apt")
    assert faults(document) == []
    assert (document["state"], document["changes"], document["trouble"]) == ("ok", [], None)
    assert driven.listing() == before


def test_a_new_driver_is_noted_and_told_once_and_nothing_is_touched_before_the_reboot(driven: Any) -> None:
    profile = driven.root / "etc/profile.d/bnbenv.sh"
    assert driven.shell(profile) == "on\n"
    driven.driver(OLD, NEW)
    document = driven.document("hook", "run", "--event", "apt")
    assert document["state"] == "mismatch" and document["changes"] == [f"driver library {OLD} -> {NEW}"]
    # Again, as apt calls dpkg several times: the same event.
    assert driven.document("hook", "run", "--event", "apt")["changes"] == []
    message = driven.document("hook", "status", code=3)["places"][0]["message"]
    assert not message["told"]
    what = f"bnbenv: the NVIDIA driver was changed (from {OLD} to {NEW})"
    assert driven.shell(profile) == f"on\n{what}: GPU programs fail until this machine is restarted\n"
    assert driven.shell(profile) == "on\n"
    # The unit, before the reboot: it neither syncs nor tells a second time.
    waiting = driven.document("hook", "run", "--event", "boot")
    assert [row["state"] for row in waiting["projects"]] == ["waiting"]
    assert sorted(path.name for path in driven.project.iterdir()) == ["bnbenv.toml"]
    assert driven.shell(profile) == "on\n"
    # After it: part of the same change.
    driven.driver(NEW, NEW)
    assert driven.document("hook", "run", "--event", "apt")["changes"] == []
    assert noted(driven)["state"] == "ok" and noted(driven)["number"] == 2


def test_without_systemd_the_shell_says_after_the_reboot_what_to_run(machine: Any) -> None:
    machine.driver(OLD, OLD)
    machine("hook", "install", "apt", "profile")
    machine.driver(OLD, NEW)
    machine("hook", "run", "--event", "apt")
    profile = machine.root / "etc/profile.d/bnbenv.sh"
    assert "until this machine is restarted" in machine.shell(profile)
    message = machine.box() / "message"
    event, _, *texts = message.read_text().splitlines()
    message.write_text("\n".join([event, "another-start", *texts, ""]))
    assert "bring your environments in line with it: bnbenv sync" in machine.shell(profile)
    assert machine.shell(profile) == "on\n"


def test_of_several_shells_at_once_one_tells_and_scripts_hear_nothing(driven: Any) -> None:
    driven.driver(OLD, NEW)
    driven("hook", "run", "--event", "apt")
    profile = driven.root / "etc/profile.d/bnbenv.sh"
    script = subprocess.run(["sh", "-eu", profile], env=driven.environ, capture_output=True, text=True, check=True)
    assert script.stdout + script.stderr == ""
    tell = ["sh", driven.root / "var/lib/bnbenv/tell.sh", "terminal"]
    started = [subprocess.Popen(tell, stderr=subprocess.PIPE, text=True) for _ in range(8)]
    assert sum("bnbenv: " in shell.communicate(timeout=30)[1] for shell in started) == 1


@pytest.mark.parametrize("shell", ["dash", "bash", "zsh", "fish", "busybox"])
def test_every_shell_reads_it(driven: Any, shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not here")
    driven.driver(OLD, NEW)
    driven("hook", "run", "--event", "apt")
    if shell == "fish":
        (driven.root / "etc/fish").mkdir()
        driven("hook", "install", "profile")
        words = ["fish", "--no-config", "-i", "-c", f"source {driven.root}/etc/fish/conf.d/bnbenv.fish; echo on"]
        done = subprocess.run(words, env=driven.environ, capture_output=True, text=True, timeout=30, check=True)
        assert "bnbenv: the NVIDIA driver" in done.stderr and done.stdout.endswith("on\n")
        return
    profile = driven.root / "etc/profile.d/bnbenv.sh"
    words = [shell, *(["sh"] if shell == "busybox" else []), *(["-f"] if shell == "zsh" else [])]
    words += ["--norc"] if shell == "bash" else []
    code = f"set -eu; . {profile}; echo on"
    done = subprocess.run([*words, "-i", "-c", code], env=driven.environ, capture_output=True, text=True, check=True)
    assert "bnbenv: the NVIDIA driver" in done.stderr and done.stdout == "on\n"


def test_a_desktop_is_notified_once_and_the_terminal_if_there_is_none(driven: Any, tmp_path: Path) -> None:
    driven.driver(OLD, NEW)
    driven("hook", "run", "--event", "apt")
    tell = driven.root / "var/lib/bnbenv/tell.sh"
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("busctl", "notify-send"):  # a session without a service for notifications
        (programs / name).write_text("#!/bin/sh\nexit 1\n")
        (programs / name).chmod(0o755)
    environ = {**driven.environ, "PATH": f"{programs}:{os.environ['PATH']}"}

    def told(how: str) -> str:
        done = subprocess.run(["sh", tell, how], env=environ, capture_output=True, text=True, timeout=30, check=True)
        return done.stdout + done.stderr

    assert told("desktop") == "" and not list(driven.box().glob("told-*"))
    (programs / "busctl").write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >{tmp_path}/said\n')
    assert told("desktop") == ""
    words = (tmp_path / "said").read_text().splitlines()
    assert words[:3] == ["--user", "--timeout=5", "--"] and "Notify" in words
    assert words[words.index("susssasa{sv}i") + 1 :][:5] == ["bnbenv", "0", "", "bnbenv", words[-4]]
    assert "GPU programs fail" in words[-4]
    (tmp_path / "said").unlink()
    assert told("desktop") == told("terminal") == "" and not (tmp_path / "said").exists()


def test_whatever_is_broken_it_ends_with_0(driven: Any, tmp_path: Path) -> None:
    run = ("hook", "run", "--event")
    driven.driver(OLD, NEW)
    full = subprocess.run(
        [sys.executable, "-m", "bnbenv", *run, "apt", "--json"],
        env={**driven.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64)),
    )
    assert full.returncode == 0 and noted(driven)["state"] == "ok"
    for name in ("noted.json", "projects.json", "installed.json"):
        (driven.root / "var/lib/bnbenv" / name).write_text('{"schema": "bnbenv.hooks/1", "projects": [7], "kinds": 1')
    driven(*run, "apt")
    shutil.rmtree(driven.root / "var/lib/bnbenv/users")
    driven.driver(NEW, NEW)
    driven(*run, "apt")
    driven(*run, "from-the-future")
    driven(*run, "boot", HOME="/nowhere")
    shutil.rmtree(driven.root / "var/lib/bnbenv")
    driven(*run, "apt")
    assert not (driven.root / "var/lib/bnbenv").exists()


def test_a_project_that_is_gone_is_told_once(driven: Any) -> None:
    driven.driver(NEW, NEW)
    shutil.move(driven.project / "bnbenv.toml", driven.home)
    driven.project.rename(driven.home / "away")
    driven.project.mkdir()
    driven("hook", "install", "systemd", "--project", ".")
    driven.project.rmdir()
    (driven.home / "away").rename(driven.project)
    elsewhere = json.loads((driven.root / "var/lib/bnbenv/projects.json").read_text())
    elsewhere["projects"][0]["path"] = "/nowhere/at/all"
    (driven.root / "var/lib/bnbenv/projects.json").write_text(json.dumps(elsewhere))
    document = driven.document("hook", "run", "--event", "boot")
    assert (document["projects"][0]["state"], document["projects"][0]["said"]) == (
        "failed",
        "/nowhere/at/all is not a folder",
    )
    profile = driven.root / "etc/profile.d/bnbenv.sh"
    assert "/nowhere/at/all is not a folder" in driven.shell(profile)
    driven("hook", "run", "--event", "boot")
    assert driven.shell(profile) == "on\n"
    message = driven.box() / "message"
    event, _, *texts = message.read_text().splitlines()
    message.write_text("\n".join([event, "another-start", *texts, ""]))
    assert driven.shell(profile) == "on\n"


def test_the_script_ends_at_once_and_does_nothing_without_bnbenv(
    driven: Any, wait: Callable[[Callable[[], object]], None]
) -> None:
    """Who calls it waits neither for its end nor for the end of what it prints."""
    script = driven.root / "var/lib/bnbenv/hook.sh"
    driven.driver(OLD, NEW)
    pipe = subprocess.Popen(["sh", script, "apt"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=driven.project)
    assert pipe.communicate(timeout=5) == (b"", None) and pipe.returncode == 0
    wait(lambda: noted(driven)["state"] == "mismatch")
    slow = driven.root / "slow"
    slow.write_text("#!/bin/sh\nexec sleep 30\n")
    slow.chmod(0o755)
    text = script.read_text().replace(sys.executable, str(slow)).replace("timeout -k 5 60", "timeout -k 1 1")
    script.write_text(text)
    assert subprocess.run(["sh", script, "apt"], timeout=5, check=False, capture_output=True).returncode == 0
    slow.unlink()  # bnbenv is gone
    assert subprocess.run(["sh", script, "apt"], timeout=5, check=False, capture_output=True).stderr == b""


def test_it_imports_little(driven: Any) -> None:
    """What makes other commands slow is not even imported, and no program is started."""
    code = "import sys; from bnbenv.cli import main; main(['hook', 'run', '--event', 'apt', '-q']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env=driven.environ, capture_output=True, text=True, check=True)
    heavy = {
        "msgspec",
        "requests",
        "packaging",
        "platformdirs",
        "pynvml",
        "subprocess",
        "tomllib",
        "filelock",
        "bnbenv.envs.check",
    }
    assert heavy.isdisjoint(done.stdout.split())


@pytest.mark.real
def test_after_the_change_a_project_is_synced_as_the_unit_does_it(project: Any, tmp_path: Path) -> None:
    """The real thing: an environment of another host is brought in line, and its user told."""
    environ = {**project.environ, "HOME": str(tmp_path)}

    def run(*words: str) -> dict[str, Any]:
        command = [sys.executable, "-m", "bnbenv", "hook", *words, "--json"]
        done = subprocess.run(
            command, cwd=project.root, env=environ, capture_output=True, text=True, timeout=300, check=True
        )
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    run("install", "systemd")
    try:
        assert [row["state"] for row in run("run", "--event", "boot")["projects"]] == ["in sync"]
        project.replace(".bnbenv/generations/bnb/1.json", lambda text: text.replace(b'"glibc 2.', b'"glibc 1.'))
        assert set(project.drift()) == {"host-changed"}
        (row,) = run("run", "--event", "boot")["projects"]
        assert row["state"] == "synced" and row["said"].startswith("bnb is in generation"), row
        assert project.drift() == {}
        (place,) = run("status")["places"]
        assert place["projects"][0]["exit"] == 0
        assert place["message"]["text"].endswith("were brought in line with this machine")
    finally:
        run("uninstall")
