"""The GPU code in a fatbin section: which SASS and PTX targets it holds, read from the entry headers.

A section is a row of containers, padded with zeros. A container is a header (magic 0xBA55ED50, version, size of this
header, size of the entries) and its entries; an entry is a header and a payload, compressed or not, which is not
looked at. Fields used of an entry's header, little-endian: kind at 0 (1 = PTX, 2 = cubin), its own size at 4, the
payload's size with padding at 8, the architecture's number at 28, flags at 40. Found in public descriptions of the
format and checked against nvcc's output and cuobjdump's lists from CUDA 11.8 to 13.5.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from bnbenv.matrix.binary import Window

MAGIC = 0xBA55ED50
PTX, CUBIN = 1, 2
ARCH_SPECIFIC = 0x00100000  # sm_90a: runs on this architecture only
FAMILY_SPECIFIC = 0x00200000  # sm_120f: runs within its family

_CONTAINER = struct.Struct("<IHHQ")  # magic, version, size of this header, size of the entries
_ENTRY = struct.Struct("<HHIQIIHHIIIQ")  # kind, version, header size, payload size, ..., arch at 28, ..., flags at 40
_ZEROS = re.compile(rb"\0*")


@dataclass(frozen=True)
class Targets:
    """SASS targets such as ``sm_90``, ``sm_90a``, ``sm_120f`` and PTX targets such as ``compute_120``, in order."""

    sass: tuple[str, ...]
    ptx: tuple[str, ...]


def targets(sections: Iterable[Window]) -> Targets:
    """All targets in some fatbin sections.

    Raises Failed (``bad-binary``) where headers and sizes contradict each other.
    """
    found: dict[int, set[str]] = {PTX: set(), CUBIN: set()}
    for section in sections:
        for container in _containers(section):
            for kind, arch, suffix in _entries(container):
                if kind in found:  # other kinds hold no code for a GPU: linker options, indexes, NVVM IR
                    found[kind].add(f"{'sm' if kind == CUBIN else 'compute'}_{arch}{suffix}")
    return Targets(_ordered(found[CUBIN]), _ordered(found[PTX]))


def _containers(section: Window) -> Iterator[Window]:
    """The entries of each container of a section."""
    offset = 0
    while (offset := _past_zeros(section, offset)) < len(section):
        magic, _, header, size = section.unpack(_CONTAINER, offset)
        if magic != MAGIC:
            raise section.damaged(f"no fatbin starts at offset {offset} (magic {magic:#010x})")
        if header < _CONTAINER.size:
            raise section.damaged(f"the fatbin at offset {offset} has a header of {header} bytes")
        yield section.part(offset + header, size, f"fatbin at offset {offset}")
        offset += header + size


def _entries(container: Window) -> Iterator[tuple[int, int, str]]:
    """Kind, architecture's number and suffix of each entry."""
    offset = 0
    while offset < len(container):
        fields = container.unpack(_ENTRY, offset)
        kind, header, payload, arch, flags = fields[0], fields[2], fields[3], fields[8], fields[11]
        if header < _ENTRY.size:
            raise container.damaged(f"the entry at offset {offset} has a header of {header} bytes")
        if offset + header + payload > len(container):
            raise container.damaged(f"the entry at offset {offset} ends outside")
        if kind in (PTX, CUBIN) and not 10 <= arch < 1000:
            raise container.damaged(f"the entry at offset {offset} names the architecture {arch}")
        suffix = "a" if flags & ARCH_SPECIFIC else "f" if flags & FAMILY_SPECIFIC else ""
        yield kind, arch, suffix
        offset += header + payload


def _past_zeros(section: Window, offset: int) -> int:
    match = _ZEROS.match(section.view, offset)
    return match.end() if match else offset


def _ordered(names: set[str]) -> tuple[str, ...]:
    """By number, then suffix: ``sm_90`` before ``sm_90a`` before ``sm_100``."""

    def key(name: str) -> tuple[int, str]:
        number = name.partition("_")[2]
        return int(number.rstrip("af")), number

    return tuple(sorted(names, key=key))
