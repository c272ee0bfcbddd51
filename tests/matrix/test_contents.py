"""What wheels, folders and single libraries of any project hold, within bounds of time and memory."""

from __future__ import annotations

import os
import struct
import time
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import pytest

from bnbenv.errors import BnbenvError, Failed, InputError, SourceUnreachable
from bnbenv.matrix.contents import read_file, read_folder, read_url
from bnbenv.matrix.fatwheel import FatWheel
from bnbenv.matrix.found import FoundLibrary, Unreadable
from bnbenv.matrix.index import index_session

NAME = "kernels-2.1-cp312-abi3-manylinux_2_28_x86_64.whl"


def quiet(text: str) -> None:
    """Tells nobody."""


def library(b: Any, *archs: int, needed: tuple[str, ...] = ("libcudart.so.12",), payload: bytes = bytes(8)) -> bytes:
    section = b.container(*(b.entry(b.CUBIN, arch, payload=payload) for arch in archs))
    return bytes(b.elf({".nv_fatbin": section}, needed, (("GLIBC_2.28", 0), ("GLIBCXX_3.4.29", 0))))


def members(b: Any, make_members: Any) -> dict[str, bytes]:
    return {
        **make_members("kernels", "2.1", "Requires-Python: >=3.10\nRequires-Dist: torch==2.9.1\n"),
        "kernels/_C.abi3.so": library(b, 80, 90),
        "kernels/lib/libextra.so.3": library(b, 120, needed=("libc.so.6",)),
        "kernels/plain.cpython-312-x86_64-linux-gnu.so": b.elf(needed=("libc.so.6",)),
        "kernels/rocm.so": b.elf(needed=("libamdhip64.so.6",)),
        "kernels/script.so": b"INPUT(libextra.so.3)\n",
        "kernels/__init__.py": b"",
    }


def test_a_wheel_of_another_project(binaries: Any, make_members: Any, write_wheel: Any) -> None:
    path = write_wheel(NAME, members(binaries, make_members))
    found = read_file(path, quiet)
    assert (found.name, found.version, found.os, found.machine) == ("kernels", "2.1", "linux", "x86_64")
    assert (found.libc_tag, found.pythons, found.cuda) == ("2.28", ("cp312",), "12")
    assert (found.requires_python, found.requires_dist) == (">=3.10", ("torch==2.9.1",))
    assert found.sha256 is not None and len(found.sha256) == 64
    assert found.libraries[0] == FoundLibrary(
        name="kernels/_C.abi3.so",
        backend="cuda",
        os="linux",
        machine="x86_64",
        cuda="12",
        sass=("sm_80", "sm_90"),
        needed=("libcudart.so.12",),
        glibc="2.28",
        glibcxx="3.4.29",
    )
    assert [(one.name.rpartition("/")[2], one.backend, one.cuda) for one in found.libraries[1:]] == [
        ("libextra.so.3", "cuda", None),  # code, and nothing tells of which CUDA
        ("plain.cpython-312-x86_64-linux-gnu.so", "cpu", None),
        ("rocm.so", "rocm", None),
    ]


def test_wheels_of_torch_and_bitsandbytes_are_measured(binaries: Any, make_members: Any, write_wheel: Any) -> None:
    b = binaries
    torch = {
        **make_members("torch", "2.9.1"),
        "torch/version.py": b"__version__ = '2.9.1'\ncuda: Optional[str] = '12.8'\n",
        "torch/lib/libtorch_python.so": b.elf() + b"sm_80 sm_90\0",
        "torch/lib/libtorch_cuda.so": b"is not looked at",
    }
    found = read_file(write_wheel("torch-2.9.1-cp312-cp312-manylinux_2_28_x86_64.whl", torch), quiet)
    assert (found.cuda, found.arch_list, found.libraries) == ("12.8", ("sm_80", "sm_90"), ())
    row = {**make_members("bitsandbytes", "0.50.2"), "bitsandbytes/libbitsandbytes_cuda128.so": library(b, 90)}
    found = read_file(write_wheel("bitsandbytes-0.50.2-py3-none-manylinux_2_24_x86_64.whl", row), quiet)
    assert [(one.name, one.cuda, one.sass) for one in found.libraries] == [
        ("libbitsandbytes_cuda128.so", "12.8", ("sm_90",))
    ]


def test_a_torch_for_the_gpus_of_others(binaries: Any, make_members: Any, write_wheel: Any, tmp_path: Path) -> None:
    files = {
        "torch/version.py": b"__version__ = '2.9.1+rocm6.4'\nhip: Optional[str] = '6.4.4'\n",
        "torch/lib/libtorch_python.so": binaries.elf(),
    }
    wheel = {**make_members("torch", "2.9.1+rocm6.4"), **files}
    site = tmp_path / "venv" / "lib" / "python3.12" / "site-packages"
    for name, data in files.items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_bytes(data)
    for found in (
        read_file(write_wheel("torch-2.9.1+rocm6.4-cp312-cp312-manylinux_2_28_x86_64.whl", wheel), quiet),
        *read_folder(tmp_path / "venv", quiet),
    ):
        assert (found.name, found.version, found.cuda, found.arch_list) == ("torch", "2.9.1+rocm6.4", None, None)
        assert [(one.backend, one.os) for one in found.libraries] == [("rocm", "linux")]


def test_only_parts_of_a_remote_wheel_are_fetched_and_never_much_is_held(
    binaries: Any, make_members: Any, make_zip: Any, local_index: Any, tmp_path: Path
) -> None:
    big = library(binaries, 80, 90, payload=os.urandom(6 << 20))
    contents = {
        **members(binaries, make_members),
        "kernels/weights.bin": os.urandom(40 << 20),
        "kernels/_C.abi3.so": big,
    }
    data = make_zip(contents, zipfile.ZIP_STORED)
    local_index.files[NAME] = data
    (tmp_path / NAME).write_bytes(data)
    told: list[str] = []
    url = local_index.url(NAME).replace("http://", "http://me:secret@")
    found = read_url(index_session(retries=0), url, told.append)
    here = read_file(tmp_path / NAME, quiet)
    assert found.libraries == here.libraries
    assert (found.sha256, found.place) == (None, local_index.url(NAME))  # nobody has seen all of it
    assert len(big) < local_index.sent < len(data) / 2
    spans = [span.partition("=")[2].split("-") for _, span in local_index.asked if span]
    assert max(int(last) - int(first) for first, last in spans if first) < 9 << 20
    assert any(f"reading {NAME}, 1" in line for line in told) and not any("secret" in line for line in told)


def test_addresses_that_cannot_be_read(local_index: Any, binaries: Any, make_members: Any, make_zip: Any) -> None:
    data = make_zip(members(binaries, make_members))
    local_index.files[NAME] = data
    local_index.ranges = False  # a server that knows no parts sends a small wheel whole
    with index_session(retries=0) as session:
        assert len(read_url(session, local_index.url(NAME), quiet).libraries) == 4
        local_index.files[NAME] = data[: len(data) // 2]
        for url, kind in [
            (local_index.url(NAME), Failed),
            (local_index.url("gone-1-py3-none-any.whl"), SourceUnreachable),
            ("http://127.0.0.1:9/a-1-py3-none-any.whl", SourceUnreachable),
            ("http://me:secret@127.0.0.1:9/a.tar.gz?token=secret", InputError),
            (local_index.url("wheel.whl"), Failed),
            ("http://me:secret@[bad/a-1-py3-none-any.whl", InputError),
        ]:
            with pytest.raises(kind) as caught:
                read_url(session, url, quiet)
            assert "secret" not in caught.value.message


def test_a_library_larger_than_what_is_held_in_memory(
    binaries: Any, make_members: Any, make_zip: Any, tmp_path: Path
) -> None:
    huge = library(binaries, 90, 100, payload=os.urandom(1 << 16) * (20 << 4))
    path = tmp_path / NAME
    path.write_bytes(make_zip({**make_members("kernels", "2.1"), "kernels/huge.so": huge}, zipfile.ZIP_STORED))
    del huge
    tracemalloc.start()
    found = read_file(path, quiet)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.libraries[0].sass == ("sm_90", "sm_100")
    assert peak < 16 << 20


def test_a_bomb_is_refused_before_it_goes_off(make_members: Any, write_wheel: Any) -> None:
    path = write_wheel(NAME, {**make_members("kernels", "2.1"), "kernels/bomb.so": bytes(48 << 20)})
    assert path.stat().st_size < 1 << 20
    started = time.process_time()
    with pytest.raises(Failed, match=r"bomb\.so would unpack to 50331648 bytes"):
        read_file(path, quiet)
    assert time.process_time() - started < 1


def test_all_libraries_of_a_wheel_have_a_limit_too(make_zip: Any, tmp_path: Path) -> None:
    """Each claims 4 GB, which one of them may have."""
    names = [f"kernels/{letter}.so" for letter in "abcde"]
    lying = bytearray(make_zip(dict.fromkeys(names, b"x" * 100)))
    for name in names:
        struct.pack_into("<I", lying, lying.rindex(name.encode()) - 46 + 24, 4000 << 20)
    (tmp_path / NAME).write_bytes(lying)
    with (tmp_path / NAME).open("rb") as stream:
        wheel = FatWheel(stream, NAME, "", len(lying))
        said = []
        for name in names:
            with pytest.raises(Failed) as caught, wheel.unpacked(name):
                pass
            said.append(caught.value.message.endswith("would unpack to 4194304000 bytes"))
    assert said == [False, False, False, False, True]  # the others hold too little for what they claim


def test_a_directory_larger_than_any_is_not_fetched(local_index: Any) -> None:
    """Its entries would take ten times as much memory."""
    directory = bytes(20 << 20)
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 65535, 65535, len(directory), 0, 0)
    local_index.files[NAME] = directory + end
    with index_session(retries=0) as session, pytest.raises(Failed, match="it asks for 20971520 bytes at once"):
        read_url(session, local_index.url(NAME), quiet)
    assert local_index.sent < 1 << 20


def test_a_member_that_is_damaged_or_lies(binaries: Any, make_members: Any, write_wheel: Any, tmp_path: Path) -> None:
    good = write_wheel(NAME, members(binaries, make_members)).read_bytes()
    place = good.index(b"kernels/_C.abi3.so") + 60
    broken = tmp_path / "broken" / NAME
    broken.parent.mkdir()
    for data in (
        good[:place] + bytes(8) + good[place + 8 :],
        good[:-30],
        good[: len(good) // 2],
        b"PK\3\4",
        good + b"x" * 70000,
    ):
        broken.write_bytes(data)
        with pytest.raises(Failed) as caught:
            read_file(broken, quiet)
        assert caught.value.code == "bad-wheel"
    with broken.open("wb") as stream:
        stream.truncate(17 << 30)  # takes no room
    with pytest.raises(InputError, match="larger than 16 GiB"):
        read_file(broken, quiet)
    with (tmp_path / NAME).open("rb") as stream:
        wheel = FatWheel(stream, NAME, "", 1)
        with pytest.raises(Failed, match="holds no kernels/none"), wheel.unpacked("kernels/none.so"):
            pass


def test_a_folder_of_another_project(binaries: Any, tmp_path: Path) -> None:
    folder = tmp_path / "kernels"
    (folder / "lib").mkdir(parents=True)
    (folder / "_C.so").write_bytes(library(binaries, 90))
    (folder / "lib" / "libextra.so.1.2").write_bytes(library(binaries, 80))
    (folder / "lib" / "libextra.so.1").symlink_to("libextra.so.1.2")
    (folder / "lib" / "cut.so").write_bytes(library(binaries, 90)[:200])
    (folder / "lib" / "old.so").write_bytes(b"\x7fELF\x01\x01\x01" + bytes(60))
    (folder / "lib" / "text.so").write_bytes(b"GROUP ( libextra.so.1 )")
    (folder / "lib" / "empty.so").touch()
    (folder / "lib" / "gone.so").symlink_to("nowhere")
    (found,) = read_folder(folder, quiet)
    assert (found.name, found.place) == (None, str(folder))
    names = [one.name for one in found.libraries]
    assert names[0] == "_C.so" and len(names) == 2 and names[1].startswith("lib/libextra.so.1")
    assert [one.name for one in found.unreadable] == ["lib/cut.so", "lib/old.so"]
    assert found.unreadable[1] == Unreadable(
        "lib/old.so", "lib/old.so cannot be read: it is no 64-bit little-endian ELF file"
    )
    for name in ("_C.so", "lib/libextra.so.1.2"):
        (folder / name).unlink()
    with pytest.raises(Failed):  # nothing is left that can be read
        read_folder(folder, quiet)


def test_an_environment_is_found_by_its_prefix_its_packages_or_one_of_them(binaries: Any, tmp_path: Path) -> None:
    prefix = tmp_path / "venv"
    site = prefix / "lib" / "python3.12" / "site-packages"
    for name, data in {
        "torch/version.py": b"__version__ = '2.9.1'\ncuda: Optional[str] = '12.8'\n",
        "torch/lib/libtorch_python.so": binaries.elf() + b"sm_90\0",
        "bitsandbytes/__init__.py": b'__version__ = "0.50.2"',
        "bitsandbytes/libbitsandbytes_cuda128.so": library(binaries, 90),
    }.items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_bytes(data)
    both = [("torch", "2.9.1"), ("bitsandbytes", "0.50.2")]
    for folder, expected in [
        (prefix, both),
        (site, both),
        (site / "torch", both[:1]),
        (site / "bitsandbytes", both[1:]),
    ]:
        assert [(one.name, one.version) for one in read_folder(folder, quiet)] == expected
    bare = tmp_path / "bare"
    (bare / "Lib" / "site-packages").mkdir(parents=True)
    with pytest.raises(InputError, match="neither torch nor bitsandbytes"):
        read_folder(bare, quiet)
    with pytest.raises(InputError, match="no native library"):
        read_folder(bare / "Lib" / "site-packages", quiet)


def test_a_single_library_and_what_is_none(binaries: Any, tmp_path: Path) -> None:
    b = binaries
    dll = b.pe({".nv_fatb": b.container(b.entry(b.CUBIN, 89))}, ("cudart64_110.dll", "KERNEL32.dll"))
    for name, data, expected in [
        ("k.dll", dll, ("windows", "x86_64", "11", ("sm_89",))),
        ("k.so", library(b, 90), ("linux", "x86_64", "12", ("sm_90",))),
        ("libcublas.so.13", b.elf(), ("linux", "x86_64", "13", ())),
        ("k.dylib", b"\xca\xfe\xba\xbe\0\0\0\2" + bytes(40), ("macos", "any", None, ())),
        ("k.pyd", b"\xcf\xfa\xed\xfe\x07\0\0\x01" + bytes(24), ("macos", "x86_64", None, ())),
    ]:
        (tmp_path / name).write_bytes(data)
        found = read_file(tmp_path / name, quiet)
        (one,) = found.libraries
        assert (one.os, one.machine, one.cuda, one.sass) == expected, name
        assert (found.name, found.os, found.cuda) == (None, one.os, one.cuda)
    for data, words in [
        (b"", "it is empty"),
        (b"#!/bin/sh\n", "no wheel, and no library"),
        (b"\xca\xfe\xba\xbe\0\0\0\x41" + bytes(40), "no ELF, PE or Mach-O"),  # a class of Java 21
        (library(b, 90)[:-100], "lie outside|lies outside"),
        (b"\x7fELF\x02\x02" + bytes(60), "cannot be read: it is no 64-bit little-endian"),
        (b"MZ" + bytes(100), "no PE header"),
    ]:
        (tmp_path / "x.so").write_bytes(data)
        with pytest.raises(BnbenvError, match=words):
            read_file(tmp_path / "x.so", quiet)
