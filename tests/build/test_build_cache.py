"""Which wheel of the cache is taken for what is asked: one that was made of the same, and no other."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bnbenv.build import cache
from bnbenv.build.cache import Inputs
from bnbenv.build.model import Built, Origin
from bnbenv.matrix.model import BitsandbytesWheel, Evidence

ASKED = Inputs(
    system="x86_64 glibc 2.36",
    source="d1",
    cuda="12.8",
    archs=("sm_70",),
    flags=("-DCMAKE_BUILD_TYPE=Release",),
    nvcc="12.8.93",
    origin="system",
    host="gcc 12.2.0",
)
UNKNOWN: dict[str, Any] = {"nvcc": "", "origin": "", "host": ""}  # before there is a toolchain


def keep(home: Path, inputs: Inputs, data: bytes = b"a wheel") -> Built:
    """Take a wheel of these bytes into the cache."""
    version, sha256 = "0.50.2+bnbenv.cu128.sm70", hashlib.sha256(data).hexdigest()
    name = f"bitsandbytes-{version}-py3-none-manylinux_2_17_x86_64.whl"
    out = home / "work" / "out"
    out.mkdir(parents=True)
    (out / name).write_bytes(data)
    row = BitsandbytesWheel(
        version, name, sha256, len(data), "linux", "x86_64", "2.17", None, (), (), Evidence("measured", name, "")
    )
    built = Built(
        wheel=name,
        sha256=sha256,
        version=version,
        library="libbitsandbytes_cuda128.so",
        sass=("sm_70",),
        ptx=("compute_70",),
        source=Origin("folder", "tree", None, None, "d1"),
        toolkit="12.8.93",
        host_compiler="gcc 12.2.0",
        seconds=1.0,
        cached=False,
        row=row,
    )
    return cache.store(home, inputs, built, out)


@pytest.mark.parametrize(
    "other",
    [
        {"system": "aarch64 glibc 2.36"},
        {"system": "x86_64 glibc 2.31"},
        {"source": "d2"},
        {"cuda": "12.9"},
        {"archs": ("sm_70", "sm_75")},
        {"flags": ()},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_was_made_of_something_else_is_not_taken(tmp_path: Path, other: dict[str, Any]) -> None:
    made = keep(tmp_path, ASKED)
    for compilers in ({}, UNKNOWN):
        asked = msgspec.structs.replace(ASKED, **compilers)
        found = cache.find(tmp_path, asked)
        assert found is not None and (found.wheel, found.cached) == (made.wheel, True)
        assert cache.find(tmp_path, msgspec.structs.replace(asked, **other)) is None
        assert msgspec.structs.replace(asked, **other).order_key() != asked.order_key()


def test_with_a_compiler_at_hand_only_what_that_one_made_is_taken(tmp_path: Path) -> None:
    keep(tmp_path, ASKED)
    for compiler in ({"nvcc": "12.8.61"}, {"host": "gcc 13.1.0"}, {"origin": "packages"}):
        assert cache.find(tmp_path, msgspec.structs.replace(ASKED, **compiler)) is None


def test_of_several_the_newest_is_taken_and_a_damaged_one_is_replaced(tmp_path: Path) -> None:
    old = keep(tmp_path, ASKED, b"old")
    new = keep(tmp_path, msgspec.structs.replace(ASKED, host="gcc 13.1.0"), b"new")
    os.utime(Path(old.wheel).with_name(cache.RECORD), (0, 0))
    asked = msgspec.structs.replace(ASKED, **UNKNOWN)
    found = cache.find(tmp_path, asked)
    assert found is not None and found.sha256 == new.sha256
    Path(new.wheel).write_bytes(b"cut")
    found = cache.find(tmp_path, asked)
    assert found is not None and found.sha256 == old.sha256
    again = keep(tmp_path, msgspec.structs.replace(ASKED, host="gcc 13.1.0"), b"new")
    assert (again.wheel, cache.sound(again)) == (new.wheel, True)


def test_a_record_under_another_name_or_of_a_file_elsewhere_is_none(tmp_path: Path) -> None:
    made = keep(tmp_path, ASKED)
    folder = Path(made.wheel).parent
    record = folder / cache.RECORD
    elsewhere = tmp_path / "elsewhere.whl"
    elsewhere.write_bytes(b"a wheel")
    text = record.read_text()
    record.write_text(text.replace(f'"wheel":"{Path(made.wheel).name}"', '"wheel":"../../elsewhere.whl"'))
    assert record.read_text() != text and cache.find(tmp_path, ASKED) is None
    record.write_text(text)
    folder.rename(folder.with_name("0" * 32))
    assert cache.find(tmp_path, msgspec.structs.replace(ASKED, **UNKNOWN)) is None
