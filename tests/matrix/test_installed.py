"""torch and bitsandbytes measured where they lie, as each distributor lays them out; nothing is imported."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from bnbenv.errors import Failed
from bnbenv.matrix.installed import read_installed_bitsandbytes, read_installed_torch
from bnbenv.matrix.load import load_matrix
from bnbenv.matrix.model import NativeLibrary

Lay = Callable[[str, Mapping[str, bytes]], Path]


@pytest.fixture
def lay(tmp_path: Path) -> Lay:
    """Writes files below a folder and returns it: ``lay("lib/python3.12/site-packages", {...})``."""

    def write(folder: str, files: Mapping[str, bytes]) -> Path:
        for name, data in files.items():
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return tmp_path / folder

    return write


def version_py(version: str, cuda: str | None, **more: str) -> bytes:
    lines = [f"__version__ = '{version}'", f"cuda: Optional[str] = {cuda!r}", "hip: Optional[str] = None"]
    return "\n".join([*lines, *(f"{name}: Optional[str] = {value!r}" for name, value in more.items())]).encode()


def metadata(name: str, version: str, *requires: str) -> bytes:
    lines = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}", *(f"Requires-Dist: {one}" for one in requires)]
    return "\n".join(lines).encode()


ARCHS = b"sm_80 sm_90 sm_120 compute_120\0"


def test_a_torch_from_the_package_index(lay: Lay, binaries: Any) -> None:
    library = binaries.elf() + ARCHS
    site = lay(
        "venv/lib/python3.12/site-packages",
        {
            "torch/version.py": version_py("2.9.1+cu128", "12.8"),
            "torch/lib/libtorch_python.so": library,
            "torch/_C.cpython-313t-x86_64-linux-gnu.so": b"",
            "torch-2.9.1+cu128.dist-info/METADATA": metadata("torch", "2.9.1", "filelock", "triton==3.5.1"),
        },
    )
    build = read_installed_torch(site)
    assert build is not None
    digest = hashlib.sha256(library).hexdigest()
    assert (build.version, build.source, build.cuda, build.os, build.machine) == (
        ("2.9.1+cu128", "existing", "12.8", "linux", "x86_64")
    )
    assert build.arch_list == ("sm_80", "sm_90", "sm_120", "compute_120")
    assert build.pythons == ("cp313t",)  # its own extension module knows better than a folder's name
    assert (build.requires_dist, build.triton) == (("filelock", "triton==3.5.1"), "3.5.1")
    assert (build.path, build.sha256) == (str(site / "torch"), digest)
    assert (build.evidence.level, build.evidence.source) == (
        "measured",
        f"{site}/torch/lib/libtorch_python.so sha256:{digest}",
    )


def test_a_torch_of_a_container_without_metadata(lay: Lay, binaries: Any) -> None:
    """NGC: a version of its own, dist-packages, a triton of its own."""
    site = lay(
        "usr/local/lib/python3.12/dist-packages",
        {
            "torch/version.py": version_py("2.8.0a0+5228986c39.nv25.05", "12.9"),
            "torch/lib/libtorch_python.so": binaries.elf() + ARCHS,
            "pytorch_triton-3.3.0+git.dist-info/METADATA": metadata("pytorch-triton", "3.3.0+git96316ce52.nvinternal"),
        },
    )
    build = read_installed_torch(site)
    assert build is not None
    assert (build.version, build.pythons, build.requires_dist) == ("2.8.0a0+5228986c39.nv25.05", ("cp312",), ())
    assert build.triton == "3.3.0+git96316ce52.nvinternal"


def test_a_torch_of_conda_whose_library_lies_in_the_prefix(lay: Lay, binaries: Any) -> None:
    site = lay(
        "conda/lib/python3.11/site-packages",
        {
            "torch/version.py": version_py("2.7.1.post1", "12.6"),
            "torch-2.7.1.post1-py3.11.egg-info/PKG-INFO": metadata("torch", "2.7.1.post1", "sympy"),
        },
    )
    lay("conda/lib", {"libtorch_python.so": binaries.elf() + b"sm_87\0"})
    build = read_installed_torch(site)
    assert build is not None
    assert (build.version, build.arch_list, build.requires_dist) == ("2.7.1.post1", ("sm_87",), ("sympy",))


def test_a_torch_built_in_a_source_tree(lay: Lay, binaries: Any) -> None:
    source = lay(
        "src/pytorch",
        {
            "torch/version.py": version_py("2.10.0a0+git1234567", "13.0"),
            "torch/lib/libtorch_python.so": binaries.elf() + b"sm_90a\0",
            "torch/_C.cpython-312-x86_64-linux-gnu.so": b"",
        },
    )
    pth = f"# a remark\nimport sys; sys.path\n/nowhere\n{source}\n".encode()
    build = read_installed_torch(lay("venv/lib/python3.12/site-packages", {"easy-install.pth": pth}))
    assert build is not None
    assert (build.version, build.arch_list, build.path) == ("2.10.0a0+git1234567", ("sm_90a",), str(source / "torch"))


def test_a_torch_on_windows_and_one_for_the_cpu(lay: Lay, binaries: Any) -> None:
    site = lay(
        "win/Lib/site-packages",
        {
            "torch/version.py": version_py("2.9.1+cu130", "13.0"),
            "torch/lib/torch_python.dll": binaries.pe() + ARCHS,
            "torch/_C.cp312-win_amd64.pyd": b"",
        },
    )
    build = read_installed_torch(site)
    assert build is not None
    assert (build.os, build.machine, build.pythons) == ("windows", "x86_64", ("cp312",))
    mac = lay(
        "mac/lib/python3.12/site-packages",
        {
            "torch/version.py": version_py("2.9.1", None),
            "torch/_C.cpython-312-darwin.so": b"\xcf\xfa\xed\xfe\x0c\0\0\x01" + bytes(24),
        },
    )
    build = read_installed_torch(mac)
    assert build is not None
    assert (build.os, build.machine, build.cuda, build.arch_list) == ("macos", "aarch64", None, ())


def test_no_torch_and_torches_that_cannot_be_kept(lay: Lay, binaries: Any) -> None:
    library = binaries.elf() + ARCHS
    for name, files, code in [
        ("none", {"torch/__pycache__/x.pyc": b""}, None),
        ("rocm", {"torch/version.py": version_py("2.9.1+rocm6.4", None, rocm="6.4.4")}, "not-cuda"),
        ("nameless", {"torch/version.py": b"cuda = '12.8'\n"}, "bad-torch"),
        ("odd", {"torch/version.py": version_py("main", "12.8")}, "bad-torch"),
        ("bare", {"torch/version.py": version_py("2.9.1", "12.8"), "torch/_C.cpython-312-x.so": library}, "bad-torch"),
        ("pythonless", {"torch/version.py": version_py("2.9.1", "12.8")}, "bad-torch"),
        (
            "cut",
            {
                "torch/version.py": version_py("2.9.1", "12.8"),
                "torch/lib/libtorch_python.so": library[:20],
                "torch/_C.cpython-312-x.so": b"",
            },
            "bad-binary",
        ),
    ]:
        site = lay(name, files)
        if code is None:
            assert read_installed_torch(site) is None
            continue
        with pytest.raises(Failed) as caught:
            read_installed_torch(site)
        assert caught.value.code == code, name
    assert read_installed_torch(site / "nowhere") is None


def test_bitsandbytes_from_a_wheel_and_built_from_source(lay: Lay, binaries: Any) -> None:
    b = binaries
    cuda = b.elf({".nv_fatbin": b.container(b.entry(b.CUBIN, 90))}, versions=(("GLIBC_2.34", 0),))
    files = {
        "bitsandbytes/__init__.py": b'__version__ = "0.51.0.dev0"\n',
        "bitsandbytes/libbitsandbytes_cuda128.so": cuda,
        "bitsandbytes/libbitsandbytes_cpu.so": b.elf(),
        "bitsandbytes/functional.py": b"",
    }
    built = read_installed_bitsandbytes(lay("built", files))
    assert built is not None
    assert (built.version, built.requires_dist, built.libc_tag) == ("0.51.0.dev0", (), None)
    assert built.libraries == (
        NativeLibrary("libbitsandbytes_cpu.so", "cpu"),
        NativeLibrary("libbitsandbytes_cuda128.so", "cuda", ("sm_90",), glibc="2.34"),
    )
    named = metadata("bitsandbytes", "0.50.2", "torch<3,>=2.4")
    wheel = read_installed_bitsandbytes(lay("wheel", {**files, "bitsandbytes-0.50.2.dist-info/METADATA": named}))
    assert wheel is not None
    assert (wheel.version, wheel.requires_dist) == ("0.50.2", ("torch<3,>=2.4",))
    assert wheel.sha256 == built.sha256  # of the binaries, whatever stands around them
    other = read_installed_bitsandbytes(lay("built", {"bitsandbytes/libbitsandbytes_cpu.so": b.elf() + b"x"}))
    assert other is not None and other.sha256 != built.sha256


def test_a_bitsandbytes_that_is_none(lay: Lay, binaries: Any) -> None:
    init = {"bitsandbytes/__init__.py": b'__version__ = "0.50.2"'}
    assert read_installed_bitsandbytes(lay("none", {"torch/version.py": b""})) is None
    for name, files, words in [
        ("unnamed", {"bitsandbytes/__init__.py": b""}, "which version"),
        ("empty", init, "holds no native library"),
        (
            "mixed",
            {
                **init,
                "bitsandbytes/libbitsandbytes_cpu.so": binaries.elf(),
                "bitsandbytes/libbitsandbytes_cuda128.dll": binaries.pe(),
            },
            "several platforms",
        ),
    ]:
        with pytest.raises(Failed, match=words) as caught:
            read_installed_bitsandbytes(lay(name, files))
        assert caught.value.code == "bad-bitsandbytes"


@pytest.mark.real
def test_the_real_ones_are_what_was_published(synced: Any) -> None:
    """The libraries as installed say what the matrix says of the wheel, and torch is the one of the lock."""
    (site,) = (synced.root / ".venv-bnb" / "lib").glob("python*/site-packages")
    row = read_installed_bitsandbytes(site)
    assert row is not None
    published = [
        one
        for one in load_matrix().bitsandbytes
        if (one.version, one.os, one.machine) == (row.version, row.os, row.machine)
    ]
    assert [one.libraries for one in published] == [row.libraries]
    build = read_installed_torch(site)
    assert build is not None
    choice = synced.first["lock"].document["locks"][0]["choice"]
    assert (build.version, build.cuda, build.source) == (choice["torch"]["version"], None, "existing")
    assert build.pythons == (f"cp{choice['python'].replace('.', '')}",)
    assert build.machine == os.uname().machine
