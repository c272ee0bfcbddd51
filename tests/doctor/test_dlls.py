"""The DLLs that Windows would find, on a recorded tree: names and import tables, no code."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from bnbenv.doctor.examine.linker import Process, resolve
from bnbenv.doctor.model import Linked, Torch
from bnbenv.facts.model import Driver, HostFacts, Platform
from bnbenv.paths import Sysroot

WINDOWS = HostFacts(Platform("windows", "x86_64"), Driver("ok", version="580.88"), ())
LIBRARY = "site-packages/bitsandbytes/libbitsandbytes_cuda128.dll"


def dll(*imports: str) -> bytes:
    """A DLL that imports others."""
    address, place = 0x1000, 0x1000 + 20 * (len(imports) + 1)
    table, names = b"", b""
    for name in imports:
        table += struct.pack("<IIIII", 1, 0, 0, place + len(names), 1)
        names += name.encode() + b"\0"
    content = table + bytes(20) + names
    optional = struct.pack("<H", 0x20B).ljust(120, b"\0") + struct.pack("<II", address, len(table) + 20)
    coff = struct.pack("<4sHHIIIHH", b"PE\0\0", 0x8664, 1, 0, 0, 0, len(optional), 0x2022)
    head = b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", 0x40) + coff + optional
    section = struct.pack("<8sIIIIIIHHI", b".rdata", len(content), address, len(content), len(head) + 40, 0, 0, 0, 0, 0)
    return head + section + content


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A Windows with Python, torch for CUDA 12.8, bitsandbytes, and the Microsoft runtime but for one of its files."""
    runtime = ("KERNEL32.dll", "VCRUNTIME140.dll", "MSVCP140.dll", "api-ms-win-crt-heap-l1-1-0.dll")
    files = {
        LIBRARY: dll("cublas64_12.dll", "cublasLt64_12.dll", "helper.dll", *runtime),
        "site-packages/bitsandbytes/helper.dll": dll("VCRUNTIME140_1.dll", "kernel32.dll"),
        "site-packages/torch/lib/cublas64_12.dll": dll(),
        "python/python.exe": b"",
        "python/vcruntime140.dll": dll(),
        "root/C:/Windows/System32/kernel32.dll": dll(),
        "root/C:/Windows/System32/msvcp140.dll": dll(),
        "cuda/bin/cublasLt64_12.dll": dll(),
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    return tmp_path


def found(tree: Path, torch: bool = True, **environ: str) -> dict[str, Linked]:
    process = Process(
        facts=WINDOWS,
        environ=environ,
        sysroot=Sysroot(tree / "root"),
        python=str(tree / "python/python.exe"),
        prefix=str(tree / "python"),
        search=(str(tree / "site-packages"),),
        torch=Torch(path=str(tree / "site-packages/torch"), version="2.9.0+cu128", cuda="12.8") if torch else None,
    )
    return {one.soname: one for one in resolve(tree / LIBRARY, process).linked}


def test_the_folders_in_which_windows_looks(tree: Path) -> None:
    by_name = found(tree)
    assert {name: (one.answer, one.via) for name, one in by_name.items()} == {
        "cublas64_12.dll": ("yes", "loaded"),
        "cublasLt64_12.dll": ("no", None),
        "helper.dll": ("yes", "windows"),
        "KERNEL32.dll": ("yes", "windows"),
        "VCRUNTIME140.dll": ("yes", "windows"),
        "MSVCP140.dll": ("yes", "windows"),
        "api-ms-win-crt-heap-l1-1-0.dll": ("yes", "windows"),
        "VCRUNTIME140_1.dll": ("no", None),  # what lies beside the library needs it
    }
    assert by_name["VCRUNTIME140_1.dll"].needed_by.endswith("helper.dll")


def test_path_is_not_looked_at_and_that_is_said(tree: Path) -> None:
    one = found(tree, PATH=f"/nowhere;{tree / 'cuda/bin'}")["cublasLt64_12.dll"]
    assert one.answer == "no" and f"it is in {tree / 'cuda/bin'} of PATH" in one.because


def test_without_a_torch_a_missing_dll_is_unknown(tree: Path) -> None:
    assert found(tree, torch=False)["cublas64_12.dll"].answer == "unknown"


def test_a_library_that_cannot_be_read_needs_nothing(tree: Path) -> None:
    (tree / LIBRARY).write_bytes(b"MZ")
    assert found(tree) == {}
