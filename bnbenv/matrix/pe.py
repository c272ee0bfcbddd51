"""What a 64-bit Windows DLL (PE32+) says of itself: imported DLLs and fatbins."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from bnbenv.matrix.binary import Binary, Window

MAGIC = b"MZ"
FATBIN_SECTIONS = frozenset({".nv_fatb", "__nv_rel"})  # PE keeps eight letters of .nv_fatbin and __nv_relfatbin

_DOS_POINTER = struct.Struct("<I")
_COFF = struct.Struct("<IHHIIIHH")  # signature, machine, sections, ..., size of the optional header, flags
_SIGNATURE = int.from_bytes(b"PE\0\0", "little")
_OPTIONAL_MAGIC = struct.Struct("<H")
_DIRECTORY = struct.Struct("<II")  # address, size
_SECTION = struct.Struct("<8sIIIIIIHHI")
_IMPORT = struct.Struct("<IIIII")  # name's address is the fourth
_MACHINES = {0x8664: "x86_64", 0xAA64: "aarch64"}
_PE32_PLUS = 0x20B
_DIRECTORIES_AT, _IMPORTS = 112, 1
_SECTION_LIMIT = 96  # the most that Windows loads
_IMPORT_LIMIT = 4096


@dataclass(frozen=True)
class _Section:
    name: str
    address: int
    content: Window


def read_pe(data: bytes | memoryview, what: str) -> Binary:
    """Read a DLL; ``what`` is how errors call it. Delay-loaded DLLs are not among ``needed``.

    Raises Failed (``bad-binary``) for another kind of file, and where headers contradict each other.
    """
    file = Window.over(data, what)
    start, fields = _coff(file)
    count, optional_size = fields[2], fields[6]
    if count > _SECTION_LIMIT:
        raise file.damaged(f"it claims {count} sections")
    optional = file.part(start + _COFF.size, optional_size, "optional header")
    if optional.unpack(_OPTIONAL_MAGIC, 0) != (_PE32_PLUS,):
        raise file.foreign("it is no 64-bit DLL")
    table = start + _COFF.size + optional_size
    sections = [_section(file, table + number * _SECTION.size) for number in range(count)]
    return Binary(
        machine=_machine(fields[1]),
        needed=tuple(_imports(file, optional, sections)),
        glibc=None,
        glibcxx=None,
        fatbins=tuple(section.content for section in sections if section.name in FATBIN_SECTIONS),
    )


def machine_of(data: bytes | memoryview, what: str) -> str:
    """The machine that a DLL is for, as in the facts. Raises Failed (``bad-binary``)."""
    return _machine(_coff(Window.over(data, what))[1][1])


def _machine(number: int) -> str:
    return _MACHINES.get(number, f"pe-{number:#x}")


def _coff(file: Window) -> tuple[int, tuple[int, ...]]:
    """Where the PE header stands, and its fields."""
    if bytes(file.view[:2]) != MAGIC:
        raise file.damaged("it has no DOS header")
    (start,) = file.unpack(_DOS_POINTER, 0x3C)
    fields = file.unpack(_COFF, start)
    if fields[0] != _SIGNATURE:
        raise file.damaged("it has no PE header")
    return start, fields


def _section(file: Window, offset: int) -> _Section:
    name_bytes = bytes(file.part(offset, _SECTION.size, "section table").view[:8])
    _, virtual_size, address, raw_size, raw_at, *_ = file.unpack(_SECTION, offset)
    name = name_bytes.rstrip(b"\0").decode("latin-1")
    # The raw size is padded for alignment, the virtual size may count zeros that are not in the file.
    size = min(raw_size, virtual_size) if virtual_size else raw_size
    return _Section(name, address, file.part(raw_at if size else 0, size, name))


def _imports(file: Window, optional: Window, sections: list[_Section]) -> Iterator[str]:
    if len(optional) < _DIRECTORIES_AT + (_IMPORTS + 1) * _DIRECTORY.size:
        return
    address, _ = optional.unpack(_DIRECTORY, _DIRECTORIES_AT + _IMPORTS * _DIRECTORY.size)
    if not address:
        return
    table, offset = _at(file, sections, address)
    for _ in range(_IMPORT_LIMIT):
        fields = table.unpack(_IMPORT, offset)
        if not any(fields):
            return
        names, place = _at(file, sections, fields[3])
        yield names.name_at(place)
        offset += _IMPORT.size
    raise file.damaged("its import table does not end")


def _at(file: Window, sections: list[_Section], address: int) -> tuple[Window, int]:
    """The section's content that holds a virtual address, and the offset in it."""
    for section in sections:
        if section.address <= address < section.address + len(section.content):
            return section.content, address - section.address
    raise file.damaged(f"the address {address:#x} lies in no section")
