"""What a 64-bit little-endian ELF shared library says of itself: linked libraries, symbol versions, fatbins."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from bnbenv.matrix.binary import Binary, Window

MAGIC = b"\x7fELF"
FATBIN_SECTIONS = frozenset({".nv_fatbin", "__nv_relfatbin"})

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_DYNAMIC = struct.Struct("<qQ")
_SYMBOL = struct.Struct("<IBBHQQ")  # name, kind, visibility, section, value, size
_NEED = struct.Struct("<HHIII")  # version, count, file, first version, next file
_NEED_VERSION = struct.Struct("<IHHII")  # hash, flags, other, name, next version
_MACHINES = {62: "x86_64", 183: "aarch64"}
_CLASS64, _LITTLE = 2, 1
_DT_NULL, _DT_NEEDED, _DT_RPATH, _DT_RUNPATH = 0, 1, 15, 29
_SHT_DYNAMIC, _SHT_NOBITS, _SHT_DYNSYM, _SHT_VERNEED = 6, 8, 11, 0x6FFFFFFE
_STB_WEAK = 2  # a symbol that need not be found
_WEAK = 2  # the loader does not insist on a version that only weak symbols need
# Entries of one list. A real library has dozens; a lying one could make reading quadratic in its size.
_LIMIT = 1 << 16
# glibc marks libraries with packed relative relocations by a name instead of a number; 2.36 brought it.
_NAMED_VERSIONS: dict[str, tuple[int, ...]] = {"GLIBC_ABI_DT_RELR": (2, 36)}


@dataclass(frozen=True)
class _Section:
    name: str
    kind: int
    link: int
    count: int
    content: Window


def read_elf(data: bytes | memoryview, what: str) -> Binary:
    """Read a library; ``what`` is how errors call it.

    Raises Failed (``bad-binary``) for another kind of file, and where headers contradict each other.
    """
    file = Window.over(data, what)
    machine, sections = _sections(file)
    glibc, glibcxx = _needed_versions(sections)
    return Binary(
        machine=_machine(machine),
        needed=tuple(name for _, name in _dynamic_names(sections, {_DT_NEEDED})),
        glibc=glibc,
        glibcxx=glibcxx,
        fatbins=tuple(section.content for section in sections if section.name in FATBIN_SECTIONS),
    )


def exported(data: bytes | memoryview, what: str) -> frozenset[str]:
    """The names that a library offers to whoever loads it. Raises Failed (``bad-binary``) as ``read_elf``."""
    return frozenset(name for name, here in _symbols(data, what) if here)


def imported(data: bytes | memoryview, what: str) -> frozenset[str]:
    """The names that a library looks for in others. Raises Failed (``bad-binary``) as ``read_elf``."""
    return frozenset(name for name, here in _symbols(data, what) if not here)


def _symbols(data: bytes | memoryview, what: str) -> Iterator[tuple[str, bool]]:
    """The dynamic symbols, and whether each is defined in the library itself. Weak ones that it lacks are left out."""
    _, sections = _sections(Window.over(data, what))
    for section in sections:
        if section.kind != _SHT_DYNSYM:
            continue
        names = _linked(section, sections)
        for offset in range(0, min(len(section.content), _LIMIT * _SYMBOL.size), _SYMBOL.size):
            name, kind, _, place, _, _ = section.content.unpack(_SYMBOL, offset)
            # A symbol of no section is one that the library itself looks for.
            if name and (place or kind >> 4 != _STB_WEAK):
                yield names.name_at(name), bool(place)


def run_paths(data: bytes | memoryview, what: str) -> tuple[str, ...]:
    """The folders in which a library has its own libraries looked for (RPATH, RUNPATH). Raises as ``exported``."""
    _, sections = _sections(Window.over(data, what))
    return tuple(name for tag, name in _dynamic_names(sections, {_DT_RPATH, _DT_RUNPATH}) if name)


def machine_of(data: bytes | memoryview, what: str) -> str:
    """The machine that a library is for, as in the facts. Raises Failed (``bad-binary``)."""
    return _machine(_header(Window.over(data, what))[2])


def _machine(number: int) -> str:
    return _MACHINES.get(number, f"elf-{number}")


def _header(file: Window) -> tuple[int, ...]:
    if len(file) < _HEADER.size or bytes(file.view[:4]) != MAGIC:
        raise file.damaged("it has no ELF header")
    if file.view[4] != _CLASS64 or file.view[5] != _LITTLE:
        raise file.foreign("it is no 64-bit little-endian ELF file")
    return file.unpack(_HEADER, 0)


def _sections(file: Window) -> tuple[int, list[_Section]]:
    fields = _header(file)
    machine, table, entry_size, count, names_index = fields[2], fields[6], fields[11], fields[12], fields[13]
    if not count:
        raise file.foreign("its table of sections was stripped")
    if entry_size != _SECTION.size or names_index >= count:
        raise file.damaged("its section table cannot be read")
    raw = [file.unpack(_SECTION, table + number * entry_size) for number in range(count)]
    names = _content(file, raw[names_index], "section names")
    sections = []
    for fields in raw:
        name = names.name_at(fields[0]) if fields[1] else ""
        sections.append(_Section(name, fields[1], fields[6], fields[7], _content(file, fields, name)))
    return machine, sections


def _content(file: Window, section: tuple[int, ...], name: str) -> Window:
    if section[1] in (0, _SHT_NOBITS):  # takes no room in the file
        return file.part(0, 0, name)
    return file.part(section[4], section[5], name)


def _linked(section: _Section, sections: list[_Section]) -> Window:
    if section.link >= len(sections):
        raise section.content.damaged(f"it names section {section.link} of {len(sections)}")
    return sections[section.link].content


def _dynamic_names(sections: list[_Section], tags: set[int]) -> Iterator[tuple[int, str]]:
    """What the entries with these tags say."""
    for section in sections:
        if section.kind != _SHT_DYNAMIC:
            continue
        names = _linked(section, sections)
        for offset in range(0, min(len(section.content), _LIMIT * _DYNAMIC.size), _DYNAMIC.size):
            tag, value = section.content.unpack(_DYNAMIC, offset)
            if tag == _DT_NULL:
                break
            if tag in tags:
                yield tag, names.name_at(value)


def _needed_versions(sections: list[_Section]) -> tuple[str | None, str | None]:
    highest: dict[str, tuple[int, ...]] = {}
    for section in sections:
        if section.kind == _SHT_VERNEED:
            for name in _version_names(section, _linked(section, sections)):
                family, _, number = name.partition("_")
                parts = number.split(".")
                version = _NAMED_VERSIONS.get(name)
                if version is None and all(part.isascii() and part.isdigit() for part in parts):
                    version = tuple(map(int, parts))
                if version is not None:
                    highest[family] = max(highest.get(family, ()), version)
    return _dotted(highest.get("GLIBC")), _dotted(highest.get("GLIBCXX"))


def _version_names(section: _Section, names: Window) -> Iterator[str]:
    """The version names a library insists on."""
    content, offset, left = section.content, 0, _LIMIT
    for _ in range(section.count):
        _, count, _, first, following = content.unpack(_NEED, offset)
        place = offset + first
        for _ in range(count):
            left -= 1
            if not left:
                raise content.damaged("its list does not end")
            _, flags, _, name, next_version = content.unpack(_NEED_VERSION, place)
            if not flags & _WEAK:
                yield names.name_at(name)
            if not next_version:
                break
            place += next_version
        if not following:
            break
        offset += following


def _dotted(version: tuple[int, ...] | None) -> str | None:
    return ".".join(map(str, version)) if version else None
