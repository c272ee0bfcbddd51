"""Windows DLLs, made to order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnbenv.errors import Failed
from bnbenv.matrix.native import read_native
from bnbenv.matrix.pe import read_pe


def test_imports_and_targets_of_a_dll(binaries):
    b = binaries
    data = b.pe(
        {".nv_fatb": b.container(b.entry(b.CUBIN, 86)), "__nv_rel": b.container(b.entry(b.PTX, 86))},
        imports=("cublas64_12.dll", "KERNEL32.dll"),
    )
    row = read_native(data, "libbitsandbytes_cuda126.dll")
    assert (row.backend, row.sass, row.ptx) == ("cuda", ("sm_86",), ("compute_86",))
    assert (row.needed, row.glibc, row.glibcxx) == (("cublas64_12.dll", "KERNEL32.dll"), None, None)
    assert read_pe(data, "dll").machine == "x86_64"


def test_a_dll_without_imports(binaries):
    assert read_pe(binaries.pe(), "dll").needed == ()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: b"MZ", "lie outside"),
        (lambda data: data.replace(b"PE\0\0", b"NE\0\0"), "no PE header"),
        (lambda data: data.replace(b"\x0b\x02", b"\x0b\x01"), "no 64-bit DLL"),
        (lambda data: data.replace(b"PE\0\0\x64\x86\x01\0", b"PE\0\0\x64\x86\xff\xff"), "claims 65535 sections"),
        (lambda data: data.replace(b"KERNEL32.dll\0", b"KERNEL32.dll!"), "does not end"),
        (lambda data: data[:-512], "lies outside"),
    ],
)
def test_lying_headers_are_named(binaries, change, words):
    with pytest.raises(Failed, match=words) as caught:
        read_pe(change(binaries.pe(imports=("KERNEL32.dll",))), "a.dll")
    assert caught.value.code == "bad-binary"


@given(data=st.data())
def test_any_change_to_the_bytes_gives_a_row_or_that_error(binaries, data):
    b = binaries
    library = bytearray(b.pe({".nv_fatb": b.container(b.entry(b.CUBIN, 80))}, ("KERNEL32.dll", "VCRUNTIME140.dll")))
    for _ in range(data.draw(st.integers(1, 4))):
        library[data.draw(st.integers(0, 0x300))] = data.draw(st.integers(0, 255))
    cut = library[: data.draw(st.integers(0, len(library)))]
    try:
        read_native(bytes(cut), "libbitsandbytes_cuda118.dll")
    except Failed as error:
        assert error.code == "bad-binary"
