"""``bnbenv run``: the environment, streams, exit codes, what is said of a failure, and what is done about it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bnbenv.cli.commands.run import environment_of

pytestmark = pytest.mark.skipif(os.name != "posix", reason="a POSIX system is missing")

BNBENV = (sys.executable, "-m", "bnbenv")
OOM = "RuntimeError: CUDA out of memory. Tried to allocate 20.00 MiB"
FULL = f"import sys; sys.exit({OOM!r})"
ASK = """\
import json, os, sys
names = ("VIRTUAL_ENV", "PATH")
print(json.dumps({"prefix": sys.prefix, "cwd": os.getcwd()} | {name: os.environ.get(name) for name in names}))
"""


def test_the_environment(bnbenv: Any, place: Path, tmp_path: Path) -> None:
    (place / "sub").mkdir()
    ran = bnbenv("run", "--", "python", "-c", ASK, cwd=place / "sub", PATH="/usr/bin:/bin")
    assert (ran.code, ran.err) == (0, "")
    found = ran.document
    generation = place / ".bnbenv" / "generations" / "bnb" / "1"
    assert found == {
        "prefix": str(generation),  # and not the link: a sync meanwhile changes nothing under a run
        "cwd": str(place / "sub"),
        "VIRTUAL_ENV": str(generation),
        "PATH": f"{generation}/bin:/usr/bin:/bin",
    }
    # With PYTHONHOME the environment's Python would take another one's library.
    assert environment_of(generation, {"PYTHONHOME": "/x", "A": "b"}) == {
        "A": "b",
        "PATH": f"{generation}/bin",
        "VIRTUAL_ENV": str(generation),
    }


@pytest.mark.parametrize("code", [0, 1, 3, 77, 255])
def test_an_exit_code_is_kept_and_nothing_is_added(code: int, bnbenv: Any, place: Path) -> None:
    ran = bnbenv("run", "--", "sh", "-c", f"echo out; echo err >&2; exit {code}")
    assert (ran.code, ran.out, ran.err) == (code, "out\n", "err\n")


def test_words_after_the_dashes_are_the_commands(bnbenv: Any, place: Path) -> None:
    code = "import sys; print(sys.argv[1:])"
    ran = bnbenv("run", "--retries", "1", "--", "python", "-c", code, "--json", "-h", "--", "--env", "x")
    assert (ran.code, ran.out, ran.err) == (0, "['--json', '-h', '--', '--env', 'x']\n", "")
    assert bnbenv("run", "python", "-c", code, "--json").out == "['--json']\n"
    ran = bnbenv("run", "--", "nowhere", "--json")
    assert (ran.code, ran.out) == (127, "")


def test_bytes_are_passed_on_untouched(bnbenv: Any, place: Path, tool_environ: dict[str, str]) -> None:
    """More than any buffer holds, in both directions; standard error stays apart."""
    data = bytes(range(256)) * 8192  # 2 MiB, of which most is no text
    done = subprocess.run(
        [*BNBENV, "run", "--", "sh", "-c", "cat; head -c 300000 /dev/zero >&2"],
        cwd=place,
        env=tool_environ,
        input=data,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout == data, done.stderr == b"\0" * 300000) == (0, True, True)


def test_output_comes_while_the_command_runs(place: Path, tool_environ: dict[str, str]) -> None:
    words = [*BNBENV, "run", "--", "sh", "-c", "printf half; read answer; echo $answer"]
    process = subprocess.Popen(
        words, cwd=place, env=tool_environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    )
    assert process.stdin and process.stdout
    assert process.stdout.read(4) == b"half"  # without a line's end
    process.stdin.write(b"whole\n")
    assert process.stdout.read() == b"whole\n"
    assert process.wait(timeout=30) == 0


def test_a_program_that_is_left_behind_holds_nobody_up(bnbenv: Any, place: Path) -> None:
    ran = bnbenv("run", "--", "sh", "-c", "sleep 60 & echo $!")
    os.kill(int(ran.out), 9)
    assert (ran.code, ran.err) == (0, "")


def test_without_an_environment(bnbenv: Any, tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "bnbenv.toml").write_text("[envs.bnb]\n")
    ran = bnbenv("run", "--", "true")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.splitlines() == ["error: there is no .venv-bnb yet", "next: Make it with: bnbenv sync"]


def test_what_cannot_be_run(bnbenv: Any, refused: Any, place: Path) -> None:
    bad = place / "bad"
    bad.write_text("#!/no/such/interpreter\n")
    plain = place / "plain"
    plain.write_text("text")
    bad.chmod(0o755)
    for words, code, said in [
        (("no-such-command",), 127, "neither in the environment nor on PATH"),
        (("./no-such-file",), 127, 'there is no command "./no-such-file"'),
        (("",), 127, 'there is no command ""'),
        (("./plain",), 126, "permission denied"),
        (("./",), 126, "permission denied"),
        (("./bad",), 126, "its first line names"),
        ((), 2, "expected a command after --"),
    ]:
        ran = bnbenv("run", "--", *words)
        assert (ran.code, ran.out) == (code, ""), ran
        assert ran.err.startswith("error: ") and said in ran.err, ran
        assert json.loads(bnbenv("run", "--json", "--", *words).out)["error"]["code"], words
    for words in [("--env", "other"), ("--wait-memory", "much"), ("--on-oom", "'"), ("--report", "no/folder/x")]:
        refused("run", *words, code=2)


def test_a_failure_is_diagnosed_in_two_lines(bnbenv: Any, place: Path) -> None:
    ran = bnbenv("run", "--", "python", "-c", FULL)
    said, cause, fix, more = ran.err.splitlines()
    assert (ran.code, said) == (1, OOM)
    assert cause.startswith("cause: the GPU has too little memory") and fix.startswith("fix: ")
    kept = place / ".bnbenv" / "log" / "run-bnb.txt"
    assert more == f"more: bnbenv doctor --log {kept}"
    assert kept.read_text() == f"{OOM}\n" and kept.stat().st_mode & 0o077 == 0
    assert bnbenv("run", "-q", "--", "python", "-c", FULL).err == f"{OOM}\n"
    # The fix is for the environment that it ran in, which is bnbenv's own.
    ran = bnbenv("run", "--", "python", "-c", "raise SystemExit(\"ModuleNotFoundError: No module named 'triton.ops'\")")
    assert ran.err.splitlines()[-2].endswith("bnbenv sync --fresh --env bnb")


@pytest.mark.parametrize(
    "code", ["raise SystemExit('ValueError: its own fault')", "raise SystemExit(1)", "print('CUDA out of memory')"]
)
def test_nothing_is_said_where_there_is_nothing_to_say(code: str, bnbenv: Any, place: Path) -> None:
    """A failure that nobody knows, one without a word, and a success that speaks of memory."""
    ran = bnbenv("run", "--", "python", "-c", code)
    assert not [line for line in ran.err.splitlines() if line.startswith(("cause", "fix", "more"))]


def test_no_token_of_the_output_is_told(bnbenv: Any, place: Path) -> None:
    token = "hf_" + "aBcDeFgHiJ" * 3
    code = f"raise SystemExit('OSError: 401 Client Error: Unauthorized for url: https://huggingface.co/x {token}')"
    ran = bnbenv("run", "--report", "r.json", "--", "python", "-c", code)
    told = (place / "r.json").read_text()
    assert ran.code == 1 and '"cause": "hf_access"' in told and "Unauthorized" in told
    assert told.count(token) == 1  # in the command, as it was typed


def test_the_report(bnbenv: Any, place: Path, faults: Any) -> None:
    code = f"print('own'); {FULL}"
    ran = bnbenv("run", "--json", "--", "python", "-c", code)
    assert faults(ran.document) == []
    assert ran.err.splitlines() == [OOM, "own"] or ran.err.splitlines() == ["own", OOM]
    document = ran.document
    assert (ran.code, document["exit_code"], document["signal"]) == (1, 1, None)
    (attempt,) = document["attempts"]
    assert (attempt["cause"], attempt["transient"]) == ("out_of_memory", False)
    assert document["finding"]["code"] == attempt["code"]
    assert document["peak_memory"] == [] and document["fallback"] is None

    ran = bnbenv("run", "--report", "report.json", "--", "python", "-c", "import os; print(1, flush=True); os.abort()")
    assert (ran.code, ran.out) == (-6, "1\n")
    document = json.loads((place / "report.json").read_text())
    assert faults(document) == []
    assert (document["exit_code"], document["signal"]) == (None, "SIGABRT")


READS = f"""\
import os, sys
given = sys.stdin.read()
if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
    print("on the CPU:", given)
    sys.exit(9)
sys.exit({OOM!r})
"""


def test_on_oom_once(bnbenv: Any, place: Path, tool_environ: dict[str, str], faults: Any) -> None:
    ran = bnbenv("run", "--on-oom", "cpu", "--", "python", "-c", READS)
    assert (ran.code, ran.out) == (9, "on the CPU: \n")
    ran = bnbenv("run", "--json", "--on-oom", f'python -c "{FULL}"', "--", "python", "-c", FULL)
    assert (ran.code, faults(ran.document)) == (1, [])
    assert ran.document["fallback"]["command"] == ["python", "-c", FULL]
    assert ran.document["fallback"]["cause"] == ran.document["attempts"][0]["cause"] == "out_of_memory"
    ran = bnbenv("run", "--on-oom", "echo no", "--", "python", "-c", "raise SystemExit(1)")
    assert (ran.code, ran.out) == (1, "")


def test_standard_input_begins_again_or_there_is_no_second_time(place: Path, tool_environ: dict[str, str]) -> None:
    """What was read of a file can be read again, what was read of a pipe not: half of it is worse than nothing."""
    words = [*BNBENV, "run", "--on-oom", "cpu", "--", "python", "-c", READS]
    (place / "data").write_text("skipped all")
    with (place / "data").open("rb") as stream:
        os.lseek(stream.fileno(), 8, os.SEEK_SET)
        done = subprocess.run(words, cwd=place, env=tool_environ, stdin=stream, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (9, b"on the CPU: all\n")
    done = subprocess.run(words, cwd=place, env=tool_environ, input=b"all", capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"cannot be given twice" in done.stderr


@pytest.mark.real
def test_real_torch_that_runs_out_of_memory(project: Any) -> None:
    """The allocator of the CPU says it; with ``--on-oom`` a smaller setting is run."""
    (project.root / "load.py").write_text(
        "import sys, torch\n"
        "try: print(torch.empty(1 << int(sys.argv[1]), dtype=torch.uint8).numel())\n"
        "except RuntimeError as error: sys.exit(str(error))\n"
    )
    ended = project("run", "--json", "--on-oom", "python load.py 10", "--", "python", "load.py", "55")
    assert ended.code == 0
    assert ended.stderr.splitlines()[-2:] == [
        "the machine has too little main memory for this; running instead: python load.py 10",
        "1024",
    ]
    assert ended.document["attempts"][0]["code"] == "host-out-of-memory"
    assert ended.document["fallback"]["exit_code"] == 0
