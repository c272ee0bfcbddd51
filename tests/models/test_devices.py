"""The devices that there are, and what is free on each: NVML's stand-in and files of a container have the numbers."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bnbenv.facts.memory import Sample
from bnbenv.facts.model import decode_facts
from bnbenv.facts.ram import main_memory
from bnbenv.models.devices import Devices, ask, main_memory_device, now, recorded, room, with_free
from bnbenv.models.model import Device
from bnbenv.paths import Sysroot

GIB = 1 << 30
CPU = Device(None, "main memory", 8 * GIB, 4 * GIB)
HOSTS = Path(__file__).parent.parent / "hosts"


@pytest.mark.skipif(sys.platform != "linux", reason="Linux is missing: NVML's stand-in is built for it")
def test_what_nvml_says_now(nvml_stub: Any, tmp_path: Path) -> None:
    slices = "\n".join(f"slice uuid=MIG-{n} memory={20 * GIB} used={n * GIB} name=S" for n in range(2))
    config = (
        f"gpu uuid=GPU-a cc=8.0 memory={40 * GIB} mig=1 name=A100\n{slices}\n"
        f"gpu uuid=GPU-b cc=7.0 memory={16 * GIB} used={9 * GIB} name=V100\n"
        f"process pid={os.getpid()} used={8 * GIB}\n"
    )
    environ = {**os.environ, **nvml_stub.environment(config)}
    began = time.monotonic()
    asked = ask(environ, Sysroot())
    assert time.monotonic() - began < 1
    sample = asked.answer()
    found = now(sample, Sysroot(tmp_path), None, mixed_order=True)
    told = [(one.index, one.uuid, one.compute_capability, room(one) // GIB) for one in found.gpus]
    assert told == [(0, "MIG-0", "8.0", 20), (0, "MIG-1", "8.0", 19), (1, "GPU-b", "7.0", 7)]
    assert found.notes[0].startswith("GPU 0 (MIG-1): 1.1 GB in use")
    assert f"GPU 1 (V100): 9.7 GB in use by {Path('/proc/self/comm').read_text().strip()} ({os.getpid()}, 8.6 GB)" in (
        found.notes
    )
    assert "CUDA_DEVICE_ORDER" in found.notes[-1]
    assert [one.uuid for one in now(sample, Sysroot(tmp_path), "1,MIG-1").gpus] == ["GPU-b", "MIG-1"]
    hidden = now(sample, Sysroot(tmp_path), "-1")
    assert (hidden.gpus, hidden.missing) == ((), "CUDA_VISIBLE_DEVICES=-1 hides every GPU")
    assert "half upgraded" in (now(sample, Sysroot(tmp_path), None, state="mismatch").missing or "")


@pytest.mark.skipif(sys.platform != "linux", reason="Linux is missing: NVML's stand-in is built for it")
def test_a_driver_that_fails_or_hangs(nvml_stub: Any) -> None:
    for config, said in [
        ("init 9\n", "NVML says: Driver Not Loaded"),
        ("driver 580.65.06\n", "the NVIDIA driver shows no GPU"),
        ("hang nvmlDeviceGetCount_v2\n", "NVML did not answer within 1 s"),
        ("gpu uuid=GPU-a cc=8.0 memory=1 name=A\ncrash nvmlDeviceGetName\n", "NVML cannot be asked"),
    ]:
        asked = ask({**os.environ, **nvml_stub.environment(config)}, Sysroot())
        limit = 1.0 if "hang" in config else 20.0
        assert now(asked.answer(limit), Sysroot(), None).missing == said


def test_no_driver_is_answered_at_once(tmp_path: Path) -> None:
    found = now(ask({}, Sysroot(tmp_path)).answer(), Sysroot(tmp_path), None)
    assert found == Devices((), Device(None, "main memory", 0, None), "no NVIDIA driver is here")


def test_recorded_facts_tell_what_there_is_and_not_what_is_free() -> None:
    def of(host: str, shown: str | None = None) -> Devices:
        return recorded(decode_facts((HOSTS / host / "facts.json").read_bytes(), "facts"), CPU, shown)

    h200 = of("linux-x86_64__580.65.06__h200-sm90")
    assert [(one.total, one.free) for one in h200.gpus] == [(150754820096, None)] and h200.recorded
    assert 0.98 * h200.gpus[0].total <= room(h200.gpus[0]) < h200.gpus[0].total
    slices = of("linux-x86_64__580.65.06__h100-sm90__mig").gpus
    facts = json.loads((HOSTS / "linux-x86_64__580.65.06__h100-sm90__mig" / "facts.json").read_text())
    assert [(one.uuid, one.total) for one in slices] == [
        (one["uuid"], one["memory_total"]) for one in facts["gpus"][0]["mig"]["devices"]
    ]
    assert len(of("linux-x86_64__550.90.07__8xa100-sm80", "3,1").gpus) == 2
    assert "half upgraded" in (of("linux-x86_64__mismatch__nogpu").missing or "")
    assert of("linux-x86_64__absent__nogpu__glibc2.36").missing
    assert [room(one) for one in with_free(h200, GIB).gpus] == [GIB]
    assert room(with_free(of("linux-x86_64__absent__nogpu__glibc2.36"), 99 * GIB).cpu) == 99 * GIB


def test_a_container_has_the_memory_that_it_may_use(tmp_path: Path) -> None:
    for name, text in {
        "proc/meminfo": "MemTotal: 65536000 kB\nMemAvailable: 60000000 kB\n",
        "proc/self/cgroup": "0::/\n",
        "sys/fs/cgroup/memory.max": f"{8 * GIB}\n",
        "sys/fs/cgroup/memory.current": f"{3 * GIB}\n",
        "sys/fs/cgroup/memory.stat": f"inactive_file {GIB}\n",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    cpu = main_memory_device(Sysroot(tmp_path))
    assert cpu == Device(None, "main memory of this container", 8 * GIB, 6 * GIB)
    (tmp_path / "sys/fs/cgroup/memory.max").write_text("max\n")
    assert main_memory(Sysroot(tmp_path)) == (65536000 << 10, 60000000 << 10, False)
    assert now(Sample(), Sysroot(tmp_path), None).cpu.free == 60000000 << 10
