"""Which processes compute on the GPUs, asked of the real nvidia-ml-py over the stand-in for NVML."""

from __future__ import annotations

import getpass
import os
from pathlib import Path
from typing import Any

import pytest

from bnbenv.facts.model import Driver, HostFacts, Platform
from bnbenv.facts.processes import Processes, gpu_processes, read_processes
from bnbenv.paths import Sysroot
from bnbenv.process import Command, Finished, SystemRunner

H200 = "gpu uuid=GPU-1 cc=9.0 memory=150754820096 name=NVIDIA H200\n"


def asked(
    root: Path, environ: dict[str, str], state: Any = "ok", limit: float = 8.0, system: str = "linux"
) -> Processes:
    facts = HostFacts(Platform("linux", "x86_64"), Driver(state), ())
    return gpu_processes({**os.environ, **environ}, Sysroot(root), SystemRunner(), facts, limit, system)


def named(root: Path, pid: int, name: str) -> None:
    (root / "proc" / str(pid)).mkdir(parents=True)
    (root / "proc" / str(pid) / "comm").write_text(f"{name}\n")


def test_compute_processes_have_their_name_user_and_memory(tmp_path: Path, nvml_stub: Any) -> None:
    named(tmp_path, 4242, "python")
    found = asked(tmp_path, nvml_stub.environment(f"{H200}process pid=4242 used=1073741824\nprocess pid=7\n"))
    assert found.unknown == ""
    # Of 7 nothing is to be seen here, as of what runs in a container.
    assert [(one.pid, one.name, one.user) for one in found.found] == [(7, "", ""), (4242, "python", getpass.getuser())]
    assert (found.found[1].gpu, found.found[1].uuid, found.found[1].memory) == (0, "GPU-1", 1 << 30)


def test_clients_of_mps_count_and_its_idle_server_does_not(tmp_path: Path, nvml_stub: Any) -> None:
    named(tmp_path, 300, "nvidia-cuda-mps")
    named(tmp_path, 301, "python")
    idle = f"{H200}process pid=300\n"
    assert asked(tmp_path, nvml_stub.environment(idle)) == Processes()
    busy = asked(tmp_path, nvml_stub.environment(f"{idle}mps pid=301 used=5\nprocess pid=301 used=5\n"))
    assert [one.pid for one in busy.found] == [301]
    alone = asked(tmp_path, nvml_stub.environment(f"{idle}mps pid=302 used=5\n"))  # in that list alone
    assert [(one.pid, one.memory) for one in alone.found] == [(302, 5)]
    unlisted = asked(tmp_path, nvml_stub.environment(f"{idle}fail nvmlDeviceGetMPSComputeRunningProcesses_v3 15\n"))
    assert "nvmlDeviceGetMPSComputeRunningProcesses: GPU is lost" in unlisted.unknown
    old = asked(tmp_path, nvml_stub.environment(idle, old=True))  # which does not tell the clients
    assert [one.name for one in old.found] == ["nvidia-cuda-mps"]
    assert old.unknown == ""


def test_of_a_divided_gpu_the_slices_are_asked(tmp_path: Path, nvml_stub: Any) -> None:
    slices = "slice uuid=MIG-1 memory=1 name=a\nslice uuid=MIG-2 memory=1 name=b\nprocess pid=9\n"
    divided = H200.replace(" name=", " mig=1 name=") + slices
    found = asked(tmp_path, nvml_stub.environment(divided))
    assert [(one.gpu, one.uuid, one.pid) for one in found.found] == [(0, "MIG-2", 9)]
    assert found.unknown == ""
    lost = asked(tmp_path, nvml_stub.environment(f"{divided}fail nvmlDeviceGetMigDeviceHandleByIndex 15\n"))
    assert "nvmlDeviceGetMigDeviceHandleByIndex: GPU is lost" in lost.unknown
    whole = asked(tmp_path, nvml_stub.environment(H200.replace(" name=", " mig=0 name=") + "process pid=9\n"))
    assert [(one.uuid, one.pid) for one in whole.found] == [("GPU-1", 9)]  # it could be divided, and is not


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        ("fail nvmlDeviceGetComputeRunningProcesses_v3 15 1", "GPU is lost (NVML error 15)"),
        ("fail nvmlDeviceGetHandleByIndex_v2 15 1", "nvmlDeviceGetHandleByIndex: GPU is lost"),
        ("fail nvmlDeviceGetComputeRunningProcesses_v3 3", "Not Supported"),
        ("init 18", "NVML/RM version mismatch. (NVML error 18)"),
        ("crash nvmlDeviceGetCount_v2", "the NVML probe ended with SIGSEGV and no answer"),
        ("hang nvmlDeviceGetCount_v2", "NVML did not answer within 2 s"),
    ],
)
def test_what_cannot_be_told_is_unknown(tmp_path: Path, nvml_stub: Any, trouble: str, reason: str) -> None:
    config = f"{H200}process pid=7\n{H200.replace('GPU-1', 'GPU-2')}{trouble}\n"
    found = asked(tmp_path, nvml_stub.environment(config), limit=2.0)
    assert reason in found.unknown
    if trouble.endswith(" 1"):  # the other GPU has told
        assert [one.pid for one in found.found] == [7]


def test_what_a_probe_said_before_it_died_is_no_answer(tmp_path: Path) -> None:
    ended = Finished(Command(("probe",), 8.0), -11, '{"places": []}\n', "", False, 0.1)
    assert read_processes(ended, Sysroot(tmp_path)).unknown == "the NVML probe ended with SIGSEGV and no answer"


def test_without_a_driver_nothing_computes(tmp_path: Path, nvml_stub: Any) -> None:
    nothing = {"LD_LIBRARY_PATH": ""}
    assert asked(tmp_path, nothing, "absent") == Processes()
    assert asked(tmp_path, nothing, "ok").unknown == "this driver has no NVML that could be asked"
    assert asked(tmp_path, {**nothing, "BNBENV_FACTS": "box.json"}, "ok") == Processes()
    assert asked(tmp_path, nvml_stub.environment("init 9\n"), "absent") == Processes()
