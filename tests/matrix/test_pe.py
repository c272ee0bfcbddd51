"""Windows DLLs, made to order."""

from __future__ import annotations

import struct
from importlib.resources import files

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnbenv.errors import Failed
from bnbenv.matrix.native import read_native
from bnbenv.matrix.pe import exported, imported, read_pe


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


SECOND = 0x101000  # where the section after the imports lies in memory


def offering(binaries, *names: str, claimed: int | None = None) -> bytes:
    """A DLL that offers some names."""
    strings, pointers = b"", b""
    for name in names:
        pointers += struct.pack("<I", SECOND + 40 + 4 * len(names) + len(strings))
        strings += name.encode() + b"\0"
    count = len(names) if claimed is None else claimed
    directory = struct.pack("<IIHHIIIIIII", 0, 0, 0, 0, 0, 1, count, count, 0, SECOND + 40, 0)
    data = bytearray(binaries.pe({".edata": directory + pointers + strings}))
    data[200:208] = struct.pack("<II", SECOND, len(directory))  # the first entry of the data directories
    return bytes(data)


def taking(binaries, library: str, *names: str) -> bytes:
    """A DLL that takes some names, and one by its number, from another."""
    thunks, strings = struct.pack("<Q", 1 << 63 | 7), b""
    for name in names:
        thunks += struct.pack("<Q", SECOND + 8 * (len(names) + 2) + len(strings))
        strings += b"\0\0" + name.encode() + b"\0"
    data = binaries.pe({".idata": thunks + bytes(8) + strings}, imports=(library,))
    entry = (0, 0, 0x1000 + 40)  # of the import table, after where the names are: ..., where the DLL's own is
    return data.replace(struct.pack("<IIII", 1, *entry), struct.pack("<IIII", SECOND, *entry))


def test_what_a_dll_offers_and_takes(binaries):
    assert exported(offering(binaries, "??0Error@c10@@QEAA@XZ", "second"), "c10.dll") == {
        "??0Error@c10@@QEAA@XZ",
        "second",
    }
    assert exported(binaries.pe(), "a.dll") == imported(binaries.pe(), "a.dll") == frozenset()
    assert imported(taking(binaries, "c10.dll", "first", "second"), "a.pyd") == {
        ("c10.dll", "first"),
        ("c10.dll", "second"),
    }


def test_a_dll_that_claims_to_offer_too_much_is_named(binaries):
    for claimed, words in ((5, "lie"), (1 << 20, "claims to offer 1048576 names")):
        with pytest.raises(Failed, match=words) as caught:
            exported(offering(binaries, "one", claimed=claimed), "c10.dll")
        assert caught.value.code == "bad-binary"


def test_a_real_program_is_read():
    """The launcher that setuptools brings, for what is linked by Microsoft's own linker."""
    launcher = files(pytest.importorskip("setuptools")) / "cli-arm64.exe"
    taken = imported(launcher.read_bytes(), "cli-arm64.exe")
    assert ("KERNEL32.dll", "CreateProcessA") in taken and len(taken) > 20


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
