"""What went wrong in a log of CMake, Ninja and the compilers: the first real error, and what is known about it. Pure.

A compiler's error stands in the midst of warnings, the commands that were run, and what other compilers print
meanwhile; the last lines only say that something failed before. What is known is data: ``failed.toml``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import msgspec

from bnbenv.decode import convert, load_toml

LOG_LIMIT = 16 << 20  # characters that are looked at: of a longer log its two ends
LINE_LIMIT = 1000  # characters of a line
LINES = 12  # of what stands before and after an error
TOLD = 1000  # lines of one message of CMake
SHOWN = 40  # of them
SENTENCE = 300  # characters of the error itself


class Cause(msgspec.Struct, frozen=True, rename="kebab"):
    """A known cause. ``patterns`` are looked for in the error and in what stands around it."""

    id: str
    patterns: tuple[str, ...]
    next_step: str


class _Causes(msgspec.Struct, frozen=True):
    cause: tuple[Cause, ...]


@dataclass(frozen=True)
class Failure:
    """``error`` is the first real error in one line, ``around`` the lines it stands in.

    ``cause`` and ``next_step`` are empty where nothing is known about it.
    """

    error: str
    around: str
    cause: str = ""
    next_step: str = ""


_TOOL = r"(?:[\w+./-]{0,200}[/-])?"  # a tool's name may have its path or its target's triple before it
# What says by itself what is wrong. A line is matched from its beginning, so that no quoted text counts.
_REAL = tuple(
    re.compile(pattern)
    for pattern in (
        r"nvcc (?:fatal|error)\s*:",
        r"(?:ptxas|nvlink|fatbinary|cudafe\+\+|cicc|bin2c)\b[^:\n]{0,300}(?:error|fatal)\s*:",
        r"(?:[^\s:][^:\n]{0,400}(?::\d+){1,2}|<[\w-]{1,30}>): (?:fatal |internal compiler )?error:",  # gcc, clang
        r"(?:[^\s:][^(\n]{0,400}\(\d+\)|At end of source): (?:catastrophic |internal )?error\b[^:\n]{0,80}:",  # nvcc
        r"\{standard input\}:(?:\d+:)? (?:Fatal )?[Ee]rror:",
        _TOOL + r"(?:as|cc1plus|cc1|lto1|lto-wrapper|g\+\+|gcc|c\+\+|cc|clang(?:\+\+)?)(?:-[\d.]{1,9})?: "
        r"(?:fatal |[Ff]atal |internal compiler )?error:",
        _TOOL + r"(?:as|cc1plus|cc1)(?:-[\d.]{1,9})?: .{0,200}(?:out of memory|memory exhausted)",
        r"virtual memory exhausted",
        _TOOL + r"(?:ld(?:\.\w{1,8})?|mold): (?:error|fatal|cannot |unable |final link failed|undefined|.{0,400}"
        r"(?:undefined reference|No space left|file not recognized|not found|hidden symbol|relocation|file in wrong))",
        r"[^\s:][^:\n]{0,400}:(?:\d+:|\([^)\n]{0,200}\):)? undefined reference to",
        r"(?:/bin/)?(?:ba)?sh: (?:line )?(?:\d+: ?)?.{1,200}: (?:not found|command not found|No such file|Permission)",
        r"ninja: (?:error|fatal): ",
        r"CMake Error: ",
        r"make(?:\[\d+\])?: \*\*\* No rule",
        r"(?:/bin/)?(?:ba)?sh: (?:line )?\d{0,6}:? *\d* Killed|Killed$",
        r"terminate called after throwing an instance of 'std::bad_alloc'",
    )
)
_CMAKE = re.compile(r"CMake Error at ([^\n]{1,300}?)(?: \([^()\n]{1,80}\))?:?$")
_COLOUR = re.compile(r"\x1b\[[0-9;]{0,20}[A-Za-z]")
_OWN = re.compile(r"\[\d+/\d+\] |FAILED: |ninja: (?:build stopped|Entering)|-- ")  # Ninja's and CMake's own lines
_BEFORE = re.compile(r"In file included from |\s+from |\S.{0,300}: (?:In|At) |\S.{0,300}: in function ")


def first_failure(log: str) -> Failure | None:
    """The first real error in what CMake, Ninja or compilers printed; None where none is found."""
    lines = list(_lines(log))
    real = next((number for number, line in enumerate(lines) if _is_real(line)), None)
    cmake = next((number for number, line in enumerate(lines) if _CMAKE.match(line)), None)
    if real is not None and (cmake is None or real < cmake):
        return _failure(lines[real].strip(), _around(lines, real))
    return None if cmake is None else _of_cmake(_told(lines, cmake))


def out_of_memory(log: str) -> bool:
    """Whether a compiler found no memory or was killed, anywhere in a log: it may not be what failed first."""
    patterns = [pattern for cause in _known() if cause.id == "out-of-memory" for pattern in _compiled(cause)]
    return any(pattern.search(line) for line in _lines(log) if _is_real(line) for pattern in patterns)


def _of_cmake(told: list[str]) -> Failure:
    """A message of CMake. A compiler that CMake tried out tells more than CMake does, which quotes it line by line."""
    quoted = _paragraphs(told[1:])
    real = next((number for number, line in enumerate(quoted) if _is_real(line)), None)
    if real is not None:
        return _failure(quoted[real], _around(quoted, real))
    said = re.split(r"(?<=[.!])\s", " ".join(quoted), maxsplit=1)[0] or "CMake failed"
    head = _CMAKE.match(told[0])
    return _failure(f"{said[:SENTENCE]} ({head[1]})" if head else said, "\n".join(told[:SHOWN]))


def _paragraphs(lines: list[str]) -> list[str]:
    """CMake breaks long lines of what it quotes, and sets an empty line between two of them."""
    text = "\n".join(line.strip() for line in lines)
    return [" ".join(part.split()) for part in re.split(r"\n\n+", text) if part.strip()]


def _failure(error: str, around: str) -> Failure:
    error = error[:SENTENCE]
    for text in (error, around):
        for cause in _known():
            found = next((match for pattern in _compiled(cause) if (match := pattern.search(text))), None)
            if found is not None:
                groups = (found[0], *(group or "" for group in found.groups()))
                return Failure(error, around, cause.id, cause.next_step.format(*groups))
    return Failure(error, around)


@lru_cache(maxsize=1)
def _known() -> tuple[Cause, ...]:
    path = Path(__file__).with_name("failed.toml")
    return convert(load_toml(path.read_text(encoding="utf-8")), _Causes, path.name).cause


@lru_cache(maxsize=64)
def _compiled(cause: Cause) -> tuple[re.Pattern[str], ...]:
    return tuple(re.compile(pattern, re.IGNORECASE) for pattern in cause.patterns)


def _lines(log: str) -> Iterator[str]:
    if len(log) > LOG_LIMIT:
        log = f"{log[: LOG_LIMIT // 2]}\n{log[-LOG_LIMIT // 2 :]}"
    for line in log.splitlines():
        yield _COLOUR.sub("", line[: 2 * LINE_LIMIT])[:LINE_LIMIT].rstrip()


def _is_real(line: str) -> bool:
    text = line.lstrip()
    return not _OWN.match(text) and any(pattern.match(text) for pattern in _REAL)


def _told(lines: list[str], number: int) -> list[str]:
    """A message of CMake: what is set in below its head, with empty lines between."""
    end = number + 1
    while end < len(lines) and end - number < TOLD and (not lines[end] or lines[end].startswith(" ")):
        end += 1
    while end > number + 1 and not lines[end - 1]:
        end -= 1
    return lines[number:end]


def _around(lines: list[str], at: int) -> str:
    """The error, what it was included from, and what the compiler says to it."""
    start = at
    while start and at - start < LINES and _BEFORE.match(lines[start - 1]):
        start -= 1
    end = at + 1
    while end < len(lines) and end - at < LINES and not _OWN.match(lines[end]):
        end += 1
    return "\n".join(lines[start:end]).rstrip()
