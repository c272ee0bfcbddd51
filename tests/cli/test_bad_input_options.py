"""Wrong options, environments that there are not, and places where nothing can be done."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

H200 = Path(__file__).parent.parent / "hosts" / "linux-x86_64__580.65.06__h200-sm90" / "facts.json"

OPTIONS: list[tuple[list[str], str, str]] = [
    (["solve", "--torch", ">>1"], '--torch: expected a version specifier such as ">=2.4,<3", found ">>1"', ""),
    (["solve", "--torch", "latest"], '--torch: expected a version specifier such as ">=2.4,<3", found "latest"', ""),
    (["why-not", "numpy==2"], "REQUIREMENT: expected bitsandbytes, torch or python, found numpy", "why-not --help"),
    (["why-not", "torch=2.9"], 'REQUIREMENT: expected a requirement such as "bitsandbytes==0.46.1"', "why-not --help"),
    (["why-not", "torch==2.9.1", "--torch", "keep"], "--torch keep names the torch already", "Leave one"),
    (["why-not", "torch[x]==2.9.1"], "REQUIREMENT: expected versions alone", "why-not --help"),
    (["solve", "--bitsandbytes", "0.5x"], "--bitsandbytes: expected a version specifier", ""),
    (["solve", "--python", "three"], "--python: expected a version specifier", ""),
    (["solve", "--gpus", "foo"], '--gpus: expected "all", indices or UUIDs, found "foo"', ""),
    (["solve", "--gpus", "²"], '--gpus: expected "all", indices or UUIDs, found "²"', ""),
    (["sync", "--gpus", "²"], '--gpus: expected "all", indices or UUIDs, found "²"', ""),
    (["sync", "--gpus", ""], '--gpus: expected "all", indices or UUIDs, found ""', ""),
    (["solve", "--driver", "abc"], '--driver: expected a version such as "580.65.06", found "abc"', ""),
    (["solve", "--driver", ""], '--driver: expected a version such as "580.65.06", found ""', ""),
    (["solve", "--backend", "rocm"], "--backend: invalid choice: 'rocm'", "bnbenv solve --help"),
    (["solve", "--build", "--no-build"], "--no-build: not allowed with argument --build", "bnbenv solve --help"),
    (["solve", "--torch"], "--torch: expected one argument", "bnbenv solve --help"),
    (["solve", "--torhc", "2"], "unrecognized arguments: --torhc 2", "Did you mean: --torch"),
    (["check", "--proj", "."], "unrecognized arguments: --proj .", "Did you mean: --project"),
    (["check", "--zzz"], "unrecognized arguments: --zzz", "bnbenv check --help"),
    (["check", "now"], "unrecognized arguments: now", "bnbenv check --help"),
    (["synk"], 'there is no command "synk"', "Did you mean: bnbenv sync"),
    (["frobnicate"], 'there is no command "frobnicate"', "bnbenv --help"),
    ([""], 'there is no command ""', "bnbenv --help"),
    (["--project", ".", "check"], "the command comes first, then --project", "bnbenv --help"),
    (["check", "--project", "/nonexistent"], "/nonexistent is not a folder", "Create it first"),
    (["check", "--project", ""], "--project: expected a folder, found nothing", "Create it first"),
    (["check", "--env", "../x"], '--env: expected letters, digits, "-" and "_", found "../x"', ""),
    (["check", "--env", ""], '--env: expected letters, digits, "-" and "_", found ""', ""),
    (["gc", "--keep", "-1"], '--keep: expected a whole number, found "-1"', "bnbenv gc --help"),
    (["gc", "--keep", "all"], '--keep: expected a whole number, found "all"', "bnbenv gc --help"),
    (["rollback", "x"], 'N: expected a whole number, found "x"', "bnbenv rollback --help"),
    (["rollback", "-1"], 'N: expected a whole number, found "-1"', "bnbenv rollback --help"),
    (["sync", "--wait", "x"], '--wait: expected seconds, such as 5, found "x"', "bnbenv sync --help"),
    (["sync", "--wait", "-1"], '--wait: expected seconds, such as 5, found "-1"', "bnbenv sync --help"),
    (["sync", "--wait", "nan"], '--wait: expected seconds, such as 5, found "nan"', "bnbenv sync --help"),
    (["verify", "--python", "/nonexistent"], "there is no Python /nonexistent", "Give the path"),
    (["verify", "--timeout", "0"], "--timeout: ", "bnbenv verify --help"),
]


@pytest.mark.parametrize(("words", "expected", "step"), OPTIONS, ids=[" ".join(words) for words, _, _ in OPTIONS])
def test_wrong_options(words: list[str], expected: str, step: str, refused: Any) -> None:
    assert refused(*words, step=step).startswith(expected)


COMMANDS_ABOUT_AN_ENVIRONMENT = ["check", "plan", "lock", "sync", "list", "gc", "path", "rollback", "verify"]


@pytest.mark.parametrize("command", COMMANDS_ABOUT_AN_ENVIRONMENT)
def test_an_environment_that_there_is_not(command: str, refused: Any, tmp_path: Path) -> None:
    config = tmp_path / "project" / "bnbenv.toml"
    config.parent.mkdir()
    config.write_text("[envs.train]\n[envs.eval]\n")
    sentence = refused(command, "--env", "nope", step="Name one with --env")
    assert sentence == f'{config} names no environment "nope" (it has: train, eval)'


def test_the_default_environment_may_be_one_that_there_is_not(refused: Any, tmp_path: Path) -> None:
    config = tmp_path / "project" / "bnbenv.toml"
    config.parent.mkdir()
    config.write_text("[envs.train]\n")
    assert refused("path") == f'{config} names no environment "bnb" (it has: train)'


def test_what_is_not_there_yet_is_no_wrong_usage(refused: Any) -> None:
    assert refused("path", code=1, step="bnbenv sync") == "there is no .venv-bnb yet"
    assert refused("rollback", "99", code=1, step="bnbenv list") == "generation 99 of bnb does not exist"
    assert refused("rollback", code=1, step="bnbenv list") == "there is no earlier generation of bnb to go back to"


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="/sys is missing, where not even root may write")
@pytest.mark.parametrize(("command", "file"), [("init", "bnbenv.toml"), ("sync", ".bnbenv"), ("gc", ".bnbenv")])
def test_a_folder_where_nobody_may_write(command: str, file: str, refused: Any) -> None:
    sentence = refused(command, "--project", "/sys/kernel", code=1)
    assert re.fullmatch(rf"/sys/kernel/{re.escape(file)}: [a-z -]+; nothing in use was changed", sentence)


NOBODY = """
import os, sys
from bnbenv.cli import main
for words in (["check", "--json"], ["solve", "--facts", sys.argv[1]], ["matrix", "show"]):
    main(words)  # what is imported only now may be out of reach below
os.setgid(54321)
os.setuid(54321)
os.environ.pop("HOME")
os.chdir("/")
asked = (["check"], ["check", "--project", "/proc"], ["solve", "--facts", "-"], ["matrix", "show"])
print("nobody:", *map(main, asked), flush=True)
"""


@pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="root is missing, to become a user without a name"
)
def test_a_user_without_a_home(tool_environ: dict[str, str], tmp_path: Path) -> None:
    """As in a container that runs under a number: what is in a project works, what is the user's own says why not."""
    environ = {name: value for name, value in tool_environ.items() if not name.startswith(("BNBENV", "XDG"))}
    done = subprocess.run(
        [sys.executable, "-c", NOBODY, str(H200)],
        cwd=tmp_path,
        env=environ,
        input=H200.read_text(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.splitlines()[-1] == "nobody: 2 3 0 0", done
    step = "next: Set HOME, or BNBENV_HOME to a folder of bnbenv's own."
    assert done.stderr.splitlines()[-2:] == ["error: this user has no home folder for bnbenv's data", step]


def test_the_current_folder_is_gone(tool_environ: dict[str, str], tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    script = 'rmdir "$PWD"; exec "$0" -P -m bnbenv check' if sys.version_info >= (3, 11) else ""
    if not script:
        pytest.skip("python -P (3.11) is missing: -m looks into the current folder first")
    done = subprocess.run(
        ["/bin/sh", "-c", script, sys.executable],
        cwd=gone,
        env=tool_environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: the current folder does not exist any more\nnext: ")
