"""``bnbenv solve`` as a user meets it: what it prints, how it ends, and what it says to what it cannot read."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bnbenv.cli import main
from bnbenv.cli.render.solve import render

HOSTS = Path(__file__).parent.parent / "hosts"
H200 = HOSTS / "linux-x86_64__580.65.06__h200-sm90" / "facts.json"
V100 = HOSTS / "linux-x86_64__580.65.06__v100-sm70" / "facts.json"
MISMATCH = HOSTS / "linux-x86_64__mismatch__nogpu" / "facts.json"


def run_command(*words: str, stdin: bytes | None = None, **environ: str) -> subprocess.CompletedProcess[bytes]:
    """The command in a process of its own, with an environment of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BNBENV_")}
    command = [sys.executable, "-m", "bnbenv", "solve", *words]
    return subprocess.run(command, input=stdin, env={**kept, **environ}, capture_output=True, timeout=60, check=False)


def error_of(capsys: pytest.CaptureFixture[str], *words: str, facts: Path | str = H200) -> tuple[int, dict[str, str]]:
    """The exit code and the error of a command that ends with one; people get the same sentence."""
    code = main(["solve", "--json", "--shipped", "--facts", str(facts), *words])
    printed = capsys.readouterr()
    document: dict[str, Any] = json.loads(printed.out)
    error: dict[str, str] = document["error"]
    assert printed.err.startswith(f"error: {error['message']}")
    assert "Traceback" not in printed.err
    return code, error


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["--torch", "newest"], "--torch"),
        (["--torch", ">>2"], "--torch"),
        (["--torch", "2.x"], "--torch"),
        (["--bitsandbytes", "=0.49"], "--bitsandbytes"),
        (["--bitsandbytes", ">=0.49,abc"], "--bitsandbytes"),
        (["--python", "three"], "--python"),
        (["--gpus", ""], "--gpus"),
        (["--gpus", ","], "--gpus"),
        (["--gpus", "first"], "--gpus"),
        (["--gpus", "all,0"], "--gpus"),
        (["--gpus", "-1"], "--gpus"),
        (["--gpus", "0-3"], "--gpus"),
        (["--driver", "newest"], "--driver"),
        (["--driver", ""], "--driver"),
        (["--driver", "580.65.06-1ubuntu1"], "--driver"),
        (["--driver", ">=580"], "--driver"),
        (["--backend", "rocm"], "--backend"),
        (["--build", "--no-build"], "--no-build"),
        (["--torch"], "--torch"),
        (["--cuda", "12.8"], "--cuda"),
    ],
)
def test_an_option_that_cannot_be_read_is_named(
    words: list[str], option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, error = error_of(capsys, *words)
    assert code == 2
    assert option in error["message"]
    assert "\n" not in error["message"]


@pytest.mark.parametrize(
    "spec", ["2.10", "2.10.0", "2.10.*", "==2.10.*", ">=2.10,<2.11", " >= 2.10 , < 2.11 ", "~=2.10.0"]
)
def test_how_a_version_can_be_wished_for(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["solve", "--json", "--shipped", "--facts", str(H200), "--torch", spec]) == 0
    assert json.loads(capsys.readouterr().out)["choice"]["torch"]["version"].startswith("2.10.0")


@pytest.mark.parametrize("spec", ["*", "", ">=2"])
def test_a_wish_for_anything(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["solve", "--json", "--shipped", "--facts", str(H200), "--torch", spec]) == 0
    assert json.loads(capsys.readouterr().out)["choice"]["torch"]["version"] == "2.15.0"


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda facts: facts.pop("driver"), "driver"),
        (lambda facts: facts.pop("gpus"), "gpus"),
        (lambda facts: facts["platform"].pop("machine"), "platform"),
        (lambda facts: facts["gpus"][0].update(compute_capability="9"), "gpus[0].compute_capability"),
        (lambda facts: facts["gpus"][0].update(compute_capability=9.0), "gpus[0].compute_capability"),
        (lambda facts: facts["gpus"][0].update(index="0"), "gpus[0].index"),
        (lambda facts: facts["gpus"].append(facts["gpus"][0]), "gpus[1].index"),
        (lambda facts: facts["driver"].update(state="broken"), "driver.state"),
        (lambda facts: facts["driver"].update(version="newest"), "driver.version"),
        (lambda facts: facts.update(schema="bnbenv.facts/2"), "schema"),
        (lambda facts: facts["pythons"].append({"path": "/usr/bin/python3"}), "pythons[1]"),
    ],
)
def test_facts_that_are_wrong_are_named_by_file_and_path(
    change: Any, where: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = json.loads(H200.read_text())
    change(document)
    file = tmp_path / "facts.json"
    file.write_text(json.dumps(document))
    code, error = error_of(capsys, facts=file)
    assert code == 2
    assert str(file) in error["message"]
    assert where in error["message"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"driver: ok"])
def test_facts_that_are_no_document(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "facts.json"
    file.write_bytes(content)
    code, error = error_of(capsys, facts=file)
    assert code == 2
    assert str(file) in error["message"]


def test_facts_that_are_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, error = error_of(capsys, facts=tmp_path / "none.json")
    assert code == 2
    assert str(tmp_path / "none.json") in error["message"]
    assert "bnbenv facts" in error["next_step"]


def test_a_driver_half_upgraded_is_a_reboot(capsys: pytest.CaptureFixture[str]) -> None:
    code, error = error_of(capsys, facts=MISMATCH)
    assert code == 6
    assert error["next_step"].startswith("Reboot")


def test_what_people_see_of_a_solution(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--bitsandbytes", "0.49.1", "--torch", ">=2.15"]
    assert main(["solve", "--shipped", "--facts", str(H200), *words]) == 0
    printed = " ".join(capsys.readouterr().out.split())  # lines may be folded
    assert "bitsandbytes 0.49.1, torch 2.15.0 (CUDA 13.2), Python 3.12" in printed
    assert "libbitsandbytes_cuda130.so" in printed
    assert "BNB_CUDA_VERSION=130" in printed
    assert "GPU 0 (sm_90): torch and bitsandbytes run native code (SASS sm_90)" in printed
    assert "measured 20" in printed


def test_what_people_see_of_a_refusal(capsys: pytest.CaptureFixture[str]) -> None:
    """What contradicts, what would change it, and the very command."""
    assert main(["solve", "--shipped", "--facts", str(V100), "--torch", ">=2.15"]) == 4
    printed = " ".join(capsys.readouterr().out.split())  # lines may be folded
    assert "torch >=2.15 was asked for" in printed
    assert "Tesla V100" in printed
    assert "bnbenv sync --torch '*'" in printed
    assert "bnbenv sync --torch '>=2.15' --backend cpu" in printed


def test_a_build_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    """The newest release for torch's own CUDA and exactly this GPU; what compiles it is said."""
    words = ["solve", "--shipped", "--facts", str(V100), "--build"]
    assert main([*words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    taken, cuda = document["choice"]["bitsandbytes"], document["choice"]["torch"]["cuda"]
    assert (taken["source"], taken["sha256"], taken["filename"]) == ("build", "", "")
    assert taken["library"] == f"libbitsandbytes_cuda{cuda.replace('.', '')}.so"
    assert [cover["bitsandbytes"] for cover in document["covers"]] == ["sass sm_70"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert f"  bitsandbytes is compiled here for sm_70 with CUDA {cuda}, and loads\n" in said
    assert said.endswith("next: bnbenv sync there with these wishes compiles it, about a minute on two cores\n")


def test_a_build_that_nothing_can_compile(capsys: pytest.CaptureFixture[str]) -> None:
    """From CUDA 13 on no compiler knows sm_70: a wheel is an option, and another torch."""
    assert main(["solve", "--json", "--shipped", "--facts", str(V100), "--build", "--torch", ">=2.15"]) == 4
    document = json.loads(capsys.readouterr().out)
    assert {part["rule"] for part in document["conflict"]} == {"torch-wish", "torch-arch[0]"}
    assert ["--torch", "*", "--build"] in [option["solve_args"] for option in document["options"]]


def test_the_options_of_a_refusal_solve(capsys: pytest.CaptureFixture[str]) -> None:
    base = ["solve", "--json", "--shipped", "--facts", str(V100)]
    assert main([*base, "--torch", ">=2.15", "--bitsandbytes", "<0.47", "--python", "3.12"]) == 4
    options = json.loads(capsys.readouterr().out)["options"]
    assert len(options) >= 2
    for option in options:
        assert main([*base, *option["solve_args"]]) == 0, option
        choice = json.loads(capsys.readouterr().out)["choice"]
        assert (
            f"bitsandbytes {choice['bitsandbytes']['version']} with torch {choice['torch']['version']} "
            in option["gives"]
        )


def test_a_build_for_another_torch_than_was_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    """Where neither another torch nor a build helps alone: its glibc is too old for all wheels of bitsandbytes."""
    host = HOSTS / "linux-x86_64__535.183.01__v100-sm70__glibc2.17" / "facts.json"
    base = ["solve", "--json", "--shipped", "--facts", str(host)]
    assert main([*base, "--no-build", "--torch", "==2.9.1"]) == 4
    (option,) = json.loads(capsys.readouterr().out)["options"]
    assert option["change"].endswith(", and give up the wish for torch")
    assert option["command"] == "bnbenv sync --torch '*' --build"
    assert main([*base, *option["solve_args"]]) == 0
    capsys.readouterr()
    assert main([*base, "--torch", "==2.9.1"]) == 4  # where it may be compiled, that need not be asked for
    (option,) = json.loads(capsys.readouterr().out)["options"]
    assert (option["change"], option["command"]) == ("give up the wish for torch", "bnbenv sync --torch '*'")
    assert "(compiled here)" in option["gives"]


def test_the_commands_of_a_refusal_hold_all_wishes(capsys: pytest.CaptureFixture[str]) -> None:
    """What is pasted has to lead to what the option gives, whatever stands in bnbenv.toml."""
    base = ["solve", "--json", "--shipped", "--facts", str(V100)]
    assert main([*base, "--torch", ">=2.15", "--bitsandbytes", "<0.51", "--python", "3.12"]) == 4
    options = json.loads(capsys.readouterr().out)["options"]
    for option in options:
        assert shlex.split(option["command"]) == ["bnbenv", "sync", *option["solve_args"]]
    assert "bnbenv sync --torch '*' --bitsandbytes '<0.51' --python '==3.12.*'" in [one["command"] for one in options]
    # What hangs on a driver that is not there yet has no command.
    assert main([*base, "--torch", ">=2.15", "--driver", "570"]) == 4
    options = json.loads(capsys.readouterr().out)["options"]
    ahead = [option for option in options if "--driver" in option["solve_args"]]
    assert [option["command"] for option in ahead] == [None]
    assert ahead[0]["change"].endswith(", with the NVIDIA driver 570")
    assert main([*base, "--build", "--backend", "cpu"]) == 4
    options = json.loads(capsys.readouterr().out)["options"]
    assert [option["command"] for option in options] == ["bnbenv sync --backend cpu --no-build"]


@pytest.mark.parametrize(
    ("facts", "words", "step"),
    [
        (
            HOSTS / "linux-x86_64__570.133.20__rtx3090-sm86+v100-sm70" / "facts.json",
            ("--driver", "580", "--torch", "==2.15.0"),
            "once driver 580 is installed: bnbenv sync --torch '==2.15.0' --gpus 0",
        ),
        (MISMATCH, ("--driver", "590.44"), "once driver 590.44 is installed: bnbenv sync --backend cpu"),
        (
            V100,
            ("--driver", "590", "--bitsandbytes", "<0.50"),
            "keep the NVIDIA driver of branch 580 (580.65.06), then run: bnbenv sync --bitsandbytes '<0.50'",
        ),
    ],
)
def test_the_step_before_a_driver_is_installed_holds_all_that_it_takes(
    facts: Path, words: tuple[str, ...], step: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["solve", "--shipped", "--facts", str(facts), *words]) == 4
    assert capsys.readouterr().out.splitlines()[-1] == f"next: {step} (on that machine)"


def test_the_gpus_that_a_first_driver_would_find_are_unknown(capsys: pytest.CaptureFixture[str]) -> None:
    facts = HOSTS / "linux-x86_64__absent__nogpu__gpu-without-driver" / "facts.json"
    words = ["solve", "--json", "--shipped", "--facts", str(facts), "--driver", "590"]
    for more, sentence in {
        (): "which GPUs it would find is unknown (an NVIDIA GPU is on the PCI bus, without NVIDIA's driver: install "
        "it); this is judged without any",
        ("--backend", "cpu"): "the same is chosen as today",
    }.items():
        assert main([*words, *more]) == 0
        change = json.loads(capsys.readouterr().out)["driver_change"]
        assert change == f"driver 590.44.01 instead of none that works: {sentence}"


def test_facts_from_a_pipe_and_from_the_environment() -> None:
    piped = run_command("--json", "--shipped", "--facts", "-", stdin=H200.read_bytes())
    named = run_command("--json", "--shipped", BNBENV_FACTS=str(H200))
    assert piped.returncode == named.returncode == 0
    assert json.loads(piped.stdout) == json.loads(named.stdout)
    assert json.loads(named.stdout)["choice"]["torch"]["version"] == "2.15.0"


def test_the_answer_does_not_hang_on_the_order_of_sets() -> None:
    """A refusal with several wishes and kinds of GPU, under two seeds of Python's hashes."""
    facts = HOSTS / "linux-x86_64__550.54.15__a6000-sm86+gt1030-sm61" / "facts.json"
    words = ["--json", "--shipped", "--facts", str(facts), "--torch", ">=2.15", "--bitsandbytes", "<0.47"]
    answers = [run_command(*words, PYTHONHASHSEED=seed) for seed in ("1", "2")]
    assert [answer.returncode for answer in answers] == [4, 4]
    assert answers[0].stdout == answers[1].stdout


def test_one_document_and_no_other_word() -> None:
    answer = run_command("--json", "--shipped", "--facts", str(V100), "--torch", "2.99")
    assert answer.returncode == 4
    assert json.loads(answer.stdout)["status"] == "refused"
    assert answer.stderr == b""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "bnbenv sync there, with these wishes, makes it, if its sources offer it"),
        (["--driver", "590.44.01"], "bnbenv sync there, once driver 590.44.01 is installed"),
    ],
)
def test_what_makes_it_on_another_machine_is_said_so(
    capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert main(["solve", "--shipped", "--facts", str(H200), *words]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"next: {said}"


def test_only_what_was_asked_is_promised() -> None:
    document = json.loads((Path(__file__).parent / "screens" / "solve-h200.json").read_text())
    assert render(document).endswith("\nnext: bnbenv sync with these wishes makes it, if the package sources offer it")
    assert render(document, asked=True).endswith("\nnext: bnbenv sync with these wishes makes it")
