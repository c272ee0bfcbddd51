"""Outputs that are closed or full, encodings that lack a letter, names of folders with every kind of sign, Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(os.name != "posix", reason="a POSIX system is missing: pipes, signals and /dev/full")

H200 = Path(__file__).parent.parent / "hosts" / "linux-x86_64__580.65.06__h200-sm90" / "facts.json"
BNBENV = (sys.executable, "-m", "bnbenv")


def shell(script: str, environ: Mapping[str, str], cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a script in which ``"$@"`` is bnbenv."""
    command = ["/bin/sh", "-c", script, "sh", *BNBENV, *words]
    return subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("words", [("facts", "--facts", str(H200)), ("--help",), ("check",), ("check", "--json")])
def test_a_reader_that_goes_away_is_no_failure(
    words: tuple[str, ...], tool_environ: dict[str, str], tmp_path: Path
) -> None:
    """As with ``| head -1``: no word about it, and the exit code is what it would have been."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as broken:
        done = subprocess.run(
            [*BNBENV, *words],
            cwd=tmp_path,
            env=tool_environ,
            stdout=broken,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    assert done.stderr == b""
    assert done.returncode == (3 if words[0] == "check" else 0)


def test_a_reader_of_errors_that_goes_away_is_no_failure_either(tool_environ: dict[str, str], tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as broken:
        command = [*BNBENV, "check", "--env", "nope"]
        done = subprocess.run(command, cwd=tmp_path, env=tool_environ, stderr=broken, timeout=60, check=False)
    assert done.returncode == 2
    if Path("/dev/full").exists():
        assert shell('"$@" 2>/dev/full', tool_environ, tmp_path, "check", "--env", "nope").returncode == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is missing")
@pytest.mark.parametrize("words", [("check",), ("check", "--json"), ("--help",), ("facts", "--facts", str(H200))])
def test_a_full_output_is_one_sentence(words: tuple[str, ...], tool_environ: dict[str, str], tmp_path: Path) -> None:
    done = shell('"$@" >/dev/full', tool_environ, tmp_path, *words)
    assert done.returncode == 1
    assert done.stderr == (
        "error: the command was carried out, but standard output cannot be written (no space left on device)\n"
    )


def test_closed_outputs(tool_environ: dict[str, str], tmp_path: Path) -> None:
    assert shell('"$@" >&-', tool_environ, tmp_path, "check").returncode == 3
    # What would go to standard error does not go among the document.
    done = shell('"$@" 2>&-', tool_environ, tmp_path, "check", "--env", "nope", "--json")
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["code"] == "no-such-env"
    assert shell('"$@" >&- 2>&-', tool_environ, tmp_path, "check", "--env", "nope").returncode == 2
    assert shell('"$@" <&-', tool_environ, tmp_path, "check").returncode == 3


def test_a_terminal_without_colour_gets_plain_text(tool_environ: dict[str, str], tmp_path: Path) -> None:
    import pty

    ours, theirs = pty.openpty()
    environ = {**tool_environ, "TERM": "xterm-256color", "FORCE_COLOR": "1", "NO_COLOR": "1"}
    for words in (["check"], ["check", "--env", "x"], ["sync", "--help"]):
        subprocess.run(
            [*BNBENV, *words],
            cwd=tmp_path,
            env=environ,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            timeout=60,
            check=False,
        )
    os.close(theirs)
    seen = os.read(ours, 65536)
    assert b"not in sync" in seen
    assert b"\x1b" not in seen


NAMES = ["with space", 'it\'s "quoted" $HOME `x` ;', "-dash", "new\nline", "per%20cent", "a=b,c"]
LETTERS = "caf\u00e9 \u6a21\u578b"


@pytest.mark.parametrize(
    ("name", "locale"), [*((name, "C.UTF-8") for name in NAMES), *((LETTERS, one) for one in ("C.UTF-8", "C", "ascii"))]
)
def test_a_project_of_any_name(name: str, locale: str, tool_environ: dict[str, str], tmp_path: Path) -> None:
    root = tmp_path / name
    root.mkdir()
    environ = {**tool_environ, "LC_ALL": "C" if locale == "ascii" else locale}
    if locale == "ascii":
        environ |= {"PYTHONIOENCODING": "ascii:strict", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}

    def run(*words: str) -> subprocess.CompletedProcess[bytes]:
        command = [*BNBENV, *words]
        return subprocess.run(command, cwd=root, env=environ, capture_output=True, timeout=60, check=False)

    for words, code in [
        (["init"], 0),
        (["init", "--json"], 1),
        (["check"], 3),
        (["list"], 0),
        (["path"], 1),
        (["gc"], 0),
    ]:
        done = run(*words)
        assert done.returncode == code, (words, done)
        assert b"Traceback" not in done.stderr
    document = json.loads(run("check", "--json").stdout)
    assert document["project"] == str(root) or locale == "ascii"
    (root / "bnbenv.toml").write_text("[envs.bnb]\nx = 1\n")
    done = run("check")
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1, done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="Linux is missing, where names are any bytes")
def test_a_name_that_is_no_text(tool_environ: dict[str, str], tmp_path: Path) -> None:
    root = os.fsencode(tmp_path) + b"/caf\xe9"
    Path(os.fsdecode(root)).mkdir()
    for words, code in [
        (["init"], 0),
        (["check"], 3),
        (["check", "--json"], 3),
        (["list", "--json"], 0),
        (["path"], 1),
    ]:
        done = subprocess.run(
            [*BNBENV, *words], cwd=root, env=tool_environ, capture_output=True, timeout=60, check=False
        )
        assert done.returncode == code, done
        if "--json" in words:
            assert os.fsencode(json.loads(done.stdout)["project"]) == root


@pytest.mark.real
@pytest.mark.parametrize("moment", ["installing", "running kernels"])
def test_ctrl_c_keeps_the_environment(moment: str, project: Any) -> None:
    """What a terminal does: the signal goes to bnbenv, which ends its children."""
    process = project.start("sync", "--fresh", "--json")
    told = []
    for line in process.stderr:
        told.append(line)
        if moment in line:
            break
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, (told, err)
    assert err.splitlines() == ["interrupted: what is in use is whole", "next: See it: bnbenv status"]
    assert json.loads(out)["error"]["code"] == "interrupted"
    assert project.generation() == 1
    assert project.leftovers() == []
    assert project.drift() == {}
    assert project.quantizes()


@pytest.mark.real
@pytest.mark.parametrize(("name", "locale"), [('it\'s "my" $HOME caf\u00e9 \u6a21\u578b', "C"), ("plain", "C.UTF-8")])
def test_a_real_environment_in_a_folder_of_any_name(name: str, locale: str, locked: Any, tmp_path: Path) -> None:
    root = tmp_path / name
    locked.root.rename(root)
    there = type(locked)(root, {**locked.environ, "LC_ALL": locale})
    done = there.done("sync", "--locked", "--no-verify")
    assert done["project"] == str(root)
    assert there.quantizes()
    assert set(there.drift()) == {"unverified"}
    shown = there("path", "--python").stdout.strip()
    ran = subprocess.run(
        [shown, "-c", "import sys; print(sys.prefix)"], capture_output=True, text=True, check=True, timeout=60
    )
    assert Path(ran.stdout.strip()).resolve() == (root / ".venv-bnb").resolve()
    there.done("sync", "--fresh", "--no-verify")
    assert there.done("rollback")["generation"] == 1
    assert there.done("gc", "--keep", "0")["environments"] == [{"env": "bnb", "removed": [2], "kept": [1]}]


LOST = """
import os, signal
from bnbenv.process import Command, SystemRunner

os.register_at_fork(after_in_parent=lambda: os.kill(os.getpid(), signal.SIGINT))
try:
    SystemRunner().run(Command(("true",), 30))
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.skipif(os.name != "posix", reason="there is no fork on Windows")
def test_ctrl_c_while_a_child_is_made_is_not_lost() -> None:
    """What a signal raises in the midst of a fork, Python drops."""
    done = subprocess.run([sys.executable, "-c", LOST], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "interrupted\n", "")
