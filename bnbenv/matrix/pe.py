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
_IMPORT = struct.Struct("<IIIII")  # names taken, ..., the DLL's name is the fourth, the same names again
_MACHINES = {0x8664: "x86_64", 0xAA64: "aarch64"}
_PE32_PLUS = 0x20B
_DIRECTORIES_AT, _IMPORTS = 112, 1
_SECTION_LIMIT = 96  # the most that Windows loads
_IMPORT_LIMIT = 4096
_NAME_LIMIT = 1 << 16  # names that it takes from one DLL, or offers; c10.dll offers some thousands
_THUNK = struct.Struct("<Q")
_HINT = 2  # bytes before an imported name
_EXPORTS = struct.Struct("<IIHHIIIIIII")  # ..., number of names at 7, their addresses at 9


@dataclass(frozen=True)
class _Section:
    name: str
    address: int
    content: Window


def read_pe(data: bytes | memoryview, what: str) -> Binary:
    """Read a DLL; ``what`` is how errors call it. Delay-loaded DLLs are not among ``needed``.

    Raises Failed (``bad-binary``) for another kind of file, and where headers contradict each other.
    """
    file, optional, sections = _parts(data, what)
    return Binary(
        machine=_machine(_coff(file)[1][1]),
        needed=tuple(name for _, name in _import_table(file, optional, sections)),
        glibc=None,
        glibcxx=None,
        fatbins=tuple(section.content for section in sections if section.name in FATBIN_SECTIONS),
    )


def imported(data: bytes | memoryview, what: str) -> frozenset[tuple[str, str]]:
    """The names that a DLL takes from others, each after that DLL's. Raises Failed (``bad-binary``) as ``read_pe``."""
    file, optional, sections = _parts(data, what)
    found = set()
    for fields, library in _import_table(file, optional, sections):
        table, offset = _at(file, sections, fields[0] or fields[4])
        for place in range(_NAME_LIMIT):
            (entry,) = table.unpack(_THUNK, offset + place * _THUNK.size)
            if not entry:
                break
            if not entry >> 63:  # else it is taken by its number
                names, at = _at(file, sections, entry)
                found.add((library, names.name_at(at + _HINT)))
        else:
            raise file.damaged(f"what it takes from {library} does not end")
    return frozenset(found)


def exported(data: bytes | memoryview, what: str) -> frozenset[str]:
    """The names that a DLL offers to whoever loads it. Raises Failed (``bad-binary``) as ``read_pe``."""
    file, optional, sections = _parts(data, what)
    if len(optional) < _DIRECTORIES_AT + _DIRECTORY.size:
        return frozenset()
    address, _ = optional.unpack(_DIRECTORY, _DIRECTORIES_AT)
    if not address:
        return frozenset()
    table, offset = _at(file, sections, address)
    fields = table.unpack(_EXPORTS, offset)
    if fields[7] > _NAME_LIMIT:
        raise file.damaged(f"it claims to offer {fields[7]} names")
    found = set()
    pointers, first = _at(file, sections, fields[9]) if fields[7] else (table, 0)
    for place in range(fields[7]):
        (pointer,) = pointers.unpack(_DOS_POINTER, first + place * _DOS_POINTER.size)
        names, at = _at(file, sections, pointer)
        found.add(names.name_at(at))
    return frozenset(found)


def machine_of(data: bytes | memoryview, what: str) -> str:
    """The machine that a DLL is for, as in the facts. Raises Failed (``bad-binary``)."""
    return _machine(_coff(Window.over(data, what))[1][1])


def _parts(data: bytes | memoryview, what: str) -> tuple[Window, Window, list[_Section]]:
    """The file, its optional header and its sections."""
    file = Window.over(data, what)
    start, fields = _coff(file)
    count, optional_size = fields[2], fields[6]
    if count > _SECTION_LIMIT:
        raise file.damaged(f"it claims {count} sections")
    optional = file.part(start + _COFF.size, optional_size, "optional header")
    if optional.unpack(_OPTIONAL_MAGIC, 0) != (_PE32_PLUS,):
        raise file.foreign("it is no 64-bit DLL")
    table = start + _COFF.size + optional_size
    return file, optional, [_section(file, table + number * _SECTION.size) for number in range(count)]


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


def _import_table(file: Window, optional: Window, sections: list[_Section]) -> Iterator[tuple[tuple[int, ...], str]]:
    """The entry of each DLL that it loads, and that DLL's name."""
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
        yield fields, names.name_at(place)
        offset += _IMPORT.size
    raise file.damaged("its import table does not end")


def _at(file: Window, sections: list[_Section], address: int) -> tuple[Window, int]:
    """The section's content that holds a virtual address, and the offset in it."""
    for section in sections:
        if section.address <= address < section.address + len(section.content):
            return section.content, address - section.address
    raise file.damaged(f"the address {address:#x} lies in no section")
