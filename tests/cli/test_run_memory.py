"""``bnbenv run`` and the memory of GPUs: waiting for it, and how much was used; NVML's stand-in has the numbers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux is missing: NVML's stand-in is built for it")

GIB = 1 << 30


def gpus(*used: int, more: str = "") -> str:
    """GPUs of 80 GiB, with so much GiB of each used."""
    lines = [f"gpu uuid=GPU-{n} cc=9.0 memory={80 * GIB} used={size * GIB} name=H{n}" for n, size in enumerate(used)]
    return "\n".join([*lines, more, ""])


def test_a_gpu_that_is_free_is_shown_first(bnbenv: Any, place: Path, nvml_stub: Any) -> None:
    """Enough on the first is taken as it is; enough on another one puts that one in front."""
    words = ("run", "--wait-memory", "20GiB", "--", "sh", "-c", 'echo "${CUDA_VISIBLE_DEVICES-not set}"')
    assert bnbenv(*words, **nvml_stub.environment(gpus(60, 0))).out == "not set\n"
    ran = bnbenv(*words, **nvml_stub.environment(gpus(61, 70, 60)))
    assert ran.out == "GPU-2,GPU-0,GPU-1\n"
    assert ran.err == "GPU 2 (H2) has 20.0 GiB free: the command sees it first\n"
    ran = bnbenv(*words, CUDA_VISIBLE_DEVICES="1,2", **nvml_stub.environment(gpus(0, 70, 60)))
    assert ran.out == "GPU-2,GPU-1\n"
    slices = "\n".join(f"slice uuid=MIG-{n} memory={40 * GIB} used={30 * GIB // (n + 1)} name=S" for n in range(2))
    mig = f"gpu uuid=GPU-0 cc=9.0 memory={80 * GIB} mig=1 name=H0\n{slices}\n"
    assert bnbenv(*words, **nvml_stub.environment(mig)).out == "MIG-1\n"


def test_it_is_of_no_use_to_wait(bnbenv: Any, place: Path, nvml_stub: Any, faults: Any) -> None:
    holder = f"process pid={os.getpid()} used={70 * GIB}"
    for config, words, said in [
        (gpus(0), ("200GiB",), "no GPU here has 200.0 GiB: the largest, GPU 0 (H0), has 80.0 GiB"),
        ("init 9\n", ("1GiB",), "no GPU memory can be waited for: Driver Not Loaded"),
        (gpus(), ("1GiB",), "no GPU memory can be waited for: there is no GPU"),
        (gpus(70, more=holder), ("20G", "--wait-limit", "0.5"), "20.0 GiB of GPU memory did not come free within 0 s"),
    ]:
        ran = bnbenv("run", "--json", "--wait-memory", *words, "--", "echo", "ran", **nvml_stub.environment(config))
        assert ran.code == 1 and faults(ran.document) == []
        assert ran.document["error"]["message"].startswith(said), ran
        assert "ran" not in ran.err.split()
    assert f"process {os.getpid()} (" in ran.err and "holds 70.0 GiB" in ran.err
    ran = bnbenv("run", "--wait-memory", "1G", "--", "echo", CUDA_VISIBLE_DEVICES="", **nvml_stub.environment(gpus(0)))
    assert "shows no GPU" in ran.err and ran.code == 1
    assert bnbenv("run", "--wait-memory", "1G", "--", "echo", "ran").code == 1


def test_it_waits_and_says_how_much_was_used(place: Path, tool_environ: dict[str, str], nvml_stub: Any) -> None:
    """The memory of a program that the command started is the command's own."""
    ours = f"process pid=@{place}/pid used={3 * GIB}"
    environ = {**tool_environ, **nvml_stub.environment(gpus(79, 79, more=ours))}
    code = f"import os, time; open('{place}/pid', 'w').write(str(os.getpid())); time.sleep(2.2)"
    words = [
        "run",
        "--report",
        "report.json",
        "--wait-memory",
        "20GiB",
        "--",
        "sh",
        "-c",
        f'python -c "{code}"; exit 3',
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "bnbenv", *words], cwd=place, env=environ, stderr=subprocess.PIPE, text=True
    )
    time.sleep(1.2)
    assert process.poll() is None and not (place / "pid").exists()
    settings = Path(environ["NVML_STUB_CONFIG"])
    fresh = settings.with_name("fresh")
    fresh.write_text(gpus(79, 10, more=ours))
    fresh.replace(settings)
    err = process.communicate(timeout=60)[1]
    assert process.returncode == 3
    assert err.splitlines()[-1] == "peak GPU memory: GPU 1 3.0 GiB"
    document = json.loads((place / "report.json").read_text())
    assert document["peak_memory"] == [{"gpu": 1, "uuid": "GPU-1", "bytes": 3 * GIB, "of": "command"}]
    assert document["waited_seconds"] > 0.5


def test_where_nvml_names_no_processes(bnbenv: Any, place: Path, nvml_stub: Any) -> None:
    """As in a container: what came to be used on the GPUs that the command sees. An old driver's library, too."""
    environ = nvml_stub.environment(gpus(10, 10), old=True)
    settings = environ["NVML_STUB_CONFIG"]
    Path(f"{settings}.new").write_text(gpus(25, 10))
    script = f"sleep 1.8; mv {settings}.new {settings}; sleep 1"
    ran = bnbenv("run", "--", "sh", "-c", script, **environ)
    assert (ran.code, ran.out) == (0, "")
    assert ran.err == "GPU memory in use at most (by all processes): GPU 0 25.0 GiB\n"


def test_a_driver_that_hangs_holds_up_nothing(bnbenv: Any, place: Path, nvml_stub: Any) -> None:
    environ = nvml_stub.environment("hang nvmlDeviceGetCount_v2\n")
    ran = bnbenv("run", "--", "sh", "-c", "sleep 1.5; exit 6", **environ)
    assert (ran.code, ran.out, ran.err) == (6, "", "")
