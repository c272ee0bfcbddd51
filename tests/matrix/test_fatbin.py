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
