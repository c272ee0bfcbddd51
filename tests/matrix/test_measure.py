"""From wheels to rows."""

from __future__ import annotations

from datetime import date

import pytest

from bnbenv.errors import Failed
from bnbenv.matrix.measure import (
    arch_list,
    measure_bitsandbytes,
    measure_local_torch,
    measure_torch,
    python_key,
    triton_version,
    version_field,
    wheel_name,
)
from bnbenv.matrix.wheel import local_wheel

TORCH = "torch-2.8.0-cp311-cp311-manylinux_2_28_x86_64.whl"
VERSION_PY = (
    b"from typing import Optional\n__version__ = '2.8.0'\ncuda: Optional[str] = '12.8'\nhip: Optional[str] = None\n"
)
LIBRARY = b"\x01binary data sm_90\0with single names sm_70 sm_80 sm_90a compute_90\0and more"


@pytest.mark.parametrize(
    ("filename", "version", "pythons", "system", "machine", "libc"),
    [
        ("torch-2.15.0-cp313-cp313t-manylinux_2_28_aarch64.whl", "2.15.0", "cp313t", "linux", "aarch64", "2.28"),
        ("torch-2.0.0-1-cp310-cp310-manylinux2014_aarch64.whl", "2.0.0", "cp310", "linux", "aarch64", "2.17"),
        ("torch-2.6.0-cp39-cp39-manylinux1_x86_64.whl", "2.6.0", "cp39", "linux", "x86_64", "2.5"),
        ("torch-2.13.0+cpu-cp311-cp311-linux_x86_64.whl", "2.13.0+cpu", "cp311", "linux", "x86_64", None),
        ("torch-2.2.0-cp38-none-macosx_10_9_x86_64.whl", "2.2.0", "cp38", "macos", "x86_64", None),
        ("bitsandbytes-0.50.2-py3-none-macosx_14_0_arm64.whl", "0.50.2", "py3", "macos", "aarch64", None),
        ("bitsandbytes-0.50.2-py3-none-win_arm64.whl", "0.50.2", "py3", "windows", "aarch64", None),
        ("bitsandbytes-0.50.2-py3-none-win_amd64.whl", "0.50.2", "py3", "windows", "x86_64", None),
        ("bitsandbytes-0.42.0-py3-none-any.whl", "0.42.0", "py3", "linux", "x86_64", None),
        ("a-1-py3-none-manylinux2010_x86_64.manylinux_2_24_x86_64.whl", "1", "py3", "linux", "x86_64", "2.12"),
    ],
)
def test_what_a_file_name_says(filename, version, pythons, system, machine, libc):
    name = wheel_name(filename)
    assert (name.version, name.pythons) == (version, (pythons,))
    assert (name.os, name.machine, name.libc_tag) == (system, machine, libc)


def test_what_is_no_wheel_is_refused():
    with pytest.raises(Failed, match="no name of a wheel"):
        wheel_name("torch-2.0.tar.gz")


def test_python_tags_sort_by_version():
    assert sorted(["cp313t", "cp310", "cp39", "cp313", "py3"], key=python_key) == [
        "py3",
        "cp39",
        "cp310",
        "cp313",
        "cp313t",
    ]


@pytest.mark.parametrize(
    ("text", "cuda"),
    [
        ("cuda: Optional[str] = '12.8'\n", "12.8"),
        ("cuda = '11.7'\n", "11.7"),
        ('cuda: Optional[str] = "13.0"\n', "13.0"),
        ("cuda: Optional[str] = None\n", None),
        ("__all__ = ['cuda']\nnot_cuda = '1.0'\n", None),
    ],
)
def test_the_cuda_version_of_a_build(text, cuda):
    assert version_field(text, "cuda") == cuda


def test_the_arch_list_needs_no_nul_before_it_and_is_told_from_single_names():
    assert arch_list(LIBRARY, "lib") == ("sm_70", "sm_80", "sm_90a", "compute_90")
    assert arch_list(b"one target only: sm_90\0 and sm_90\0", "lib") == ("sm_90",)


@pytest.mark.parametrize("data", [b"", b"sm_80 sm_90\0sm_70 sm_75\0", b"sm_80\0sm_90\0"])
def test_no_list_or_several_are_refused(data):
    with pytest.raises(Failed) as caught:
        arch_list(data, "lib")
    assert caught.value.code == "bad-binary"


def test_triton_is_that_of_the_platform():
    requires = ['triton==3.4.0; platform_system == "Linux" and platform_machine == "x86_64"', "triton-extra==1"]
    assert triton_version(requires, "linux", "x86_64", ["cp311"]) == "3.4.0"
    assert triton_version(requires, "linux", "aarch64", ["cp311"]) is None
    assert triton_version(requires, "windows", "x86_64", ["cp311"]) is None
    only_old = ['triton==2.2.0; python_version < "3.12"']
    assert triton_version(only_old, "linux", "x86_64", ["cp312"]) is None
    assert triton_version(only_old, "linux", "x86_64", ["cp311", "cp312"]) == "2.2.0"
    assert triton_version(["triton~=3.8.0", "triton"], "linux", "x86_64", ["cp313t"]) == "3.8.0"


def torch_members(make_members, version_py=VERSION_PY, library=LIBRARY):
    metadata = "Requires-Python: >=3.9.0\n" + "Requires-Dist: triton==3.4.0\n" * 2
    members = make_members("torch", "2.8.0", metadata)
    return {**members, "torch/version.py": version_py, "torch/lib/libtorch_python.so": library}


def test_a_torch_wheel_gives_its_row(write_wheel, make_members):
    path = write_wheel(TORCH, torch_members(make_members))
    with local_wheel(path) as wheel:
        row = measure_torch(wheel, "default-index", ["cp313", "cp39", "cp310"])
    assert (row.version, row.source, row.os, row.machine) == ("2.8.0", "default-index", "linux", "x86_64")
    assert (row.cuda, row.arch_list) == ("12.8", ("sm_70", "sm_80", "sm_90a", "compute_90"))
    assert (row.pythons, row.libc_tag) == (("cp39", "cp310", "cp313"), "2.28")
    assert (row.requires_python, row.requires_dist, row.triton) == (">=3.9.0", ("triton==3.4.0",), "3.4.0")
    assert (row.path, row.sha256) == (None, None)
    assert (row.evidence.level, row.evidence.source) == ("measured", f"{TORCH} sha256:{wheel.sha256}")
    assert date.fromisoformat(row.evidence.date) <= date.today()


def test_a_local_wheel_is_a_row_of_its_own(write_wheel, make_members):
    cpu = b"__version__ = '2.8.0+cpu'\ncuda: Optional[str] = None\n"
    path = write_wheel("torch-2.8.0+cpu-cp311-cp311-linux_x86_64.whl", torch_members(make_members, cpu, b"unread"))
    row = measure_local_torch(path)
    assert (row.version, row.source, row.cuda, row.arch_list) == ("2.8.0+cpu", "local", None, ())
    assert (row.path, row.pythons) == (str(path), ("cp311",))
    assert row.sha256 and row.evidence.source.endswith(row.sha256)


def test_a_windows_build_is_read_from_its_dll(write_wheel, make_members):
    members = torch_members(make_members)
    members["torch/lib/torch_python.dll"] = members.pop("torch/lib/libtorch_python.so")
    row = measure_local_torch(write_wheel("torch-2.8.0+cu128-cp311-cp311-win_amd64.whl", members))
    assert (row.os, row.arch_list[0]) == ("windows", "sm_70")


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"torch/version.py": b"cuda = None\nhip: Optional[str] = '6.4.43482'\n"}, "not-cuda", "other GPUs"),
        ({"torch/version.py": b"cuda = None\nxpu: Optional[str] = '20250302'\n"}, "not-cuda", "other GPUs"),
        ({"torch/version.py": None}, "bad-wheel", "holds no torch/version.py"),
        ({"torch/lib/libtorch_python.so": None}, "bad-wheel", "holds none of"),
        ({"torch/lib/libtorch_python.so": b"nothing"}, "bad-binary", "holds 0 lists"),
        ({"torch-2.8.0.dist-info/METADATA": None}, "bad-wheel", "holds no METADATA"),
    ],
)
def test_a_torch_wheel_that_cannot_be_used_says_why(write_wheel, make_members, change, code, words):
    members = {**torch_members(make_members), **change}
    path = write_wheel(TORCH, {name: data for name, data in members.items() if data is not None})
    with pytest.raises(Failed, match=words) as caught:
        measure_local_torch(path)
    assert caught.value.code == code


def test_a_bitsandbytes_wheel_gives_a_row_with_its_libraries(write_wheel, make_members, binaries):
    b = binaries
    cuda = b.elf({".nv_fatbin": b.container(b.entry(b.CUBIN, 90))}, ("libcudart.so.12",), (("GLIBC_2.34", 0),))
    members = {
        **make_members("bitsandbytes", "0.50.2", "Requires-Python: >=3.10\nRequires-Dist: torch<3,>=2.4\n"),
        "bitsandbytes/libbitsandbytes_cuda128.so": cuda,
        "bitsandbytes/libbitsandbytes_cpu.so": b.elf(needed=("libgomp.so.1",)),
        "bitsandbytes/cextension.py": b"not looked at",
        "bitsandbytes/nested/libbitsandbytes_cuda999.so": b"not looked at",
    }
    path = write_wheel("bitsandbytes-0.50.2-py3-none-manylinux_2_24_x86_64.whl", members)
    with local_wheel(path) as wheel:
        row = measure_bitsandbytes(wheel)
    assert (row.version, row.os, row.machine, row.libc_tag) == ("0.50.2", "linux", "x86_64", "2.24")
    assert (row.size, row.sha256) == (path.stat().st_size, wheel.sha256)
    assert (row.requires_python, row.requires_dist) == (">=3.10", ("torch<3,>=2.4",))
    assert [(library.name, library.sass, library.glibc) for library in row.libraries] == [
        ("libbitsandbytes_cpu.so", (), None),
        ("libbitsandbytes_cuda128.so", ("sm_90",), "2.34"),
    ]
