"""The dynamic linker's cache, /etc/ld.so.cache, in the format of glibc 2.2 and later. Pure.

Source: glibc's ``sysdeps/generic/dl-cache.h``. The older format may stand before it in the file and is passed over.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

PATH = "/etc/ld.so.cache"
LIMIT = 64 << 20  # bytes; one of a machine with 20 000 libraries has 2 MB

_OLD_MAGIC, _OLD_HEADER, _OLD_ENTRY = b"ld.so-1.7.0\0", 16, 12
_MAGIC = b"glibc-ld.so.cache1.1"
_HEADER = struct.Struct("<20sIIB3xI12x")  # magic, entries, bytes of strings, flags, where the extensions are
_ENTRY = struct.Struct("<iIIIQ")  # flags, name, path, OS version, hardware capabilities
_EXTENSIONS = struct.Struct("<II")
_EXTENSION = struct.Struct("<IIII")  # tag, flags, offset, size
_EXTENSION_MAGIC, _HWCAPS = 0xEAA42174, 1
_BY_NAME = 1 << 30  # in the upper half of the capabilities: the lower half is an index of a name
# ELF for glibc 2, for the 64-bit kind of the machine; 1 stands for any ELF library.
_FLAGS = {"x86_64": 0x0303, "aarch64": 0x0A03}

# What a CPU must have for a folder glibc-hwcaps/<name>, as /proc/cpuinfo calls it; each includes the ones before.
_LEVELS: tuple[tuple[str, frozenset[str]], ...] = (
    ("x86-64-v2", frozenset(["cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3"])),
    ("x86-64-v3", frozenset(["avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"])),
    ("x86-64-v4", frozenset(["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"])),
)


@dataclass(frozen=True)
class LdCache:
    """Path by file name, as the linker finds it."""

    paths: Mapping[str, str]

    def find(self, name: str) -> str | None:
        """The path of a library, or None."""
        return self.paths.get(name)


def hwcaps(cpuinfo: str) -> tuple[str, ...]:
    """The folders below ``glibc-hwcaps`` that this CPU is for, best first; none where it is not x86-64."""
    line = next((line for line in cpuinfo.splitlines() if line.startswith("flags")), "")
    have = frozenset(line.partition(":")[2].split())
    names: list[str] = []
    for name, needs in _LEVELS:
        if not needs <= have:
            break
        names.insert(0, name)
    return tuple(names)


def parse_cache(data: bytes, machine: str, levels: tuple[str, ...]) -> LdCache | None:
    """The entries for a machine, of which those for a CPU's ``levels`` come first; None: it cannot be read."""
    start = _start(data)
    if start is None:
        return None
    data = data[start:]
    try:
        _, count, _, flags, extensions = _HEADER.unpack_from(data)
        if flags & 3 == 3 or count * _ENTRY.size + _HEADER.size > len(data):
            return None
        names = _hwcap_names(data, extensions)
        best: dict[str, tuple[int, str]] = {}
        wanted = _FLAGS.get(machine)
        for kind, key, value, _, capabilities in _ENTRY.iter_unpack(
            data[_HEADER.size : _HEADER.size + count * _ENTRY.size]
        ):
            if kind not in (1, wanted):
                continue
            rank = _rank(capabilities, names, levels)
            if rank is None:
                continue
            name = _string(data, key)
            if name not in best or rank < best[name][0]:
                best[name] = (rank, _string(data, value))
    except (struct.error, ValueError):
        return None
    return LdCache({name: path for name, (_, path) in best.items()})


def _start(data: bytes) -> int | None:
    if data.startswith(_MAGIC):
        return 0
    if data.startswith(_OLD_MAGIC) and len(data) >= _OLD_HEADER:
        (count,) = struct.unpack_from("<I", data, 12)
        at = int(_OLD_HEADER + count * _OLD_ENTRY + 7) & ~7
        if data[at : at + len(_MAGIC)] == _MAGIC:
            return at
    return None


def _rank(capabilities: int, names: tuple[str, ...], levels: tuple[str, ...]) -> int | None:
    """How good an entry is for the CPU, 0 best; None: it is for another one."""
    if not capabilities:
        return len(levels)
    index = capabilities & 0xFFFFFFFF
    if capabilities >> 32 == _BY_NAME and index < len(names) and names[index] in levels:
        return levels.index(names[index])
    return None


def _hwcap_names(data: bytes, at: int) -> tuple[str, ...]:
    """The names that entries refer to by index; glibc 2.33 brought them."""
    if not at or at + _EXTENSIONS.size > len(data):
        return ()
    magic, count = _EXTENSIONS.unpack_from(data, at)
    if magic != _EXTENSION_MAGIC:
        return ()
    for number in range(min(count, 64)):
        tag, _, offset, size = _EXTENSION.unpack_from(data, at + _EXTENSIONS.size + number * _EXTENSION.size)
        if tag == _HWCAPS:
            return tuple(_string(data, place) for (place,) in struct.iter_unpack("<I", data[offset : offset + size]))
    return ()


def _string(data: bytes, at: int) -> str:
    return data[at : data.index(b"\0", at)].decode("utf-8", "replace")
