"""What the dynamic linker reads of an ELF file: its program headers and what its dynamic section leads to. Pure.

`bnbenv.matrix.elf` reads sections, which tools see; the loader never looks at those, and this reads what it does.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from bnbenv.matrix.binary import Window
from bnbenv.matrix.elf import MAGIC

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM = struct.Struct("<IIQQQQQQ")  # type, flags, offset, address, physical, size in file, in memory, alignment
_DYNAMIC = struct.Struct("<qQ")
_NEED = struct.Struct("<HHIII")  # version, count, file, first version, next file
_NEED_VERSION = struct.Struct("<IHHII")  # hash, flags, index, name, next version
_DEFINED = struct.Struct("<HHHHIII")  # version, flags, index, count of names, hash, first name, next
_WORD = struct.Struct("<I")
_PAIR = struct.Struct("<II")
_INDEX = struct.Struct("<H")
_SYMBOL = struct.Struct("<IBBHQQ")  # name, info, other, section, value, size
_GNU_HASH = struct.Struct("<IIII")  # buckets, first hashed symbol, words of the bloom filter, its shift
_MACHINES = {62: "x86_64", 183: "aarch64"}
_LOAD, _DYNAMIC_PART, _INTERPRETER = 1, 2, 3
_NEEDED, _STRTAB, _SYMTAB, _STRSZ, _SONAME, _RPATH, _HASH, _RUNPATH = 1, 5, 6, 10, 14, 15, 4, 29
_GNU_HASH_TAG, _VERSYM, _FLAGS_1 = 0x6FFFFEF5, 0x6FFFFFF0, 0x6FFFFFFB
_VERDEF, _VERDEFNUM, _VERNEED, _VERNEEDNUM = 0x6FFFFFFC, 0x6FFFFFFD, 0x6FFFFFFE, 0x6FFFFFFF
_NODEFLIB = 0x800
_WEAK_VERSION, _WEAK_SYMBOL = 2, 2
_LIMIT = 1 << 16  # entries of one list, as in bnbenv.matrix.elf


class NoElf(Exception):
    """It is no ELF file at all, or is shorter than an ELF header: the loader stops at it."""


class OtherMachine(Exception):
    """An ELF file for another kind of machine: the loader passes over it."""


@dataclass(frozen=True)
class Dynamic:
    """One shared library or program, as the loader sees it.

    ``rpath`` and ``runpath`` are as they stand there, split at colons; ``rpath`` is empty where there is a runpath.
    ``wants`` are the symbol versions that it insists on, by library; ``defines`` those that it has, null where it has
    no versions (anything goes then). ``nodeflib``: neither the linker's cache nor default folders serve its needs.
    """

    machine: str
    soname: str | None
    needed: tuple[str, ...]
    rpath: tuple[str, ...] = ()
    runpath: tuple[str, ...] = ()
    nodeflib: bool = False
    interpreter: str | None = None
    wants: dict[str, tuple[str, ...]] = field(default_factory=dict)
    defines: tuple[str, ...] | None = None


def read_dynamic(data: bytes | memoryview, what: str, machine: str) -> Dynamic:
    """Read a file; ``what`` is how errors call it, ``machine`` what the process is for (``x86_64``).

    Raises NoElf, OtherMachine; Failed (``bad-binary``) where it is damaged.
    """
    return _Reader(data, what, machine).dynamic()


def undefined_symbols(data: bytes | memoryview, what: str, machine: str, library: str) -> tuple[str, ...]:
    """The symbols that a file takes from a library by its version entries; what is only weak is not among them.

    Raises as `read_dynamic` does.
    """
    return _Reader(data, what, machine).undefined(library)


def missing_symbols(data: bytes | memoryview, what: str, machine: str, names: Iterable[str]) -> tuple[str, ...]:
    """Those of some symbols that a library does not define. Raises as `read_dynamic` does."""
    return _Reader(data, what, machine).missing(names)


class _Reader:
    def __init__(self, data: bytes | memoryview, what: str, machine: str) -> None:
        self.file = Window.over(data, what)
        if len(self.file) < _HEADER.size or bytes(self.file.view[:4]) != MAGIC:
            raise NoElf("it is no ELF file" if len(self.file) >= _HEADER.size else "it is too short for a library")
        fields = self.file.unpack(_HEADER, 0)
        self.machine = _MACHINES.get(fields[2], f"elf-{fields[2]}")
        if bytes(self.file.view[4:6]) != b"\2\1" or self.machine != machine:
            raise OtherMachine(f"it is for another machine ({self.machine})")
        if fields[9] != _PROGRAM.size:
            raise self.file.damaged("its program headers cannot be read")
        programs = [self.file.unpack(_PROGRAM, fields[5] + number * fields[9]) for number in range(fields[10])]
        self.loads = [one for one in programs if one[0] == _LOAD]
        for one in self.loads:
            if one[2] + one[5] > len(self.file):
                raise self.file.damaged(f"it ends after {len(self.file)} bytes and should have {one[2] + one[5]}")
        self.interpreter = next((self._text(one) for one in programs if one[0] == _INTERPRETER), None)
        self.tags: dict[int, list[int]] = {}
        for one in programs:
            if one[0] == _DYNAMIC_PART:
                self._read_tags(self.file.part(one[2], one[5], "dynamic section"))
        self.names = self._names()

    def _text(self, program: tuple[int, ...]) -> str:
        return self.file.part(program[2], program[5], "interpreter").name_at(0)

    def _read_tags(self, section: Window) -> None:
        for offset in range(0, min(len(section), _LIMIT * _DYNAMIC.size) - _DYNAMIC.size + 1, _DYNAMIC.size):
            tag, value = section.unpack(_DYNAMIC, offset)
            if not tag:
                return
            self.tags.setdefault(tag, []).append(value)

    def _names(self) -> Window:
        start, size = self._one(_STRTAB), self._one(_STRSZ)
        if start is None or size is None:
            return self.file.part(0, 0, "names")
        return self.file.part(self._offset(start), size, "names")

    def _one(self, tag: int) -> int | None:
        values = self.tags.get(tag)
        return values[-1] if values else None

    def _offset(self, address: int) -> int:
        """Where in the file an address of the loaded library lies."""
        for one in self.loads:
            if one[3] <= address < one[3] + one[5]:
                return one[2] + address - one[3]
        raise self.file.damaged(f"the address {address:#x} lies in no part that is loaded")

    def dynamic(self) -> Dynamic:
        soname, runpath = self._one(_SONAME), self._paths(_RUNPATH)
        return Dynamic(
            machine=self.machine,
            soname=None if soname is None else self.names.name_at(soname),
            needed=tuple(self.names.name_at(value) for value in self.tags.get(_NEEDED, ())),
            rpath=() if _RUNPATH in self.tags else self._paths(_RPATH),
            runpath=runpath,
            nodeflib=bool((self._one(_FLAGS_1) or 0) & _NODEFLIB),
            interpreter=self.interpreter,
            wants=self._wants(),
            defines=self._defines(),
        )

    def _paths(self, tag: int) -> tuple[str, ...]:
        value = self._one(tag)
        return () if value is None else tuple(part for part in self.names.name_at(value).split(":") if part)

    def _wanted(self) -> Iterator[tuple[str, str, int, bool]]:
        """Library, version, its index in the table of symbols, and whether only weak symbols want it."""
        start, count = self._one(_VERNEED), self._one(_VERNEEDNUM) or 0
        if start is None:
            return
        offset, left = self._offset(start), _LIMIT
        for _ in range(count):
            _, versions, name, first, following = self.file.unpack(_NEED, offset)
            library, place = self.names.name_at(name), offset + first
            for _ in range(versions):
                left -= 1
                if not left:
                    raise self.file.damaged("its list of versions does not end")
                _, flags, index, name, after = self.file.unpack(_NEED_VERSION, place)
                yield library, self.names.name_at(name), index, bool(flags & _WEAK_VERSION)
                if not after:
                    break
                place += after
            if not following:
                break
            offset += following

    def _wants(self) -> dict[str, tuple[str, ...]]:
        wants: dict[str, tuple[str, ...]] = {}
        for library, version, _, weak in self._wanted():
            if not weak:
                wants[library] = (*wants.get(library, ()), version)
        return wants

    def _defines(self) -> tuple[str, ...] | None:
        start, count = self._one(_VERDEF), self._one(_VERDEFNUM) or 0
        if start is None:
            return None
        offset, names = self._offset(start), []
        for _ in range(min(count, _LIMIT)):
            fields = self.file.unpack(_DEFINED, offset)
            (name,) = self.file.unpack(_WORD, offset + fields[5])
            names.append(self.names.name_at(name))
            if not fields[6]:
                break
            offset += fields[6]
        return tuple(names)

    def undefined(self, library: str) -> tuple[str, ...]:
        indexes = {index for name, _, index, weak in self._wanted() if name == library and not weak}
        versions, table = self._one(_VERSYM), self._one(_SYMTAB)
        if not indexes or versions is None or table is None:
            return ()
        found = []
        at, symbols = self._offset(versions), self._offset(table)
        for number in range(1, self._first_defined()):
            (index,) = self.file.unpack(_INDEX, at + 2 * number)
            if index & 0x7FFF in indexes:
                name, info, _, section, _, _ = self.file.unpack(_SYMBOL, symbols + number * _SYMBOL.size)
                if not section and info >> 4 != _WEAK_SYMBOL:
                    found.append(self.names.name_at(name))
        return tuple(found)

    def _first_defined(self) -> int:
        """All symbols before this one may be undefined; the linker puts those that it defines after them."""
        gnu, old = self._one(_GNU_HASH_TAG), self._one(_HASH)
        if gnu is not None:
            return min(self.file.unpack(_GNU_HASH, self._offset(gnu))[1], _LIMIT)
        return min(self.file.unpack(_WORD, self._offset(old) + 4)[0], _LIMIT) if old is not None else 0

    def missing(self, names: Iterable[str]) -> tuple[str, ...]:
        table = self._one(_SYMTAB)
        if table is None:
            return tuple(names)
        symbols = self._offset(table)
        return tuple(name for name in names if not any(self._is(name, one, symbols) for one in self._alike(name)))

    def _is(self, name: str, number: int, symbols: int) -> bool:
        fields = self.file.unpack(_SYMBOL, symbols + number * _SYMBOL.size)
        return fields[3] != 0 and self.names.name_at(fields[0]) == name

    def _alike(self, name: str) -> Iterator[int]:
        """The symbols that the table of hashes gives for a name; NVIDIA's libraries of CUDA 12.1 have the old kind."""
        gnu, old = self._one(_GNU_HASH_TAG), self._one(_HASH)
        if gnu is not None:
            yield from self._alike_by_gnu(gnu_hash(name), self._offset(gnu))
        elif old is not None:
            at = self._offset(old)
            buckets, chains = self.file.unpack(_PAIR, at)
            number = self._word(at + 8 + 4 * (elf_hash(name) % buckets)) if buckets else 0
            for _ in range(min(chains, _LIMIT)):
                if not number:
                    return
                yield number
                number = self._word(at + 8 + 4 * (buckets + number))

    def _alike_by_gnu(self, wanted: int, at: int) -> Iterator[int]:
        count, first, bloom, _ = self.file.unpack(_GNU_HASH, at)
        buckets = at + _GNU_HASH.size + 8 * bloom
        number = self._word(buckets + 4 * (wanted % count)) if count else 0
        while number and number >= first:
            value = self._word(buckets + 4 * count + 4 * (number - first))
            if value | 1 == wanted | 1:
                yield number
            if value & 1:
                return
            number += 1

    def _word(self, offset: int) -> int:
        return self.file.unpack(_WORD, offset)[0]


def elf_hash(name: str) -> int:
    """The hash of a name in the table that DT_HASH leads to, and of a version's name."""
    value = 0
    for byte in name.encode():
        value = (value << 4) + byte
        high = value & 0xF0000000
        value = (value ^ (high >> 24)) & ~high & 0xFFFFFFFF
    return value


def gnu_hash(name: str) -> int:
    """The hash of a symbol's name in the table that DT_GNU_HASH leads to."""
    value = 5381
    for byte in name.encode():
        value = (value * 33 + byte) & 0xFFFFFFFF
    return value
