"""One native library, from its bytes to its row."""

from __future__ import annotations

import re
import struct

from bnbenv.errors import Failed
from bnbenv.matrix import elf, pe
from bnbenv.matrix.binary import Binary, Window
from bnbenv.matrix.fatbin import targets
from bnbenv.matrix.model import NativeLibrary

# Mach-O, 64-bit little-endian and universal: the libraries for macOS, which hold no CUDA code.
_MACH_O = (b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe")
_MACH_O_CPU = struct.Struct("<I")
_MACH_O_MACHINES = {0x0100000C: "aarch64", 0x01000007: "x86_64"}
_BACKEND = re.compile(r"libbitsandbytes_(cuda|cpu|rocm|hip|xpu)")
_BACKEND_OF = {"hip": "rocm"}


def backend_of(name: str) -> str:
    """The backend that a library's file name tells: cuda, cpu, rocm, xpu, or other."""
    match = _BACKEND.match(name)
    return _BACKEND_OF.get(match[1], match[1]) if match else "other"


def platform_of(data: bytes | memoryview, name: str) -> tuple[str, str]:
    """The system (linux, windows, macos) and the machine (x86_64, aarch64) that a library is for.

    A universal library is for ``any`` machine. Raises Failed (``bad-binary``) for damaged and for unknown files.
    """
    magic = bytes(data[:4])
    if magic == elf.MAGIC:
        return "linux", elf.machine_of(data, name)
    if magic[:2] == pe.MAGIC:
        return "windows", pe.machine_of(data, name)
    if magic == _MACH_O[0]:
        (cpu,) = Window.over(data, name).unpack(_MACH_O_CPU, 4)
        return "macos", _MACH_O_MACHINES.get(cpu, f"mach-o-{cpu:#x}")
    if magic in _MACH_O:
        return "macos", "any"
    raise _unknown(name)


def read_native(data: bytes | memoryview, name: str) -> NativeLibrary:
    """Read a library's bytes; ``name`` is its file name without folders.

    Of a Mach-O library only the name is kept. Raises Failed (``bad-binary``) for damaged and for unknown files.
    """
    magic = bytes(data[:4])
    if magic in _MACH_O:
        return NativeLibrary(name, backend_of(name))
    if magic == elf.MAGIC:
        return _row(name, elf.read_elf(data, name))
    if magic[:2] == pe.MAGIC:
        return _row(name, pe.read_pe(data, name))
    raise _unknown(name)


def _unknown(name: str) -> Failed:
    return Failed("bad-binary", f"{name} is no ELF, PE or Mach-O library", "Download the file again.")


def _row(name: str, binary: Binary) -> NativeLibrary:
    code = targets(binary.fatbins)
    return NativeLibrary(
        name=name,
        backend=backend_of(name),
        sass=code.sass,
        ptx=code.ptx,
        needed=binary.needed,
        glibc=binary.glibc,
        glibcxx=binary.glibcxx,
    )
