"""The GPU code in a fatbin section: which SASS and PTX targets it holds, read from the entry headers.

A section is a row of containers, padded with zeros. A container is a header (magic 0xBA55ED50, version, size of this
header, size of the entries) and its entries; an entry is a header and a payload, compressed or not, which is not
looked at. Fields used of an entry's header, little-endian: kind at 0 (1 = PTX, 2 = cubin), its own size at 4, the
payload's size with padding at 8, of PTX its version at 24 (minor, major), the architecture's number at 28, flags at 40.
Found in public descriptions of the format and checked against nvcc's output and cuobjdump's lists from CUDA 11.8 to
13.5: payloads that are not compressed, by LZ4 (flag 0x2000) and by Zstandard (flag 0x8000, CUDA 13's own choice).
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
_VERSION, _VERSION_AT = struct.Struct("<HH"), 24  # minor, major
_ZEROS = re.compile(rb"\0*")
_LIMIT = 1 << 18  # entries of a library, and containers of a section; libcublasLt.so.12 has 5969 and 3015
# The first PTX version of a CUDA release of each run of minors: "PTX ISA", "Release Notes", NVIDIA.
_TOOLKITS = {6: ((0, 9, 0), (3, 10, 0)), 7: ((0, 11, 0),), 8: ((0, 12, 0), (6, 12, 7)), 9: ((0, 13, 0),)}


@dataclass(frozen=True)
class Targets:
    """SASS targets such as ``sm_90``, ``sm_90a``, ``sm_120f`` and PTX targets such as ``compute_120``, in order.

    ``ptx_cuda`` is the oldest CUDA release that reads the newest version of PTX in it (``12.8``), null where there is
    none or the version is unknown.
    """

    sass: tuple[str, ...]
    ptx: tuple[str, ...]
    ptx_cuda: str | None = None


def targets(sections: Iterable[Window]) -> Targets:
    """All targets in some fatbin sections.

    Raises Failed (``bad-binary``) where headers and sizes contradict each other.
    """
    found: dict[tuple[int, int, str], tuple[int, int]] = {}
    count = 0
    for container in (container for section in sections for container in _containers(section)):
        for kind, arch, suffix, version in _entries(container):
            count += 1
            if count > _LIMIT:
                raise container.damaged(f"it claims more than {_LIMIT} pieces of code")
            if kind in (PTX, CUBIN):  # other kinds hold no code for a GPU: linker options, indexes, NVVM IR
                key = (kind, arch, suffix)
                found[key] = max(version, found.get(key, version))
    newest = max((version for (kind, *_), version in found.items() if kind == PTX), default=(0, 0))
    return Targets(_names(found, CUBIN, "sm"), _names(found, PTX, "compute"), _toolkit(*newest))


def _toolkit(major: int, minor: int) -> str | None:
    """The CUDA release that brought a version of PTX."""
    for first, cuda, cuda_minor in reversed(_TOOLKITS.get(major, ())):
        if minor >= first:
            return f"{cuda}.{cuda_minor + minor - first}"
    return None


def _containers(section: Window) -> Iterator[Window]:
    """The entries of each container of a section."""
    offset = count = 0
    while (offset := _past_zeros(section, offset)) < len(section):
        count += 1
        if count > _LIMIT:
            raise section.damaged(f"it claims more than {_LIMIT} fatbins")
        magic, _, header, size = section.unpack(_CONTAINER, offset)
        if magic != MAGIC:
            raise section.damaged(f"no fatbin starts at offset {offset} (magic {magic:#010x})")
        if header < _CONTAINER.size:
            raise section.damaged(f"the fatbin at offset {offset} has a header of {header} bytes")
        yield section.part(offset + header, size, f"fatbin at offset {offset}")
        offset += header + size


def _entries(container: Window) -> Iterator[tuple[int, int, str, tuple[int, int]]]:
    """Kind, architecture's number, suffix and (major, minor) version of each entry."""
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
        minor, major = container.unpack(_VERSION, offset + _VERSION_AT)
        yield kind, arch, suffix, (major, minor)
        offset += header + payload


def _past_zeros(section: Window, offset: int) -> int:
    match = _ZEROS.match(section.view, offset)
    return match.end() if match else offset


def _names(found: Iterable[tuple[int, int, str]], kind: int, prefix: str) -> tuple[str, ...]:
    """By number, then suffix: ``sm_90`` before ``sm_90a`` before ``sm_100``."""
    return tuple(f"{prefix}_{arch}{suffix}" for one, arch, suffix in sorted(found) if one == kind)
