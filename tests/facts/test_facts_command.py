"""``bnbenv facts`` through the command line: where facts come from, what is printed, what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bnbenv.cli.render.facts import render
from bnbenv.errors import InputError
from bnbenv.facts import read_facts
from bnbenv.facts.model import decode_facts
from bnbenv.paths import Sysroot
from bnbenv.process import SystemRunner

HOSTS = Path(__file__).parent.parent / "hosts"
NAMES = sorted(folder.name for folder in HOSTS.iterdir() if folder.is_dir())
H200 = HOSTS / "linux-x86_64__580.65.06__h200-sm90" / "facts.json"
V100 = HOSTS / "linux-x86_64__580.65.06__v100-sm70" / "facts.json"


def bnbenv(*arguments: str, stdin: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bnbenv", "facts", *arguments],
        input=stdin,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_json_document_is_a_facts_file_again(tmp_path: Path, nvml_stub: Any) -> None:
    environ = nvml_stub.environment("gpu uuid=GPU-1 cc=12.0 memory=34190917632 name=NVIDIA GeForce RTX 5090\n")
    first = bnbenv("--json", BNBENV_SYSROOT=str(tmp_path), **environ)
    assert first.returncode == 0, first.stderr
    document = json.loads(first.stdout)
    assert document["schema"] == "bnbenv.facts/1"
    assert document["gpus"][0]["compute_capability"] == "12.0"
    again = bnbenv("--json", "--facts", "-", stdin=first.stdout)
    assert json.loads(again.stdout) == document


def test_the_order_of_sources(tmp_path: Path) -> None:
    environ = {"BNBENV_FACTS": str(V100)}
    sysroot, runner = Sysroot(tmp_path), SystemRunner()
    assert read_facts(environ, sysroot, runner, str(H200)).gpus[0].arch == "sm_90"
    assert read_facts(environ, sysroot, runner).gpus[0].arch == "sm_70"
    assert read_facts({"PATH": os.defpath}, sysroot, runner).gpus == ()


@pytest.mark.parametrize(
    ("content", "where"),
    [
        (None, "cannot be read"),
        ("{", "no JSON document"),
        ('{"schema": "bnbenv.facts/1"}', "missing required field"),
        ('{"schema": "bnbenv.facts/2"}', "missing required field"),
    ],
)
def test_a_facts_file_that_cannot_be_read_is_named_with_exit_2(tmp_path: Path, content: str | None, where: str) -> None:
    file = tmp_path / "facts.json"
    if content is not None:
        file.write_text(content)
    done = bnbenv("--facts", str(file))
    assert done.returncode == 2
    assert str(file) in done.stderr and where in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_is_no_facts_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_facts({}, Sysroot(tmp_path), SystemRunner(), str(tmp_path))


def test_a_wrong_value_is_named_by_its_path(tmp_path: Path) -> None:
    document = json.loads(H200.read_bytes())
    document["gpus"][0]["compute_capability"] = "sm_90"
    file = tmp_path / "facts.json"
    file.write_text(json.dumps(document))
    done = bnbenv("--facts", str(file))
    assert done.returncode == 2
    assert "gpus[0].compute_capability" in done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_people_read_the_answer_first_in_80_columns(name: str) -> None:
    facts = decode_facts((HOSTS / name / "facts.json").read_bytes(), name)
    text = render(json.loads((HOSTS / name / "facts.json").read_bytes()))
    lines = text.splitlines()
    assert lines[0].startswith("driver")
    assert all(len(line) <= 80 for line in lines)
    if facts.driver.state == "mismatch":
        assert "reboot required" in lines[0]
    for gpu in facts.gpus:
        assert f"{gpu.name}, {gpu.arch}" in " ".join(text.split())
    for entry in facts.unknown:
        assert entry.fact in text


def test_standard_input_is_named_as_such() -> None:
    done = bnbenv("--facts", "-", stdin="nonsense")
    assert done.returncode == 2
    assert "standard input" in done.stderr


def test_the_document_goes_to_standard_output_alone() -> None:
    done = bnbenv("--facts", str(H200))
    assert done.returncode == 0
    assert done.stderr == ""
    assert done.stdout.startswith("driver     OK (580.65.06, CUDA up to 13.0")
