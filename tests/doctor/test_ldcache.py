"""The linker's cache, as ldconfig writes it and by the words of its format."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from bnbenv.doctor.examine.ldcache import hwcaps, parse_cache

MAGIC = b"glibc-ld.so.cache1.1"
X86, ARM, THIRTY_TWO_BIT = 0x0303, 0x0A03, 0x0003
V3 = "flags\t\t: fpu cx16 lahf_lm popcnt sse4_1 sse4_2 ssse3 avx avx2 bmi1 bmi2 f16c fma abm movbe xsave\n"


def cache(entries: list[tuple[int, str, str, int]], names: tuple[str, ...] = ()) -> bytes:
    """Entries are flags, name, path, capabilities; ``names`` are those that capabilities refer to by index."""
    start = 48 + 24 * len(entries)
    strings, rows, places = b"", b"", []
    for kind, name, path, capabilities in entries:
        rows += struct.pack("<iIIIQ", kind, start + len(strings), start + len(strings) + len(name) + 1, 0, capabilities)
        strings += f"{name}\0{path}\0".encode()
    for name in names:
        places.append(start + len(strings))
        strings += f"{name}\0".encode()
    at = start + len(strings)
    listed = struct.pack(f"<{len(places)}I", *places)
    extension = struct.pack("<II", 0xEAA42174, 1) + struct.pack("<IIII", 1, 0, at + 24, len(listed)) + listed
    return struct.pack("<20sIIB3xI12x", MAGIC, len(entries), len(strings), 2, at) + rows + strings + extension


def test_it_says_what_ldconfig_says_of_this_machine() -> None:
    program = shutil.which("ldconfig", path="/sbin:/usr/sbin:/bin:/usr/bin")
    if program is None or not Path("/etc/ld.so.cache").exists():
        pytest.skip("ldconfig, or the cache that it writes, is missing")
    said = subprocess.run([program, "-p"], capture_output=True, text=True, timeout=60, check=True).stdout
    rows = [line.split() for line in said.splitlines() if "=>" in line]
    machine = "aarch64" if any("AArch64" in line for line in said.splitlines()) else "x86_64"
    word = "(libc6,AArch64" if machine == "aarch64" else "(libc6,x86-64"
    first: dict[str, str] = {}
    for row in rows:
        if row[1].startswith(word) and "hwcap" not in " ".join(row):
            first.setdefault(row[0], row[-1])
    if not first:
        pytest.skip(f"the cache of this machine has no library for {machine}")
    found = parse_cache(Path("/etc/ld.so.cache").read_bytes(), machine, ())
    assert found is not None and {name: found.find(name) for name in first} == first


def test_entries_for_other_machines_and_other_cpus_are_passed_over() -> None:
    by_name = 1 << 62
    data = cache(
        [
            (THIRTY_TWO_BIT, "liba.so.1", "/lib32/liba.so.1", 0),
            (X86, "liba.so.1", "/lib/glibc-hwcaps/x86-64-v4/liba.so.1", by_name | 2),
            (X86, "liba.so.1", "/lib/glibc-hwcaps/x86-64-v2/liba.so.1", by_name | 0),
            (X86, "liba.so.1", "/lib/glibc-hwcaps/x86-64-v3/liba.so.1", by_name | 1),
            (X86, "liba.so.1", "/first/liba.so.1", 0),
            (X86, "liba.so.1", "/second/liba.so.1", 0),
            (ARM, "libb.so.1", "/arm/libb.so.1", 0),
        ],
        ("x86-64-v2", "x86-64-v3", "x86-64-v4"),
    )
    plain, better = parse_cache(data, "x86_64", ()), parse_cache(data, "x86_64", hwcaps(V3))
    assert plain is not None and better is not None
    assert (plain.find("liba.so.1"), plain.find("libb.so.1")) == ("/first/liba.so.1", None)
    assert better.find("liba.so.1") == "/lib/glibc-hwcaps/x86-64-v3/liba.so.1"
    arm = parse_cache(data, "aarch64", hwcaps("Features\t: fp asimd\n"))
    assert arm is not None and (arm.find("liba.so.1"), arm.find("libb.so.1")) == (None, "/arm/libb.so.1")


def test_the_older_format_before_it_is_passed_over() -> None:
    old = b"ld.so-1.7.0\0" + struct.pack("<I", 2) + bytes(24)
    data = old + cache([(X86, "liba.so.1", "/lib/liba.so.1", 0)])
    found = parse_cache(data, "x86_64", ())
    assert found is not None and found.find("liba.so.1") == "/lib/liba.so.1"


def test_whatever_is_cut_off_or_changed_gives_a_cache_or_none() -> None:
    data = cache([(X86, "liba.so.1", "/lib/liba.so.1", 1 << 62), (X86, "libb.so", "/lib/libb.so", 0)], ("x86-64-v2",))
    for end in range(len(data)):
        parse_cache(data[:end], "x86_64", ("x86-64-v2",))
    for place in range(20, len(data)):
        parse_cache(data[:place] + b"\xff" + data[place + 1 :], "x86_64", ("x86-64-v2",))
    assert [parse_cache(bad, "x86_64", ()) for bad in (b"", b"ELF", data[:60])] == [None, None, None]
