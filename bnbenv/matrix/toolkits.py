"""What a CUDA toolkit compiles, and which host compilers it takes, out of what its own files say. Pure."""

from __future__ import annotations

import re
from typing import NamedTuple

from bnbenv.errors import Failed

_TARGET = re.compile(r"'((?:sm|compute)_([0-9]{1,4})([af]?))'")
_VERSION = re.compile(r"release [0-9.]+, V([0-9]+\.[0-9]+\.[0-9]+)")
_GCC = re.compile(r"^#if __GNUC__ > (\d\d?)\s+#error -- unsupported GNU version", re.MULTILINE)
_CLANG = re.compile(
    r"^#if \(__clang_major__ >= (\d\d?)\) \|\| \(__clang_major__ < (\d\d?)\).*\s+#error -- unsupported clang version",
    re.MULTILINE,
)
# extern __DEVICE_FUNCTIONS_DECL__ __device_builtin__ double   cospi(double x);
# glibc declares these functions too, without an exception: where CUDA's declarations do not say so, they contradict.
_BARE = re.compile(r"^extern[^\n(]*\bdouble\s+(cospi|rsqrt)\(double x\);", re.MULTILINE)
_GLIBC_HAS = {"cospi": (2, 41), "rsqrt": (2, 42)}
_MSC = re.compile(r"^#if _MSC_VER < (\d{4}) \|\| _MSC_VER >= (\d{4})\s+#error -- unsupported Microsoft", re.MULTILINE)


class HostCompilers(NamedTuple):
    """The limits of a ``crt/host_config.h``; null where it names none. It names no oldest gcc.

    ``gcc_max`` and ``clang_max`` are the newest majors, ``clang_min`` the oldest; ``msc_min`` is the oldest value of
    ``_MSC_VER`` and ``msc_end`` the first that is too new.
    """

    gcc_max: int | None
    clang_min: int | None
    clang_max: int | None
    msc_min: int | None
    msc_end: int | None


def glibc_end(header: str) -> tuple[int, int] | None:
    """The first glibc whose declarations the text of a ``crt/math_functions.h`` contradicts; None: none known."""
    return min((_GLIBC_HAS[name] for name in _BARE.findall(header.replace("\r\n", "\n"))), default=None)


def host_compilers(header: str) -> HostCompilers:
    """The limits in the text of a ``crt/host_config.h``.

    Raises Failed (``bad-toolkit``) where it names none at all: it is another file, or of a shape not seen before.
    """
    text = header.replace("\r\n", "\n")
    gcc, clang, msc = _GCC.search(text), _CLANG.search(text), _MSC.search(text)
    if not (gcc or clang or msc):
        raise Failed("bad-toolkit", "this host_config.h names no limit of any host compiler")
    return HostCompilers(
        gcc_max=int(gcc[1]) if gcc else None,
        clang_min=int(clang[2]) if clang else None,
        clang_max=int(clang[1]) - 1 if clang else None,
        msc_min=int(msc[1]) if msc else None,
        msc_end=int(msc[2]) if msc else None,
    )


def compile_targets(help_text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The SASS and the PTX targets in what ``ptxas --help`` prints, in order.

    Raises Failed (``bad-toolkit``) where it lists none.
    """
    found = {match[1]: (int(match[2]), match[3]) for match in _TARGET.finditer(help_text)}
    names = sorted(found, key=lambda name: found[name])
    sass = tuple(name for name in names if name.startswith("sm_"))
    ptx = tuple(name for name in names if name.startswith("compute_"))
    if not sass or not ptx:
        raise Failed("bad-toolkit", "ptxas --help lists no targets")
    return sass, ptx


def tool_version(text: str) -> str:
    """``12.8.93`` in what ``ptxas --version`` prints. Raises Failed (``bad-toolkit``)."""
    match = _VERSION.search(text)
    if match is None:
        raise Failed("bad-toolkit", "ptxas --version names no version")
    return match[1]
