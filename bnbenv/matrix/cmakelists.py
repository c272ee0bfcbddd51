"""What bitsandbytes' ``CMakeLists.txt`` says of what it is compiled with. Pure: text in, a value out."""

from __future__ import annotations

import re
from typing import NamedTuple

# A quoted argument is kept whole: a hash in it begins no comment. What is never closed reaches to the end, so that a
# text of any kind is read in linear time.
_COMMENT = re.compile(r'("(?:[^"\\]|\\.)*(?:"|\\?\Z))|#\[(=*)\[(?:.*?\]\2\]|.*)|#[^\n]*', re.DOTALL)
_CMAKE = re.compile(
    r"^[ \t]*cmake_minimum_required\s*\(\s*VERSION\s+([0-9]+(?:\.[0-9]+){0,3})", re.IGNORECASE | re.MULTILINE
)
_PROJECT = re.compile(r"^[ \t]*project\s*\(\s*\"?([\w.-]+)", re.IGNORECASE | re.MULTILINE)
# if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS "11.8")
#     message(FATAL_ERROR "CUDA Version < 11.8 is not supported")
_REFUSES = re.compile(
    r"\b(?:else)?if\s*\(\s*\"?\$?\{?CMAKE_CUDA_COMPILER_VERSION\}?\"?\s+VERSION_(LESS|GREATER_EQUAL)"
    r"\s+\"?([0-9]+(?:\.[0-9]+){0,2})\"?\s*\)\s*message\s*\(\s*FATAL_ERROR",
    re.IGNORECASE,
)


class CmakeLists(NamedTuple):
    """``project`` is what it calls itself, ``cmake`` the oldest CMake that it takes (``3.22.1``).

    ``cuda_min`` is the oldest CUDA that it compiles with (``11.8``) and ``cuda_end`` the first that is too new
    (``14.0``); ``capability`` says whether targets can be chosen by ``COMPUTE_CAPABILITY``. Null: it names none.
    """

    project: str | None
    cmake: str | None
    cuda_min: str | None
    cuda_end: str | None
    capability: bool


def read_cmakelists(text: str) -> CmakeLists:
    """What a ``CMakeLists.txt`` says; the first of each counts."""
    plain = _COMMENT.sub(lambda match: match[1] or "", text)
    refused: dict[str, str] = {}
    for match in _REFUSES.finditer(plain):
        refused.setdefault(match[1].upper(), _release(match[2]))
    return CmakeLists(
        project=_first(_PROJECT, plain),
        cmake=_first(_CMAKE, plain),
        cuda_min=refused.get("LESS"),
        cuda_end=refused.get("GREATER_EQUAL"),
        capability="COMPUTE_BACKEND" in plain and "COMPUTE_CAPABILITY" in plain,
    )


def _release(text: str) -> str:
    """A version as a release of CUDA: ``13`` is ``13.0``."""
    major, _, rest = text.partition(".")
    return f"{major}.{rest.partition('.')[0] or 0}"


def _first(pattern: re.Pattern[str], text: str) -> str | None:
    match = pattern.search(text)
    return match[1] if match else None
