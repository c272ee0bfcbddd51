"""Whatever people write wrongly: one sentence that names the file and the place in it, exit 2, and no other word."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

H200 = Path(__file__).parent.parent / "hosts" / "linux-x86_64__580.65.06__h200-sm90" / "facts.json"


@pytest.fixture
def refused(bnbenv: Any, faults: Callable[[Any], list[str]]) -> Callable[..., str]:
    """Runs a command that has to be refused, for people and with ``--json``; returns the sentence."""

    def run(*words: str, code: int = 2, step: str = "", **more: Any) -> str:
        ran = bnbenv(*words, **more)
        assert ran.code == code, ran
        assert ran.out == ""
        errors = [line for line in ran.err.splitlines() if line.startswith("error: ")]
        steps = [line for line in ran.err.splitlines() if line.startswith("next: ")]
        assert len(errors) == 1 and len(steps) <= 1, ran.err
        assert ran.err.splitlines()[0] == errors[0]
        assert step in "".join(steps), steps
        again = bnbenv(*words, "--json", **more)
        assert again.code == code
        document = again.document
        assert faults(document) == []
        assert f"error: {document['error']['message']}" == errors[0]
        assert "".join(steps) == (f"next: {document['error']['next_step']}" if document["error"]["next_step"] else "")
        return errors[0].removeprefix("error: ")

    return run


BRACKETS = "a = " + "[" * (10 << 20)

CONFIG = [
    ("[envs.bnb\n", "line 1, column 10: this is not TOML: expected ']'"),
    ('[envs.bnb]\ntorch = "2\n', "line 2, column 11: this is not TOML: "),
    ('[envs.bnb]\ntorch = "2"\ntorch = "3"\n', "line 3, column "),
    (BRACKETS, "expected a few lines of TOML, found 10 MB"),
    ("a = " + "[" * 5000, "this is not TOML that can be read: nested too deeply"),
    (b"[envs.bnb]\ntorch = '\xff'\n", "byte 20: expected UTF-8 text"),
    ("[envs.bnb]\ntorch = 2.9\n", "envs.bnb.torch: expected text in quotes, found a number"),
    ("[envs.bnb]\nrequirements = 'peft'\n", "envs.bnb.requirements: expected a list [...], found text in quotes"),
    ("[envs.bnb]\nrequirements = ['peft', 3]\n", "envs.bnb.requirements[1]: expected text in quotes, found a whole"),
    ("[envs.a]\n[envs.b]\npython = true\n", "envs.b.python: expected text in quotes, found true or false"),
    ("[envs]\nbnb = 'x'\n", "envs.bnb: expected a table, found text in quotes"),
    ("[[envs]]\nname = 'bnb'\n", "envs: expected a table, found a list [...]"),
    ("[envs.bnb]\ntorsh = '2'\n", 'envs.bnb.torsh: there is no such key; did you mean "torch"?'),
    ("[envs.bnb]\nxyz = '2'\n", "envs.bnb.xyz: there is no such key; known: family, python, torch, bitsandbytes, req"),
    ("[polcy]\nprefer = 'newest'\n", 'polcy: there is no such key; did you mean "policy"?'),
    ("[sources]\nfind_links = []\n", 'sources.find_links: there is no such key; did you mean "find-links"?'),
    ("[policy]\nprefer = 'oldest'\n", 'policy.prefer: expected "newest" or "minimal-change", found "oldest"'),
    ("[policy]\nmix = 'yes'\n", "policy.mix: expected true or false, found text in quotes"),
    ("[envs.bnb]\nfamily = 'gptq'\n", 'envs.bnb.family: expected "bitsandbytes"'),
    ("[envs.bnb]\nfamily = 'x'\n", 'envs.bnb.family: expected "bitsandbytes", "gptq", "awq" or "none", found "x"'),
    ("[envs.bnb]\nbackend = 'rocm'\n", 'envs.bnb.backend: expected "auto", "cuda" or "cpu", found "rocm"'),
    ("[envs.bnb]\ntorch = '>>1'\n", 'envs.bnb.torch: expected a version specifier such as ">=2.4,<3", found ">>1"'),
    ("[envs.bnb]\nbitsandbytes = 'new'\n", 'envs.bnb.bitsandbytes: expected a version specifier such as ">=2.4,<3"'),
    ("[envs.bnb]\npython = '3.x'\n", "envs.bnb.python: expected a version specifier"),
    ("[envs.bnb]\nrequirements = ['a b']\n", 'envs.bnb.requirements[0]: expected a requirement such as "peft>=0.14"'),
    ("[envs.bnb]\nrequirements = ['-r all.txt']\n", "envs.bnb.requirements[0]: expected a requirement such as"),
    ("[envs.bnb]\nrequirements = ['x', 'Torch>2']\n", 'envs.bnb.requirements[1]: expected no Torch: set "torch = ..."'),
    ("[envs.bnb]\nrequirements = ['bitsandbytes']\n", "envs.bnb.requirements[0]: expected no bitsandbytes"),
    ("[envs.'../x']\n", 'envs: expected letters, digits, "-" and "_", found "../x"'),
    ("[envs.'']\n", 'envs: expected letters, digits, "-" and "_", found ""'),
    ("[envs.bnb]\ngpus = 'first'\n", 'envs.bnb.gpus: expected "all", indices or UUIDs, found "first"'),
    ("[envs.bnb]\ngpus = []\n", 'envs.bnb.gpus: expected "all", indices or UUIDs, found ""'),
    ("[envs.bnb]\ngpus = [-1]\n", 'envs.bnb.gpus: expected "all", indices or UUIDs, found "-1"'),
    ("[envs.bnb]\ngpus = [0.5]\n", "envs.bnb.gpus[0]: expected a whole number or text in quotes, found a number"),
    ("[envs.bnb]\ngpus = 0\n", "envs.bnb.gpus: expected text in quotes or a list [...], found a whole number"),
    ("x = " + "9" * 5000, "this is not TOML that can be read: "),
]


@pytest.mark.parametrize(("text", "expected"), CONFIG, ids=[expected[:40] for _, expected in CONFIG])
def test_a_wrong_configuration(text: str | bytes, expected: str, refused: Any, tmp_path: Path) -> None:
    config = tmp_path / "project" / "bnbenv.toml"
    config.parent.mkdir()
    config.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert refused("check").startswith(f"{config}: {expected}")
    assert sorted(path.name for path in config.parent.iterdir()) == ["bnbenv.toml"]


@pytest.mark.parametrize("command", ["plan", "lock", "sync", "list", "gc"])
def test_every_command_reads_it_alike(command: str, refused: Any, tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "bnbenv.toml").write_text("[envs.bnb]\ntorch = 2\n")
    assert "envs.bnb.torch: expected text in quotes, found a whole number" in refused(command)


def test_a_configuration_that_is_no_file(refused: Any, tmp_path: Path) -> None:
    config = tmp_path / "project" / "bnbenv.toml"
    config.mkdir(parents=True)
    for command in ("check", "plan", "sync"):
        assert refused(command) == f"{config}: cannot be read (Is a directory)"
    config.rmdir()
    config.symlink_to("nowhere")
    for command in ("check", "plan", "sync"):
        assert refused(command) == f"{config}: this link leads nowhere"


@pytest.mark.parametrize(
    "text", ["", "\n# nothing but words\n", "[envs.bnb]\n", "[policy]\n[sources]\n", "\ufeff[envs.bnb]\n"]
)
def test_an_empty_configuration_is_fine(text: str, bnbenv: Any, tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "bnbenv.toml").write_text(text)
    ran = bnbenv("check", "--json")
    assert (ran.code, ran.document["environments"]) == (3, ["bnb"])


def changed(*steps: Any, value: Any = ...) -> str:
    """The facts of an H200 with one value changed, or taken out."""
    document = json.loads(H200.read_bytes())
    place = document
    for step in steps[:-1]:
        place = place[step]
    if value is ...:
        place.pop(steps[-1])
    else:
        place[steps[-1]] = value
    return json.dumps(document)


def twice() -> str:
    document = json.loads(H200.read_bytes())
    document["gpus"].append(copy.deepcopy(document["gpus"][0]))
    return json.dumps(document)


GPU = ("gpus", 0)
FACTS = [
    ("", "no JSON document: input data was truncated"),
    ("{", "no JSON document: "),
    ("driver: ok", "no JSON document: "),
    (b"\xff\xfe{}", "no JSON document: "),
    ("[]", "expected an object, found a list [...]"),
    ('{"a":' * 100000, "no JSON document that can be read: nested too deeply"),
    (changed("schema", value="bnbenv.facts/2"), 'schema: expected "bnbenv.facts/1", found "bnbenv.facts/2"'),
    (changed("schema", value=1), "schema: expected text in quotes, found a whole number"),
    (changed("platform"), "platform: missing required field"),
    (changed(*GPU, "uuid"), "gpus[0].uuid: missing required field"),
    (changed("driver", "state"), "driver.state: missing required field"),
    (changed("gpus", value=None), "gpus: expected a list [...], found null"),
    (changed("driver", "state", value="fine"), 'driver.state: expected "ok", "absent", "mismatch" or "error", found'),
    (
        changed(*GPU, "compute_capability", value=9.0),
        "gpus[0].compute_capability: expected text in quotes, found a num",
    ),
    (changed(*GPU, "compute_capability", value="sm_90"), 'gpus[0].compute_capability: expected "9.0" or the like, fou'),
    (changed(*GPU, "compute_capability", value="9" * 5000 + ".0"), 'gpus[0].compute_capability: expected "9.0" or th'),
    (changed(*GPU, "compute_capability", value="9.٣"), 'gpus[0].compute_capability: expected "9.0" or the like, foun'),
    (changed(*GPU, "index", value="0"), "gpus[0].index: expected a whole number, found text in quotes"),
    (changed(*GPU, "index", value=-1), "gpus[0].index: index -1 is negative"),
    (changed(*GPU, "memory_total", value=-1), "gpus[0].memory_total: expected bytes, found -1"),
    (changed(*GPU, "mig", value={"devices": [{"name": "x"}]}), "gpus[0].mig.devices[0].uuid: missing required field"),
    (changed("driver", "version", value="new"), 'driver.version: expected a version number, found "new"'),
    (changed("driver", "version", value="5" * 5000), 'driver.version: expected a version number, found "5555'),
    (changed("driver", "cuda", value="1" * 5000), "driver.cuda: expected a version number"),
    (changed("platform", "libc", "version", value=""), 'platform.libc.version: expected a version number, found ""'),
    (
        changed("pythons", value=[{"path": "/p", "version": 3}]),
        "pythons[0].version: expected text in quotes, found a w",
    ),
    (
        changed("environment", value={"BNB_CUDA_VERSION": 128}),
        "environment.BNB_CUDA_VERSION: expected text in quotes, ",
    ),
    (twice(), "gpus[1].index: index 0 stands twice"),
]


@pytest.mark.parametrize(("text", "expected"), FACTS, ids=[expected[:40] for _, expected in FACTS])
def test_wrong_facts(text: str | bytes, expected: str, refused: Any, tmp_path: Path) -> None:
    file = tmp_path / "facts.json"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert refused("solve", "--facts", str(file)).startswith(f"{file}: {expected}")


@pytest.mark.parametrize("command", ["check", "list"])
def test_what_is_wrong_in_recorded_facts_breaks_no_fast_command(command: str, bnbenv: Any, tmp_path: Path) -> None:
    """They read less of it, or nothing."""
    file = tmp_path / "facts.json"
    for text, expected in FACTS:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        ran = bnbenv(command, BNBENV_FACTS=str(file))
        assert ran.code in ((0,) if command == "list" else (2, 3)), (expected, ran)


def test_facts_that_are_no_file(refused: Any, tmp_path: Path) -> None:
    missing = tmp_path / "none.json"
    reason = "cannot be read (No such file or directory)"
    assert refused("facts", "--facts", str(missing), step="bnbenv facts --json") == f"{missing}: {reason}"
    assert refused("check", BNBENV_FACTS=str(missing)) == f"{missing}: {reason}"
    assert refused("plan", BNBENV_FACTS=str(missing)) == f"{missing}: {reason}"
    assert refused("solve", "--facts", str(tmp_path)) == f"{tmp_path}: cannot be read (Is a directory)"
    assert refused("solve", "--facts", "-", stdin=b"nonsense").startswith("standard input: no JSON document")
    assert refused("facts", "--facts", "") == "--facts: expected the name of a file, found nothing"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le"])
def test_facts_that_windows_powershell_has_redirected(encoding: str, bnbenv: Any, tmp_path: Path) -> None:
    file = tmp_path / "facts.json"
    text = H200.read_text()
    file.write_bytes(("\ufeff" + text if encoding == "utf-16-le" else text).encode(encoding))
    ran = bnbenv("facts", "--json", "--facts", str(file))
    assert (ran.code, ran.document["gpus"][0]["name"]) == (0, "NVIDIA H200")


OPTIONS: list[tuple[list[str], str, str]] = [
    (["solve", "--torch", ">>1"], '--torch: expected a version specifier such as ">=2.4,<3", found ">>1"', ""),
    (["solve", "--torch", "latest"], '--torch: expected a version specifier such as ">=2.4,<3", found "latest"', ""),
    (["solve", "--torch", "keep"], "--torch keep: this bnbenv chooses torch itself", "Name the version"),
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
    assert re.fullmatch(rf"/sys/kernel/{re.escape(file)}: [a-z -]+; the environment in use was kept", sentence)


NOBODY = """
import os, sys
from bnbenv.cli import main
for words in (["check", "--json"], ["solve", "--facts", sys.argv[1]]):
    main(words)  # what is imported only now may be out of reach below
os.setgid(54321)
os.setuid(54321)
os.environ.pop("HOME")
os.chdir("/")
print("nobody:", main(["check"]), main(["check", "--project", "/proc"]), main(["solve", "--facts", "-"]), flush=True)
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
    assert done.stdout.splitlines()[-1] == "nobody: 2 3 0", done
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
