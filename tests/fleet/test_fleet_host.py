"""``fleet host``: what a host answers. The library that stands in for NVML tells of its processes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bnbenv.envs.check import observe_host
from bnbenv.envs.project import Project
from bnbenv.fleet.host import environments
from bnbenv.process import SystemRunner

H200 = "gpu uuid=GPU-1 cc=9.0 memory=150754820096 name=NVIDIA H200\n"
Ask = Callable[..., tuple[int, Any, str]]


@pytest.fixture
def ask(tool_environ: dict[str, str], tmp_path: Path) -> Ask:
    """``ask("--project", folder, LD_LIBRARY_PATH=...)``: exit code, document, and what people see."""
    own = {"BNBENV_HOME": str(tmp_path / "user"), "BNBENV_SYSROOT": str(tmp_path / "host")}

    def run(*words: str, **changes: str) -> tuple[int, Any, str]:
        start = [sys.executable, "-m", "bnbenv", "fleet", "host", *words]
        environ = {**tool_environ, **own, **changes}
        ended = [
            subprocess.run([*start, *more], cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
            for more in ((), ("--json",))
        ]
        assert ended[0].returncode == ended[1].returncode
        return ended[1].returncode, json.loads(ended[1].stdout), ended[0].stdout + ended[0].stderr

    return run


def module(root: Path, version: str) -> None:
    """A driver's kernel module is loaded."""
    place = root / "host" / "proc" / "driver" / "nvidia"
    place.mkdir(parents=True, exist_ok=True)
    (place / "version").write_text(f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {version}  Thu Jan 1\n")


def test_facts_processes_and_what_cannot_be_told(ask: Ask, tmp_path: Path, nvml_stub: Any) -> None:
    module(tmp_path, "580.65.06")
    process = tmp_path / "host" / "proc" / "41823"
    process.mkdir()
    (process / "comm").write_text("python\n")
    environ = nvml_stub.environment(f"{H200}process pid=41823 used=62277025792\n", "580.65.06")
    code, answer, text = ask("--project", "none", **environ)
    assert (code, answer["project"], answer["environments"]) == (0, str(tmp_path / "none"), [])
    assert [gpu["name"] for gpu in answer["facts"]["gpus"]] == ["NVIDIA H200"]
    (row,) = answer["processes"]
    assert (row["pid"], row["name"], row["memory"], row["uuid"]) == (41823, "python", 62277025792, "GPU-1")
    assert answer["processes_unknown"] == answer["reboot"] == ""
    assert f"in use: GPU 0: python (41823 of {row['user']}, 62.3 GB)" in text
    Path(environ["NVML_STUB_CONFIG"]).write_text(f"{H200}fail nvmlDeviceGetComputeRunningProcesses_v3 4\n")
    _, answer, text = ask(**environ)
    assert "Insufficient Permissions (NVML error 4)" in answer["processes_unknown"]
    assert "in use, perhaps: nvmlDeviceGetComputeRunningProcesses: Insufficient" in text


def test_a_driver_that_is_half_upgraded_requires_a_reboot(ask: Ask, tmp_path: Path, nvml_stub: Any) -> None:
    module(tmp_path, "570.133.20")
    code, answer, text = ask(**nvml_stub.environment(f"init 18\nnvml 13.580.65.06\n{H200}", "580.65.06"))
    assert (code, answer["facts"]["driver"]["state"]) == (0, "mismatch")
    said = "the NVIDIA kernel module (570.133.20) and the driver library (580.65.06) differ"
    assert answer["reboot"] == said
    assert " ".join(text.split()).startswith(f"reboot required: {said}")


def test_a_project_that_is_not_to_be_trusted_is_refused(ask: Ask, tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    (folder / "bnbenv.toml").write_text("[envs.bnb]\n")
    (folder / "bnbenv.toml").chmod(0o666)
    code, answer, text = ask("--project", str(folder))
    assert (code, answer["error"]["code"], answer["schema"]) == (2, "open-to-all", "bnbenv.fleet-host/1")
    assert "everybody on this machine may write" in text
    (folder / "bnbenv.toml").chmod(0o644)
    (folder / "bnbenv.toml").write_text("nonsense = [")
    (folder / ".venv-bnb").symlink_to("nowhere")
    (folder / ".bnbenv" / "generations" / "bnb").mkdir(parents=True)
    code, answer, text = ask("--project", str(folder))
    ((row,), reasons) = answer["environments"], answer["environments"][0]["reasons"]
    assert (code, row["in_sync"], row["lock"], reasons[0]["code"]) == (0, False, None, "config-unreadable")
    assert "this is not TOML" in text


@pytest.mark.real
def test_kernels_that_ran_on_another_host_prove_nothing_here(synced: Any, tool_environ: dict[str, str]) -> None:
    """A folder that was copied, or the same machine with another card."""
    project = Project(synced.root, synced.root / "bnbenv.toml")
    here = observe_host(tool_environ, SystemRunner())
    (one,) = environments(project, here)
    assert (one.in_sync, one.verified) == (True, True)
    (other,) = environments(project, here._replace(fingerprint={**here.fingerprint, "gpus": "GPU-9"}))
    assert (other.lock, other.in_sync, other.verified) == (one.lock, False, False)
