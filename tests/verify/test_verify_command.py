"""``bnbenv verify`` as users meet it: exit codes, JSON, and what is printed for people."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bnbenv.cli.render.verify import render
from bnbenv.verify.report import DeviceReport, Died, Report, Step


def bnbenv(*arguments: str, environ: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bnbenv", "verify", *arguments],
        env={**os.environ, **(environ or {})},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture
def facts_file(tmp_path: Path) -> Path:
    """A host whose driver was upgraded and that was not rebooted."""
    path = tmp_path / "facts.json"
    path.write_text(
        json.dumps(
            {
                "schema": "bnbenv.facts/1",
                "platform": {"os": "linux", "machine": "x86_64"},
                "driver": {"state": "mismatch", "kernel_module": "580.65.06", "userland": "580.95.05"},
                "gpus": [],
            }
        )
    )
    return path


@pytest.mark.real
def test_json_of_a_sound_environment(real_python: Path, bytecode: dict[str, str | None]) -> None:
    environ = {name: value or "" for name, value in bytecode.items()}
    done = bnbenv("--python", str(real_python.parent.parent), "--device", "cpu", "--json", environ=environ)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["schema"] == "bnbenv.verify/1"
    assert document["ok"] is True
    assert document["devices"][0]["device"] == "cpu"
    assert done.stderr.splitlines()[0] == "running kernels on cpu (CPU)"  # and every 15 s how far it is


def test_an_environment_without_torch_is_exit_5(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "env")], check=True, timeout=60)
    done = bnbenv("--python", str(tmp_path / "env"), "--device", "cpu")
    assert done.returncode == 5
    assert done.stdout.splitlines()[0] == "FAILED on cpu: import"
    assert "torch is not installed in this environment" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("next: ")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--python", "no/such/python"), "there is no Python"),
        (("--python", "x", "--env", "y"), "not allowed with argument"),
        (("--timeout", "soon"), 'expected a number of seconds, found "soon"'),
        (("--timeout", "-1"), 'expected a number of seconds, found "-1"'),
        (("--python", sys.executable, "--device", "GPU-none"), 'there is no device "GPU-none"'),
    ],
)
def test_wrong_usage_is_exit_2(arguments: tuple[str, ...], text: str) -> None:
    done = bnbenv(*arguments)
    assert done.returncode == 2
    assert text in done.stderr
    assert "Traceback" not in done.stderr


def test_before_the_reboot_nothing_is_run(facts_file: Path) -> None:
    done = bnbenv("--python", sys.executable, environ={"BNBENV_FACTS": str(facts_file)})
    assert done.returncode == 6
    assert "580.65.06" in done.stderr
    assert "580.95.05" in done.stderr
    assert "Reboot" in done.stderr
    # The CPU can be verified all the same.
    done = bnbenv("--python", sys.executable, "--device", "cpu", environ={"BNBENV_FACTS": str(facts_file)})
    assert done.returncode in (0, 5)
    assert "running kernels on cpu" in done.stderr


def document(*steps: Step, died: Died | None = None, warnings: tuple[str, ...] = ()) -> dict[str, Any]:
    ok = died is None and all(step.ok is not False for step in steps)
    device = DeviceReport(
        device="GPU-aaaa1111",
        name="NVIDIA H200",
        ok=ok,
        steps=steps,
        died=died,
        torch="2.14.0",
        torch_cuda="13.0",
        bitsandbytes="0.50.2",
        library="libbitsandbytes_cuda130.so",
    )
    built: dict[str, Any] = msgspec.to_builtins(Report(ok=ok, python="python", devices=(device,), warnings=warnings))
    return built


RIGHT = Step(name="nf4-64", ok=True, error=0.49, threshold=1.0, seconds=0.1, check="float16: decoded")
WRONG = Step(name="nf4-128", ok=False, error=0.73, threshold=4e-6, seconds=0.1, check="float32: codes")


def test_the_verdict_comes_first_and_a_failure_says_what_it_means_and_what_to_do() -> None:
    lines = render(document(RIGHT, WRONG)).splitlines()
    assert lines[0] == "FAILED on GPU-aaaa1111: nf4-128"
    assert lines[2] == (
        "GPU-aaaa1111: NVIDIA H200, torch 2.14.0 (CUDA 13.0), bitsandbytes 0.50.2, libbitsandbytes_cuda130.so"
    )
    assert "ok      nf4-64" in lines[3]
    assert "error 0.73, allowed 4e-06" in lines[4]
    assert "wrong weights" in lines[5]
    assert lines[-1].startswith("next: ")


def test_a_sound_gpu_shows_its_figures_and_warnings() -> None:
    timing = Step(name="timing", ok=True, figures={"dequantize_gb_per_s": 2100.5, "adamw8bit_ms": 0.31})
    skipped = Step(name="linear8bit", ok=None, skipped="this GPU has 7.0")
    text = render(document(RIGHT, timing, skipped, warnings=("GPU-aaaa1111: linear8bit skipped: this GPU has 7.0",)))
    assert text.splitlines()[0] == "verified on GPU-aaaa1111: bitsandbytes 0.50.2 with torch 2.14.0"
    assert "dequantize gb per s 2100.5, adamw8bit ms 0.31" in text
    assert "skipped linear8bit" in text
    assert "warning: GPU-aaaa1111: linear8bit skipped: this GPU has 7.0" in text
    assert "next:" not in text


def test_a_death_shows_where_and_the_stack() -> None:
    died = Died(signal="SIGSEGV", step="gemm-4bit", timed_out=False, exit_code=None, stderr="Fatal error\nline 2")
    lines = render(document(RIGHT, died=died)).splitlines()
    assert lines[0] == "FAILED on GPU-aaaa1111: killed by SIGSEGV in gemm-4bit"
    assert "DIED    gemm-4bit" in lines[4]
    assert lines[5:7] == ["    | Fatal error", "    | line 2"]
    assert "Run it once more" in lines[-1]
