"""The native libraries of a bitsandbytes as they lie, whole and damaged."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from bnbenv.doctor.examine.libraries import read_bitsandbytes
from bnbenv.facts.model import Platform

LINUX = Platform("linux", "x86_64")


@pytest.fixture(scope="module")
def package(synced: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the libraries of a real one; files are replaced, never written through."""
    (source,) = synced.root.glob(".venv-bnb/lib/python3*/site-packages/bitsandbytes")
    target = tmp_path_factory.mktemp("package") / "bitsandbytes"
    target.mkdir()
    for path in [source / "__init__.py", *source.glob("libbitsandbytes_*.so")]:
        os.link(path, target / path.name)
    return target


def replaced(folder: Path, name: str, content: bytes) -> None:
    (folder / name).unlink()
    (folder / name).write_bytes(content)


@pytest.mark.real
def test_each_library_of_a_real_one_is_measured_and_damage_is_named(package: Path, tmp_path: Path) -> None:
    found = read_bitsandbytes(package, "9.9", LINUX)
    assert (found.version, found.fault) == ("9.9", None) and found.own_version and found.own_version[0].isdigit()
    libraries = {one.name: one for one in found.libraries}
    assert set(libraries) == {path.name for path in package.glob("*.so")} and len(libraries) > 3
    assert {one.fault for one in found.libraries} == {None}
    cuda = libraries["libbitsandbytes_cuda126.so"]
    assert (cuda.backend, cuda.cuda) == ("cuda", "12.6") and "sm_90" in cuda.sass and cuda.glibc and cuda.glibcxx
    assert (libraries["libbitsandbytes_cpu.so"].backend, libraries["libbitsandbytes_cpu.so"].sass) == ("cpu", ())

    broken = tmp_path / "bitsandbytes"
    shutil.copytree(package, broken, copy_function=os.link)
    whole = (package / "libbitsandbytes_cpu.so").read_bytes()
    replaced(broken, "libbitsandbytes_cuda118.so", b"")
    replaced(broken, "libbitsandbytes_cuda126.so", (package / "libbitsandbytes_cuda126.so").read_bytes()[:1_000_000])
    replaced(broken, "libbitsandbytes_cuda128.so", b"a text in the place of a library\n")
    replaced(broken, "libbitsandbytes_cpu.so", whole[:18] + b"\xb7\0" + whole[20:])  # AArch64
    (broken / "libbitsandbytes_cuda124.so").unlink()
    (broken / "libbitsandbytes_cuda124.so").symlink_to("nowhere")
    faults = {one.name: one.fault or "" for one in read_bitsandbytes(broken, None, LINUX).libraries if one.fault}
    assert set(faults) == {
        "libbitsandbytes_cuda118.so", "libbitsandbytes_cuda126.so", "libbitsandbytes_cuda128.so",
        "libbitsandbytes_cuda124.so", "libbitsandbytes_cpu.so",
    }  # fmt: skip
    assert "is empty" in faults["libbitsandbytes_cuda118.so"]
    assert "damaged" in faults["libbitsandbytes_cuda126.so"]
    assert "no ELF" in faults["libbitsandbytes_cuda128.so"]
    assert "cannot be read" in faults["libbitsandbytes_cuda124.so"]
    assert faults["libbitsandbytes_cpu.so"] == "libbitsandbytes_cpu.so is for Linux aarch64"


def test_a_package_without_libraries_says_so(tmp_path: Path) -> None:
    missing = read_bitsandbytes(tmp_path / "bitsandbytes")
    assert missing.fault is not None and "cannot be read" in missing.fault
    (tmp_path / "__init__.py").write_text('__version__ = "0.44.1"\n')
    found = read_bitsandbytes(tmp_path)
    assert (found.own_version, found.libraries, found.fault) == ("0.44.1", (), "it holds no native library")


def test_a_library_of_another_system_is_at_fault_here(tmp_path: Path) -> None:
    """As in wheels through 0.42, which hold Linux libraries whatever the system."""
    (tmp_path / "__init__.py").write_text("")
    (tmp_path / "libbitsandbytes_cpu.dylib").write_bytes(b"\xcf\xfa\xed\xfe\x0c\x00\x00\x01" + bytes(64))
    (one,) = read_bitsandbytes(tmp_path, None, LINUX).libraries
    assert one.fault == "libbitsandbytes_cpu.dylib is for macOS aarch64"
    (same,) = read_bitsandbytes(tmp_path, None, Platform("macos", "aarch64")).libraries
    assert same.fault is None
