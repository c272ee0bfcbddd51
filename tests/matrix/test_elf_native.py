"""ELF libraries: synthetic ones, and real ones from the compiler of this machine."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnbenv.errors import Failed
from bnbenv.matrix.elf import read_elf
from bnbenv.matrix.model import NativeLibrary
from bnbenv.matrix.native import backend_of, cuda_of, read_native

needs_gcc = pytest.mark.skipif(not shutil.which("gcc"), reason="needs gcc")


def test_a_cuda_library_gives_its_row(binaries):
    b = binaries
    data = b.elf(
        {
            ".nv_fatbin": b.container(b.entry(b.CUBIN, 80), b.entry(b.CUBIN, 90)),
            "__nv_relfatbin": b.container(b.entry(b.PTX, 90)),
        },
        needed=("libcudart.so.12", "libc.so.6"),
        versions=(("GLIBC_2.9", 0), ("GLIBC_2.34", 0), ("GLIBCXX_3.4.29", 0), ("GLIBC_PRIVATE", 0)),
    )
    assert read_native(data, "libbitsandbytes_cuda128.so") == NativeLibrary(
        name="libbitsandbytes_cuda128.so",
        backend="cuda",
        sass=("sm_80", "sm_90"),
        ptx=("compute_90",),
        needed=("libcudart.so.12", "libc.so.6"),
        glibc="2.34",
        glibcxx="3.4.29",
    )


def test_weak_versions_do_not_count_and_packed_relocations_need_glibc_2_36(binaries):
    weak = binaries.elf(versions=(("GLIBC_2.34", 2), ("GLIBC_2.17", 0)))
    assert read_elf(weak, "lib").glibc == "2.17"
    packed = binaries.elf(versions=(("GLIBC_2.17", 0), ("GLIBC_ABI_DT_RELR", 0)))
    assert read_elf(packed, "lib").glibc == "2.36"


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        ("libbitsandbytes_cuda118_nocublaslt.so", "cuda"),
        ("libbitsandbytes_cpu.dylib", "cpu"),
        ("libbitsandbytes_rocm714.dll", "rocm"),
        ("libbitsandbytes_hip.so", "rocm"),
        ("libbitsandbytes_xpu2026.so", "xpu"),
        ("libbitsandbytes_mps.dylib", "other"),
    ],
)
def test_the_name_tells_the_backend(name, backend):
    assert backend_of(name) == backend


def test_mach_o_keeps_its_name_only_and_the_unknown_is_refused():
    assert read_native(b"\xcf\xfa\xed\xfe" + bytes(28), "libbitsandbytes_cpu.dylib").needed == ()
    with pytest.raises(Failed, match="no ELF, PE or Mach-O"):
        read_native(b"#!/bin/sh\n", "libbitsandbytes_cpu.so")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x7fELF\x01\x01\x01" + bytes(60), "cannot be read: it is no 64-bit little-endian ELF file"),
        (b"\x7fELF\x02\x02\x01" + bytes(60), "cannot be read: it is no 64-bit little-endian ELF file"),
        (b"\x7fELF\x02\x01\x01" + bytes(60), "cannot be read: its table of sections was stripped"),
        (b"\x7fELF\x02", "it has no ELF header"),
        (b"\xca\xfe\xba\xbe\0\0\0\x37" + bytes(60), "is no ELF, PE or Mach-O library"),  # a class of Java
    ],
)
def test_what_is_of_another_kind_is_not_called_damaged(data, words):
    with pytest.raises(Failed, match=words) as caught:
        read_native(data, "k.so")
    assert caught.value.code == "bad-binary"


@pytest.mark.parametrize(
    ("name", "needed", "ptx_cuda", "cuda"),
    [
        ("libbitsandbytes_cuda118_nocublaslt.so", (), None, "11.8"),
        ("libbitsandbytes_cuda128.so", ("libcudart.so.13",), "13.0", "12.8"),
        ("_C.so", ("libc.so.6", "libcufft.so.11", "libcudart.so.12"), "12.4", "12"),
        ("k.dll", ("KERNEL32.dll", "cudart64_110.dll"), None, "11"),
        ("k.dll", ("cublas64_13.dll",), None, "13"),
        ("libcublas.so.12", (), None, "12"),
        ("libcudart.so.11.0", (), None, "11"),
        ("k.so", ("libcufft.so.11", "libcusparse.so.12"), None, None),
        ("k.so", (), "12.8", "12"),
    ],
)
def test_the_cuda_that_a_library_is_for(name, needed, ptx_cuda, cuda):
    assert cuda_of(name, needed, ptx_cuda) == cuda


@given(data=st.data())
def test_any_change_to_the_bytes_gives_a_row_or_a_clear_error(binaries, data):
    b = binaries
    fatbin = b.container(b.entry(b.CUBIN, 80))
    library = bytearray(b.elf({".nv_fatbin": fatbin}, ("libc.so.6",), (("GLIBC_2.4", 0), ("GLIBC_2.5", 0))))
    for _ in range(data.draw(st.integers(1, 4))):
        library[data.draw(st.integers(0, len(library) - 1))] = data.draw(st.integers(0, 255))
    cut = library[: data.draw(st.integers(0, len(library)))]
    try:
        read_native(bytes(cut), "libbitsandbytes_cuda118.so")
    except Failed as error:
        assert error.code == "bad-binary"


def test_a_version_list_that_overlaps_itself_ends(binaries):
    """Each of 16000 records claims the 16000 after it as its versions: hundreds of millions if it were believed."""
    record, last = (struct.pack("<HHIII", 1, 0xFFFF, 0, 16, following) for following in (16, 0))
    library = binaries.elf(needed=("a-name-long-enough",), version_records=record * 16000 + last)
    with pytest.raises(Failed, match="its list does not end"):
        read_elf(library, "lib")


def compiled(folder, name, source, *arguments):
    (folder / f"{name}.c").write_text(source)
    command = ["gcc", "-shared", "-fPIC", "-o", folder / f"{name}.so", folder / f"{name}.c", *arguments]
    subprocess.run(command, check=True, cwd=folder, capture_output=True)
    return folder / f"{name}.so"


@needs_gcc
def test_what_the_linker_wrote_is_read(tmp_path, binaries):
    """Versions that no real library has, so that they can come from nowhere else."""
    b = binaries
    (tmp_path / "map").write_text("GLIBC_9.4 { global: older; }; GLIBC_9.10 { global: newer; };")
    functions = "void older(void) {} void newer(void) {}"
    compiled(tmp_path, "libbase", functions, "-Wl,--version-script=map", "-Wl,-soname,libbase.so.1", "-nostdlib")
    fatbin = b.container(b.entry(b.CUBIN, 120, b.FAMILY_SPECIFIC))
    array = ",".join(map(str, fatbin))
    source = f"""
        __attribute__((section(".nv_fatbin"), used)) static const unsigned char code[] = {{{array}}};
        void older(void); void newer(void);
        void call(void) {{ older(); newer(); }}
    """
    library = compiled(tmp_path, "libbitsandbytes_cuda999", source, tmp_path / "libbase.so", "-nostdlib")
    row = read_native(library.read_bytes(), library.name)
    assert (row.sass, row.needed, row.glibc) == (("sm_120f",), ("libbase.so.1",), "9.10")


@needs_gcc
@pytest.mark.skipif(not shutil.which("readelf"), reason="needs readelf of binutils")
def test_readelf_says_the_same_of_a_library_of_this_machine(tmp_path):
    source = '#include <stdio.h>\n#include <math.h>\ndouble say(double x) { puts("x"); return pow(x, x); }'
    library = compiled(tmp_path, "libsay", source, "-lm")
    said = subprocess.run(["readelf", "-dVW", library], check=True, capture_output=True, text=True).stdout
    read = read_elf(library.read_bytes(), "libsay.so")
    versions = [tuple(map(int, found.split("."))) for found in re.findall(r"Name: GLIBC_([\d.]+)", said)]
    assert read.glibc == ".".join(map(str, max(versions)))
    assert list(read.needed) == re.findall(r"NEEDED\)\s+Shared library: \[(.*)\]", said)
