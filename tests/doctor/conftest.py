"""What the doctor's tests share: real libraries with one thing wrong, made without a compiler."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

RaisedGlibc = Callable[..., Path]


def _elf_hash(name: bytes) -> int:
    """The hash of a version's name, as the ELF specification has it."""
    value = 0
    for byte in name:
        value = (value << 4) + byte
        high = value & 0xF0000000
        value = (value ^ (high >> 24)) & ~high & 0xFFFFFFFF
    return value


def _raised(source: Path, target: Path, version: str = "2.99") -> Path:
    data, new = source.read_bytes(), f"GLIBC_{version}".encode()
    names = sorted(set(re.findall(rb"\0(GLIBC_2\.[0-9.]+)(?=\0)", data)), key=lambda name: (-len(name), name))
    old = next((name for name in names if len(name) >= len(new)), None)
    assert old is not None, f"{source} needs no version of glibc whose name has room for {new.decode()}"
    before, after = struct.pack("<IH", _elf_hash(old), 0), struct.pack("<IH", _elf_hash(new), 0)
    assert data.count(b"\0" + old + b"\0") == 1, f"{old.decode()} stands more than once in {source}"
    assert before in data
    data = data.replace(b"\0" + old + b"\0", b"\0" + new.ljust(len(old), b"\0") + b"\0").replace(before, after)
    target.unlink(missing_ok=True)  # it may be a hard link into a cache
    target.write_bytes(data)
    return target


@pytest.fixture(scope="session")
def raised_glibc() -> RaisedGlibc:
    """``raised_glibc(source, target, version="2.99")``: a copy of a library of Linux that needs a newer glibc.

    One of the glibc versions that it needs is renamed, with its hash, in the library's own tables; the real loader says
    "version `GLIBC_2.99' not found". The target is replaced, never written through.
    """
    return _raised
