"""The files of each kind, judged by the programs that read them, where they are here."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest


def needs(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not here")
    return found


def test_systemd_finds_nothing_to_say_about_the_units(machine: Any, tmp_path: Path) -> None:
    verify = [needs("systemd-analyze"), "verify", "--man=no"]
    machine("hook", "install", "systemd")
    machine("hook", "install", "--user", "systemd")
    system, user = machine.root / "etc/systemd/system", machine.root / "etc/systemd/user"
    shutil.copy(system / "bnbenv-sync@.service", tmp_path / "bnbenv-sync@1000.service")
    runtime = tmp_path / "runtime"
    runtime.mkdir(mode=0o700)
    own = machine.home / ".config/systemd/user"
    names = ("bnbenv-tell.service", "bnbenv-tell.path")
    for words in (
        [tmp_path / "bnbenv-sync@1000.service"],
        ["--user", *(user / name for name in names)],
        ["--user", own / "bnbenv-sync.service", *(own / name for name in names)],
    ):
        environ = {**machine.environ, "XDG_RUNTIME_DIR": str(runtime)}
        done = subprocess.run([*verify, *words], env=environ, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stdout + done.stderr) == (0, ""), words


def test_the_scripts_are_plain_shell(machine: Any) -> None:
    machine("hook", "install", "zypper", "profile")
    machine("hook", "install", "--user", "profile")
    scripts = [*machine.root.rglob("*.sh"), machine.root / "usr/lib/zypp/plugins/commit/bnbenv"]
    scripts += list(machine.home.rglob("*.sh"))
    assert len(scripts) == 6
    for shell in ("dash", "bash", "busybox"):
        for path in scripts if shutil.which(shell) else ():
            words = [shell, *(["sh"] if shell == "busybox" else []), "-n", path]
            assert subprocess.run(words, capture_output=True, text=True, check=True).stderr == ""
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", "-s", "sh", *scripts], check=True, timeout=60)


@pytest.mark.parametrize("shell", ["dash", "bash"])
def test_the_plugin_of_zypper_answers_each_message(machine: Any, shell: str, wait: Any) -> None:
    """The frames that libzypp sends, with the bodies that it puts into them."""
    machine("hook", "install", "zypper")
    called = machine.root / "called"
    (machine.root / "var/lib/bnbenv/hook.sh").write_text(f'echo "$1" >{called}\n')
    plugin = machine.root / "usr/lib/zypp/plugins/commit/bnbenv"
    process = subprocess.Popen([needs(shell), plugin], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin and process.stdout
    body = b'{"TransactionStepList": [\n {"type": "+", "solvable": {"n": "nvidia", "v": "580"}}\n]}'
    for command, text in ((b"PLUGINBEGIN", b""), (b"COMMITBEGIN", body), (b"COMMITEND", body), (b"PLUGINEND", b"")):
        process.stdin.write(command + b"\nuserdata:1\n\n" + text + b"\0")
        process.stdin.flush()
        assert process.stdout.read(6) == b"ACK\n\n\0"
    process.stdin.write(b"_DISCONNECT\n\n\0")
    assert process.communicate(timeout=10)[0] == b"ACK\n\n\0" and process.returncode == 0
    wait(called.exists)


def test_pacman_runs_the_hook_for_the_driver_alone(machine: Any, tmp_path: Path) -> None:
    pacman = needs("pacman")
    machine("hook", "install", "pacman")
    called = machine.root / "called"
    (machine.root / "var/lib/bnbenv/hook.sh").write_text(f'echo "$1" >{called}\n')
    (tmp_path / "pacman.conf").write_text(
        "[options]\nArchitecture = any\nSigLevel = Never\nLocalFileSigLevel = Never\n"
    )
    (tmp_path / "db").mkdir()
    for name, runs in (("hello", False), ("nvidia-utils", True)):
        info = f"pkgname = {name}\npkgbase = {name}\npkgver = 1-1\npkgdesc = x\nbuilddate = 1\nsize = 1\narch = any\n"
        (tmp_path / ".PKGINFO").write_text(info)
        package = tmp_path / f"{name}-1-1-any.pkg.tar.gz"
        subprocess.run(["tar", "-czf", package, "-C", tmp_path, ".PKGINFO"], check=True)
        words = ["--noconfirm", "--config", tmp_path / "pacman.conf", "--root", "/", "--dbpath", tmp_path / "db"]
        words += ["--hookdir", machine.root / "etc/pacman.d/hooks", "--dbonly", "-U", package]
        subprocess.run([pacman, *words], check=True, timeout=60, capture_output=True)
        assert called.exists() == runs


def test_the_lines_of_dnf_have_the_fields_that_its_plugins_read(machine: Any) -> None:
    """Carried out as the plugins do: dnf 5 splits at spaces without a backslash, dnf 4 gives the line to a shell."""
    machine("hook", "install", "dnf")
    script, called = machine.root / "var/lib/bnbenv/hook.sh", machine.root / "called"
    five = (machine.root / "etc/dnf/libdnf5-plugins/actions.d/bnbenv.actions").read_text().splitlines()
    (line,) = [line for line in five if not line.startswith("#")]
    *fields, command = line.split(":", 4)
    assert fields == ["post_transaction", "", "", ""]
    words = [re.sub(r"\\(.)", r"\1", word) for word in re.split(r"(?<!\\) +", command)]
    four = (machine.root / "etc/dnf/plugins/post-transaction-actions.d/bnbenv.action").read_text().splitlines()
    lines = [line.split(":", 2) for line in four if not line.startswith("#")]
    assert {state for _, state, _ in lines} == {"any"}
    (shell,) = {command for _, _, command in lines}
    script.write_text(f'echo "$1" >>{called}\n')
    for one in (words, ["/bin/sh", "-c", shell]):
        assert subprocess.run(one, capture_output=True, text=True, check=True).stderr == ""
    assert called.read_text() == "dnf\ndnf\n"
    script.unlink()  # whoever deletes the folder is not told so after each transaction
    for one in (words, ["/bin/sh", "-c", shell]):
        done = subprocess.run(one, capture_output=True, text=True, check=True)
        assert (done.stdout, done.stderr) == ("", "")
