"""Decoders of what a host says of itself."""

from __future__ import annotations

import json
import os

from bnbenv.cli.render.facts import render as show_facts
from bnbenv.cli.render.solve import render as show_answer
from bnbenv.errors import Failed, InputError, RebootRequired, UsageError
from bnbenv.facts import host, kernel, nvml, pythons, smi, toolkits
from bnbenv.facts.driver import Seen, is_wsl, judge
from bnbenv.facts.gpus import list_gpus
from bnbenv.facts.model import Driver, HostFacts, Platform, decode_facts, encode_facts
from bnbenv.facts.quick import differences, quick_facts
from bnbenv.solve.ahead import driver_change
from bnbenv.solve.model import Availability, Request
from bnbenv.solve.solver import solve
from bnbenv.verify.devices import default_selection, devices_for

from .oracle import Target
from .places import OneText, Says, finished, matrix, put, recorded, recorded_files, scratch, system_texts, text_of

FILE = "facts.json"
_NOTHING = nvml.NvmlAnswer(failure=nvml.CallError("nvmlInit", 999, "Unknown Error"))


def _facts(data: bytes) -> None:
    facts = decode_facts(data, FILE)
    assert decode_facts(encode_facts(facts), FILE) == facts


def _facts_used(data: bytes) -> None:
    facts = decode_facts(data, FILE)
    assert show_facts(json.loads(encode_facts(facts)))
    for request in (Request(), Request(gpus=("0",), driver="580.65.06", prefer="minimal-change")):
        answer = solve(facts, matrix(), request)
        change = driver_change(facts, matrix(), request, Availability(), answer)
        assert show_answer({**answer.document(), "driver_change": change})


def _quick(data: bytes) -> None:
    file = put(FILE, data)
    found = quick_facts({"BNBENV_FACTS": str(file)}, OneText("", scratch()))
    put("other.json", recorded_files()[0])
    before = quick_facts({"BNBENV_FACTS": str(scratch() / "other.json")}, OneText("", scratch()))
    assert all(isinstance(line, str) for line in differences(before.fingerprint, found.fingerprint))


def _driver_and_gpus(seen: Seen) -> None:
    """As the probe makes facts of what was seen: they can be written down, and read again."""
    driver, gaps = judge(seen)
    gpus, more = list_gpus(seen, (kernel.KernelGpu("0000:01:00.0", None, None),), 1 << 30, False)
    text = encode_facts(HostFacts(Platform("linux", "x86_64"), driver, gpus, unknown=(*gaps, *more)))
    try:
        decode_facts(text, FILE)
    except InputError as error:
        raise AssertionError(f"facts that were probed cannot be read: {error}") from None


def _smi(data: bytes) -> None:
    text = text_of(data)
    for fields in (smi.FIELDS, tuple(name for name in smi.FIELDS if name != "compute_cap")):
        answer = smi.parse_query(text, fields)
        if answer.gpus:
            _driver_and_gpus(Seen(_NOTHING, smi=answer))


def _nvml(data: bytes) -> None:
    answer = nvml.read_answer(finished(text_of(data)))
    assert nvml.read_answer(finished(text_of(data), returncode=1)).failure is not None
    _driver_and_gpus(Seen(answer, module="580.65.06", library=True, library_file="580.65.06", pci=1))


def _kernel(data: bytes) -> None:
    text = text_of(data)
    version = kernel.parse_module_version(text)
    kernel.parse_gpu_information("0000:01:00.0", text)
    assert nvml.userland_version(version) in (version, None) or version is not None


def _system(data: bytes) -> None:
    """Everything that is read below a system's root, where each small file holds this text."""
    text = text_of(data)
    put("root/etc/ld.so.cache", data)
    system = OneText(text, scratch() / "root")
    environ = {"container": text.split("\n")[0].replace("\0", "")}
    port = host.HostPort("linux", "x86_64", text)
    platform, gaps = host.read_platform(environ, system, Says(stderr=text), port)
    host.jetson_gpu(system)
    is_wsl(system)
    seen = Seen.read(environ, system, _NOTHING)
    found = quick_facts(environ, system, "linux")
    assert all(isinstance(value, str) for value in found.fingerprint.values())
    facts = HostFacts(platform, judge(seen)[0], (), unknown=gaps)
    assert decode_facts(encode_facts(facts), FILE).driver == facts.driver


def _words(data: bytes) -> None:
    text = text_of(data)
    host.parse_glibc(text)
    host.parse_musl(text)
    host.parse_l4t(text)
    host.tegra_kernel(text)
    toolkits.parse_nvcc(text)
    nvml.userland_version(text)


def _toolkits(data: bytes) -> None:
    folder = put("cuda/bin/nvcc", data).parent
    (folder / "nvcc").chmod(0o755)
    put("cuda/version.json", data)
    environ = {"CUDA_HOME": str(folder.parent), "PATH": str(folder)}
    found, _ = toolkits.find_toolkits(environ, OneText("", scratch() / "root"), Says(text_of(data)))
    assert found[0].path == os.path.realpath(folder.parent)


def _pythons(data: bytes) -> None:
    found, gaps = pythons.find_pythons({}, Says(text_of(data)), None, "linux")
    facts = HostFacts(Platform("linux", "x86_64"), Driver("absent"), (), found, unknown=gaps)
    try:
        facts = decode_facts(encode_facts(facts), FILE)
    except InputError as error:
        raise AssertionError(f"facts that were probed cannot be read: {error}") from None
    solve(facts, matrix(), Request())


def _devices(data: bytes) -> None:
    words = data.decode("utf-8", "surrogateescape").split("\n")
    facts = recorded("linux-x86_64__580.65.06__h100-sm90__mig")
    for selection in (words, default_selection(facts, {"CUDA_VISIBLE_DEVICES": words[0]})):
        devices_for(facts, selection)


def _nvml_seeds() -> tuple[bytes, ...]:
    device = {"index": 0, "uuid": "GPU-1", "name": "NVIDIA H200", "capability": "9.0", "memory": 150754820096}
    part = {"uuid": "MIG-1", "name": None, "memory_total": 10737418240}
    failed = {"call": "nvmlDeviceGetMemoryInfo", "code": 3, "text": "Not Supported"}
    answer = {"driver": "580.65.06", "library": "13.580.65.06", "cuda": 13000, "library_path": "/l/libnvidia-ml.so.1"}
    documents = (
        {**answer, "devices": [device], "errors": []},
        {**answer, "devices": [{**device, "mig": {"mode": "enabled", "devices": [part]}}], "errors": [failed]},
        {**answer, "devices": [{"index": 1, "errors": [failed]}], "errors": []},
        {"failure": {"call": "nvmlInit", "code": 18, "text": "Driver/library version mismatch"}},
    )
    return tuple(json.dumps(document).encode() for document in documents)


def _python_seeds() -> tuple[bytes, ...]:
    row = {"key": "cpython-3.12.4", "version": "3.12.4", "path": "/usr/bin/python3.12", "implementation": "cpython"}
    row |= {"arch": "x86_64", "variant": "default", "version_parts": {"major": 3}}
    other = {**row, "version": "3.14.0rc2", "path": "/opt/py/bin/python3", "variant": "freethreaded"}
    return json.dumps([row, other]).encode(), json.dumps([{**row, "path": None}]).encode()


_SMI = (
    b"0, GPU-5cf95ad3-d42a-52eb-8da9-10e271728287, NVIDIA A100 80GB PCIe, 8.0, 81920, 535.183.01\n",
    b"0, GPU-1, NVIDIA GeForce GTX 970, 5.2, 4096, 535.183.01\n1, GPU-2, Tesla T4, 7.5, [N/A], 535.183.01\n",
    b'0, GPU-3, "Quadro ""x"", 4", 470.256.02\n',
)
_WORDS = (
    b"glibc 2.36",
    b"stable 2.41",
    b"musl libc (x86_64)\nVersion 1.2.5\nDynamic Program Loader\n",
    b"# R36 (release), REVISION: 4.0, GCID: 37537400, BOARD: generic, EABI: aarch64, DATE: Fri Sep 13 2024\n",
    b"Linux version 5.15.148-tegra (buildbrain@mobile-u64) #1 SMP PREEMPT\n",
    b"Linux version 5.15.167.4-microsoft-standard-WSL2 (root@f9c826d3017f)\n",
    b"nvcc: NVIDIA (R) Cuda compiler driver\nCuda compilation tools, release 12.8, V12.8.93\nBuild cuda_12.8.r12.8\n",
    b"12.535.104.05",
    b"MemTotal:       131072000 kB\nMemFree: 1 kB\n",
    b"nvidia,p3737-0000+p3701-0005\0nvidia,tegra234\0",
    b"0::/system.slice/docker-0af.scope\n",
    b"\0/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1\0libc.so.6\0/lib/libc.so.6\0",
)
_TOOLKITS = (
    b'{"cuda": {"version": "12.8.1"}, "cuda_nvcc": {"name": "CUDA NVCC", "version": "12.8.93"}}',
    b'#!/bin/sh\nexec /usr/lib/nvidia-cuda-toolkit/bin/nvcc "$@"\n',
    _WORDS[6],
)

TARGETS = (
    Target("facts", "json", _facts, recorded_files, (InputError,), FILE),
    Target("facts-used", "json", _facts_used, recorded_files, (InputError, RebootRequired), FILE, slow=True),
    Target("facts-quick", "json", _quick, recorded_files, (InputError,), str(scratch() / FILE)),
    Target("nvidia-smi", "text", _smi, lambda: _SMI),
    Target("nvml-answer", "json", _nvml, _nvml_seeds),
    Target("kernel-texts", "text", _kernel, lambda: (*system_texts(), *_WORDS)),
    Target("system-texts", "text", _system, lambda: (*_WORDS, *system_texts()), slow=True),
    Target("version-texts", "text", _words, lambda: _WORDS),
    Target("toolkits", "text", _toolkits, lambda: _TOOLKITS),
    Target("pythons", "json", _pythons, _python_seeds, slow=True),
    Target("devices", "text", _devices, lambda: (b"all", b"0\ncpu", b"GPU-", b"cpu"), (UsageError, Failed)),
)
