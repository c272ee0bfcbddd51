"""Every text parser: the real samples, and garbage, which is never an exception."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnbenv.facts import host, kernel, nvml, pythons, smi, toolkits
from bnbenv.facts.model import Libc

OPEN_MODULE = (
    "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (dvs-builder@U22)  Sun Jul\n"
    "GCC version:  gcc version 12.3.0 (Ubuntu 12.3.0-1ubuntu1~22.04)\n"
)
CLOSED_MODULE = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\n"
NVCC = "nvcc: NVIDIA (R) Cuda compiler driver\nCuda compilation tools, release 12.8, V12.8.93\nBuild cuda_12.8.r12.8\n"
L4T = "# R36 (release), REVISION: {}, GCID: 37537400, BOARD: generic, EABI: aarch64, DATE: Fri Sep 13 2024\n"


@pytest.mark.parametrize(("text", "version"), [(OPEN_MODULE, "580.65.06"), (CLOSED_MODULE, "535.104.05")])
def test_kernel_module_version(text: str, version: str) -> None:
    assert kernel.parse_module_version(text) == version


def test_a_gpu_that_the_driver_was_told_to_leave_alone_is_left_out() -> None:
    assert kernel.parse_gpu_information("b", "Model: A100\nGPU UUID: GPU-1\nGPU Excluded: Yes\n") is None
    assert kernel.parse_gpu_information("b", "Model: A100\nGPU UUID: GPU-1\n") == kernel.KernelGpu("b", "A100", "GPU-1")


@pytest.mark.parametrize(
    ("text", "version"),
    [("12.535.104.05", "535.104.05"), ("13.580.65.06", "580.65.06"), ("580.65.06", "580.65.06"), (None, None)],
)
def test_the_driver_version_in_nvmls_own(text: str | None, version: str | None) -> None:
    assert nvml.userland_version(text) == version


@pytest.mark.parametrize(("revision", "release"), [("4.0", "36.4"), ("4.3", "36.4.3"), ("2", "36.2")])
def test_l4t_release(revision: str, release: str) -> None:
    assert host.parse_l4t(L4T.format(revision)) == (36, release)


@pytest.mark.parametrize(
    ("release", "major"),
    [("5.15.148-tegra", 36), ("5.10.216-tegra", 35), ("6.8.12-tegra", None), ("5.15.0-91-generic", None)],
)
def test_the_l4t_major_of_a_kernel(release: str, major: int | None) -> None:
    assert host.tegra_kernel(f"Linux version {release} (buildbrain)") == major


def test_libc_versions() -> None:
    assert host.parse_glibc("glibc 2.36") == Libc("glibc", "2.36")
    assert host.parse_musl("musl libc (x86_64)\nVersion 1.2.5\nDynamic Program Loader\n") == Libc("musl", "1.2.5")


def test_nvcc_versions() -> None:
    assert toolkits.parse_nvcc(NVCC) == "12.8.93"
    assert toolkits.parse_version_json('{"cuda_nvcc": {"name": "CUDA NVCC", "version": "13.0.88"}}') == "13.0.88"


def test_nvidia_smi_rows() -> None:
    answer = smi.parse_query("0, GPU-1, NVIDIA H200, 9.0, 143771, 580.65.06\n\ngarbage\n1, , [N/A], N/A, [N/A], \n")
    assert answer.driver == "580.65.06"
    assert answer.gpus[0] == smi.SmiGpu(0, "GPU-1", "NVIDIA H200", "9.0", 143771 << 20)
    assert answer.gpus[1] == smi.SmiGpu(1, None, None, None, None)


words = st.text(max_size=200) | st.binary(max_size=200).map(lambda data: data.decode("utf-8", "replace"))
pieces = st.sampled_from(
    ["NVRM version: ", "580.65.06", "Model:", "GPU UUID:", "GPU-?", "\n", ", ", "0", "9.0", "[N/A]", "# R36 (release)",
     ", REVISION: ", "release 12.8, V", "12.", "musl libc", "\nVersion ", "MemTotal: ", '"', "{", "[", "\0", "٣"]
)  # fmt: skip
garbage = words | st.lists(pieces | words, max_size=12).map("".join)


@settings(max_examples=60, deadline=None)
@given(garbage)
def test_garbage_is_nothing_or_a_value_of_the_right_shape(text: str) -> None:
    version = kernel.parse_module_version(text)
    assert version is None or version.replace(".", "").isdigit()
    assert nvml.userland_version(text) is None or text[0].isdigit()
    gpu = kernel.parse_gpu_information("0000:01:00.0", text)
    assert gpu is None or gpu.uuid is None or "?" not in gpu.uuid
    release = host.parse_l4t(text)
    assert release is None or release[1].startswith(str(release[0]))
    assert host.tegra_kernel(text) in (None, 32, 35, 36)
    for libc in (host.parse_glibc(text), host.parse_musl(text)):
        assert libc is None or libc.version[0].isdigit()
    for found in (toolkits.parse_nvcc(text), toolkits.parse_version_json(text)):
        assert found is None or found[0].isdigit()
    for row in smi.parse_query(text).gpus:
        assert row.index >= 0 and (row.memory is None or row.memory >= 0)
    assert all(python.version[0].isdigit() for python in pythons.parse_list(text))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(words.filter(lambda text: "," not in text), min_size=6, max_size=6), max_size=4))
def test_garbage_in_the_cells_of_nvidia_smi(rows: list[list[str]]) -> None:
    for gpu in smi.parse_query("\n".join(", ".join(row) for row in rows)).gpus:
        assert gpu.capability is None or gpu.capability.replace(".", "").isdecimal()


json_rows = st.recursive(st.none() | st.booleans() | st.integers() | words, lambda inner: st.lists(inner, max_size=3))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from(["path", "version", "implementation", "arch", "variant"]), json_rows)))
def test_garbage_in_uvs_rows(rows: list[dict[str, object]]) -> None:
    for row in rows:
        row["implementation"] = "cpython"
    assert all(python.version[0].isdigit() for python in pythons.parse_list(json.dumps(rows)))
