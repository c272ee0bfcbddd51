"""The targets in a fatbin section, and what is done about headers that lie."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnbenv.errors import Failed
from bnbenv.matrix.binary import Window
from bnbenv.matrix.fatbin import Targets, targets


def read(*sections: bytes) -> Targets:
    return targets(Window.over(section, "section") for section in sections)


def test_cubins_and_ptx_of_all_containers_in_order(binaries):
    b = binaries
    first = b.container(b.entry(b.CUBIN, 100), b.entry(b.CUBIN, 90), b.entry(b.PTX, 90))
    second = b.container(b.entry(b.CUBIN, 75, payload=bytes(4096), header=112), b.entry(b.CUBIN, 90))
    relocatable = b.container(b.entry(b.PTX, 120))
    assert read(first + second, relocatable) == Targets(("sm_75", "sm_90", "sm_100"), ("compute_90", "compute_120"))


def test_suffixes_stand_in_the_flags(binaries):
    b = binaries
    section = b.container(
        b.entry(b.CUBIN, 90),
        b.entry(b.CUBIN, 90, b.ARCH_SPECIFIC),
        b.entry(b.CUBIN, 120, b.FAMILY_SPECIFIC),
        b.entry(b.PTX, 100, b.ARCH_SPECIFIC),
    )
    assert read(section) == Targets(("sm_90", "sm_90a", "sm_120f"), ("compute_100a",))


def test_zeros_between_containers_and_other_kinds_are_passed_over(binaries):
    b = binaries
    one = b.container(b.entry(8, 90), b.entry(b.CUBIN, 80))
    assert read(bytes(24) + one + bytes(4088) + one + bytes(3)) == Targets(("sm_80",), ())
    assert read(b"", bytes(64)) == Targets((), ())


def test_compressed_payloads_are_passed_over_whatever_compressed_them(binaries):
    """As CUDA 12 (LZ4) and 13 (Zstandard) write them: a flag, a longer header, a payload that is no ELF file."""
    b = binaries
    lz4, zstandard = 0x2000, 0x8000
    section = b.container(
        b.entry(b.CUBIN, 70, lz4, payload=b"\xf0\x11" * 36),
        b.entry(b.CUBIN, 120, zstandard | b.FAMILY_SPECIFIC, payload=b"\x28\xb5\x2f\xfd" + bytes(60), header=112),
        b.entry(b.PTX, 120, zstandard, payload=b"\x28\xb5\x2f\xfd" + bytes(28), header=96),
    )
    assert read(section) == Targets(("sm_70", "sm_120f"), ("compute_120",))


@pytest.mark.parametrize(
    ("version", "cuda"),
    [
        ((6, 2), "9.2"),
        ((6, 5), "10.2"),
        ((7, 8), "11.8"),
        ((8, 5), "12.5"),
        ((8, 6), "12.7"),
        ((8, 8), "12.9"),
        ((9, 2), "13.2"),
        ((1, 7), None),
        ((12, 0), None),
    ],
)
def test_the_version_of_ptx_tells_the_oldest_cuda_that_reads_it(binaries, version, cuda):
    b = binaries
    ptx = bytearray(b.entry(b.PTX, 90))
    struct.pack_into("<HH", ptx, 24, version[1], version[0])
    older = bytearray(b.entry(b.PTX, 80))
    struct.pack_into("<HH", older, 24, 0, 1)
    cubin = bytearray(b.entry(b.CUBIN, 90))  # its numbers are of another kind
    struct.pack_into("<HH", cubin, 24, 9, 9)
    assert read(b.container(bytes(older), bytes(ptx), bytes(cubin))).ptx_cuda == cuda


def test_of_one_target_the_newest_ptx_counts(binaries):
    """Written by two releases of a compiler, in either order."""
    b = binaries
    newer, older = bytearray(b.entry(b.PTX, 90)), bytearray(b.entry(b.PTX, 90))
    struct.pack_into("<HH", newer, 24, 8, 8)
    struct.pack_into("<HH", older, 24, 5, 8)
    for entries in ((newer, older), (older, newer)):
        assert read(b.container(*map(bytes, entries))).ptx_cuda == "12.9"


def test_a_list_without_end_is_given_up():
    empty = struct.pack("<IHHQ", 0xBA55ED50, 1, 16, 0)
    with pytest.raises(Failed, match="more than 262144 fatbins"):
        read(empty * ((1 << 18) + 1))


def damaged_sections(b):
    good = b.container(b.entry(b.CUBIN, 90))
    return {
        "no fatbin starts at offset 0": b"\x7fELF" + good,
        "no fatbin starts at offset 88": good + b"garbage" * 3,
        "lie outside": good[:10],
        "lies outside": struct.pack("<IHHQ", 0xBA55ED50, 1, 16, 2**63) + bytes(64),
        "has a header of 0 bytes": struct.pack("<IHHQ", 0xBA55ED50, 1, 0, 0),
        "entry at offset 0 has a header of 0 bytes": b.container(struct.pack("<HHIQ", 2, 1, 0, 0) + bytes(48)),
        "entry at offset 0 ends outside": b.container(struct.pack("<HHIQ", 2, 1, 64, 2**60) + bytes(48)),
        # its payload would end in the container if there were no header before it
        "the entry at offset 0 ends outside": b.container(struct.pack("<HHIQ", 2, 1, 64, 40) + bytes(64)),
        "names the architecture 0": b.container(b.entry(b.CUBIN, 0)),
    }


def test_lying_headers_are_named(binaries):
    for words, section in damaged_sections(binaries).items():
        with pytest.raises(Failed) as caught:
            read(section)
        assert caught.value.code == "bad-binary"
        assert words in caught.value.message, (words, caught.value.message)


@given(data=st.data())
def test_any_change_to_the_bytes_gives_targets_or_that_error(binaries, data):
    b = binaries
    section = bytearray(b.container(b.entry(b.CUBIN, 90), b.entry(b.PTX, 90)) + b.container(b.entry(b.CUBIN, 80)))
    for _ in range(data.draw(st.integers(1, 4))):
        section[data.draw(st.integers(0, len(section) - 1))] = data.draw(st.integers(0, 255))
    cut = section[: data.draw(st.integers(0, len(section)))]
    try:
        read(bytes(cut))
    except Failed as error:
        assert error.code == "bad-binary"
