"""One native library, from its bytes to its row."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from bnbenv.errors import Failed
from bnbenv.matrix import elf, pe
from bnbenv.matrix.binary import Window
from bnbenv.matrix.fatbin import targets
from bnbenv.matrix.model import NativeLibrary

# Mach-O, 64-bit little-endian and universal: the libraries for macOS, which hold no CUDA code.
_MACH_O = (b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe")
_MACH_O_CPU = struct.Struct("<I")
_MACH_O_MACHINES = {0x0100000C: "aarch64", 0x01000007: "x86_64"}
_BACKEND = re.compile(r"libbitsandbytes_(cuda|cpu|rocm|hip|xpu)")
_NAMED = re.compile(r"libbitsandbytes_cuda(\d+)(\d)(?!\d)")
# The toolkit's libraries whose number is its major; those of others (libcufft.so.11 of CUDA 12) count on their own.
_OF_TOOLKIT = re.compile(
    r"lib(?:cudart|cublas|cublasLt|nvrtc|nvJitLink)\.so\.(\d+)|(?:cudart|cublas|cublasLt)64_(\d+)\.dll"
)
_BACKEND_OF = {"hip": "rocm"}


def backend_of(name: str) -> str:
    """The backend that a library's file name tells: cuda, cpu, rocm, xpu, or other."""
    match = _BACKEND.match(name)
    return _BACKEND_OF.get(match[1], match[1]) if match else "other"


def is_library(beginning: bytes) -> bool:
    """Whether a file begins as an ELF, PE or Mach-O file does (four bytes are enough)."""
    return beginning[:4] in (elf.MAGIC, *_MACH_O) or beginning[:2] == pe.MAGIC


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
    if magic in _MACH_O and _is_universal(data):
        return "macos", "any"
    raise _unknown(name)


def _is_universal(data: bytes | memoryview) -> bool:
    """Java's classes begin with the same bytes, and then have a version where libraries count architectures."""
    return 1 <= int.from_bytes(bytes(data[4:8]), "big") < 30


def read_native(data: bytes | memoryview, name: str) -> NativeLibrary:
    """Read a library's bytes; ``name`` is its file name without folders.

    Of a Mach-O library only the name is kept. Raises Failed (``bad-binary``) for damaged and for unknown files.
    """
    return read_library(data, name).row


@dataclass(frozen=True)
class Library:
    """One library of any project: its row and what that does not say.

    ``os`` and ``machine`` as in the facts. ``cuda`` is the CUDA release it is for (``12.8``), or its major alone
    (``12``) where only the libraries it links tell, ``ptx_cuda`` the oldest release that reads its PTX; both null where
    nothing tells.
    """

    row: NativeLibrary
    os: str
    machine: str
    cuda: str | None = None
    ptx_cuda: str | None = None


def read_library(data: bytes | memoryview, name: str) -> Library:
    """Read a library's bytes; ``name`` may have folders before it.

    Raises Failed (``bad-binary``) for damaged and for unknown files.
    """
    system, machine = platform_of(data, name)
    base = name.rpartition("/")[2]
    if system == "macos":
        return Library(NativeLibrary(name, backend_of(base)), system, machine)
    binary = elf.read_elf(data, name) if system == "linux" else pe.read_pe(data, name)
    code = targets(binary.fatbins)
    row = NativeLibrary(
        name=name,
        backend=backend_of(base),
        sass=code.sass,
        ptx=code.ptx,
        needed=binary.needed,
        glibc=binary.glibc,
        glibcxx=binary.glibcxx,
    )
    return Library(row, system, machine, cuda_of(base, row.needed, code.ptx_cuda), code.ptx_cuda)


@lru_cache(maxsize=512)
def library_cuda(name: str) -> str | None:
    """The CUDA release in a bitsandbytes library's name: ``libbitsandbytes_cuda128.so`` -> 12.8; None for others."""
    match = _NAMED.match(name)
    return f"{match[1]}.{match[2]}" if match else None


def cuda_of(name: str, needed: Iterable[str] = (), ptx_cuda: str | None = None) -> str | None:
    """The CUDA release in a bitsandbytes library's name (``12.8``), else the major that what it links tells (``12``).

    ``ptx_cuda`` tells the major where neither does. Null: nothing tells.
    """
    named = library_cuda(name)
    if named:
        return named
    for linked in (name, *needed):
        match = _OF_TOOLKIT.match(linked)
        if match:
            number = match[1] or match[2]
            return number[:2] if len(number) == 3 else number  # cudart64_110.dll
    return ptx_cuda.partition(".")[0] if ptx_cuda else None


def _unknown(name: str) -> Failed:
    return Failed("bad-binary", f"{name} is no ELF, PE or Mach-O library", "Download the file again.")
