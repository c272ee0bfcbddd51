"""The signatures of ``signatures.toml``, compiled, and where each of them stands in a text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache, lru_cache
from pathlib import Path

import msgspec

from bnbenv.decode import convert, read_toml
from bnbenv.doctor.causes import About
from bnbenv.doctor.text.cleaning import Views
from bnbenv.doctor.text.mentions import ran, spoken_of

FILE = Path(__file__).parent / "signatures.toml"
BEFORE = 3000  # squeezed bytes in which ``before`` has to stand
LINES = 40  # of a match that are kept
MOST = 200  # places of one expression that are looked at
REPEATS = 80  # of what is repeated without an end: otherwise a text made for it takes a time that grows as its square

_RUN = re.compile(r"\\[.()\[\]{}+*?|^$/:<>=-]|[A-Za-z0-9_ '\"`!,;:<>=@#%&~/-]")


class Signature(About, frozen=True, kw_only=True):
    """How a code is known in a text; the fields are explained in ``signatures.toml``."""

    patterns: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    unless: tuple[str, ...] = ()
    alone: bool = True
    transient: bool = False
    memory: bool = False


class Expression(msgspec.Struct, frozen=True):
    """``literals`` all stand in whatever ``text`` matches, in any order.

    Looking for them first is much quicker, and spares compiling hundreds of expressions for a text that has a few.
    """

    text: bytes
    flags: int
    literals: tuple[bytes, ...]


class Compiled(msgspec.Struct, frozen=True):
    """A signature's expressions, by what they are matched against and what for."""

    signature: Signature
    patterns: tuple[Expression, ...]
    words: tuple[Expression, ...]
    before: tuple[Expression, ...]
    also: tuple[Expression, ...]
    unless: tuple[Expression, ...]


class Hit(msgspec.Struct, frozen=True):
    """A signature that a text has: the indices of the lines where it stands first, and of where it stands last.

    Of a harmless one ``lines`` are those of every place.
    """

    signature: Signature
    lines: tuple[int, ...]
    first: int
    last: int


@lru_cache(maxsize=1)
def signatures() -> dict[str, Signature]:
    """Every signature by its code, in the file's order. Raises InputError where that file of bnbenv is damaged."""
    step = "Install bnbenv again: its own data is incomplete or damaged."
    tables = read_toml(FILE.read_text(encoding="utf-8"), FILE.name, step)
    return {code: convert({**table, "code": code}, Signature, FILE.name, code, step) for code, table in tables.items()}


@lru_cache(maxsize=1)
def compiled() -> tuple[Compiled, ...]:
    """Every signature, ready to be looked for."""
    return tuple(
        Compiled(
            one,
            patterns=_squeezed(one.patterns),
            words=tuple(_expression(text, spaced=True) for text in one.words),
            before=_squeezed(one.before),
            also=_squeezed(one.also),
            unless=_squeezed(one.unless),
        )
        for one in signatures().values()
    )


def hits(views: Views) -> tuple[Hit, ...]:
    """Every signature that a text has, in the order of their first places."""
    executed = ran(views)
    found = (hit for one in compiled() if (hit := _hit(one, views, executed)) is not None)
    return tuple(sorted(found, key=lambda hit: hit.first))


def _hit(one: Compiled, views: Views, executed: bool) -> Hit | None:
    spans = [span for expression in one.patterns for span in _spans(expression, views.squeezed)]
    if one.before:
        spans = [span for span in spans if _stands_before(one.before, views.squeezed, span[0])]
    spans = [span for span in spans if not spoken_of(views, True, span[0], executed)]
    places = [(views.line_at(True, begin), views.line_at(True, end - 1)) for begin, end in spans]
    for expression in one.words:
        for begin, end in _spans(expression, views.worded):
            if spoken_of(views, False, begin, executed):
                continue
            places.append((views.line_at(False, begin), views.line_at(False, end - 1)))
    if not places:
        return None
    if any(next(_spans(each, views.squeezed), None) is None for each in one.also):
        return None
    if any(next(_spans(each, views.squeezed), None) is not None for each in one.unless):
        return None
    places.sort()
    begin = places[0][0]
    kept = places if one.signature.role == "harmless" else places[:1]
    lines = sorted({at for first, last in kept for at in range(first, min(last, first + LINES) + 1)})
    return Hit(one.signature, tuple(lines), begin, max(end for _, end in places))


def _stands_before(expressions: tuple[Expression, ...], text: bytes, at: int) -> bool:
    stretch = text[max(0, at - BEFORE) : at]
    return any(next(_spans(each, stretch), None) is not None for each in expressions)


def _spans(expression: Expression, text: bytes) -> Iterator[tuple[int, int]]:
    if not all(literal in text for literal in expression.literals):
        return
    for count, match in enumerate(_regex(expression.text, expression.flags).finditer(text)):
        if count >= MOST:
            break
        yield match.span()


def _squeezed(texts: tuple[str, ...]) -> tuple[Expression, ...]:
    return tuple(_expression(text) for text in texts)


def _expression(text: str, spaced: bool = False) -> Expression:
    """An expression as it is matched against lower-case bytes; against squeezed ones without its spaces."""
    tight = _lower(text if spaced else re.sub(r" [?*]?", "", text))
    return Expression(_bounded(tight).encode(), int(re.MULTILINE) if spaced else 0, _literals(tight))


@cache
def _regex(text: bytes, flags: int) -> re.Pattern[bytes]:
    return re.compile(text, flags)


def _bounded(text: str) -> str:
    """The expression with an end to each ``+`` and ``*``; those that are escaped or in a class are plain characters."""
    ends = {"+": f"{{1,{REPEATS}}}", "*": f"{{0,{REPEATS}}}"}
    return re.sub(r"\\.|\[\^?\]?[^\]]*\]|[+*]", lambda found: ends.get(found[0], found[0]), text)


def _lower(text: str) -> str:
    """In lower case, but for what a backslash stands before (``\\W`` is not ``\\w``) and for flags."""
    return re.sub(r"\\.|[A-Z]", lambda found: found[0] if len(found[0]) > 1 else found[0].lower(), text)


def _literals(text: str) -> tuple[bytes, ...]:
    """The runs of plain characters that everything matched has: outside groups and choices, not optional."""
    runs, run, depth, at = [], "", 0, 0
    while at < len(text):
        found = _RUN.match(text, at)
        following = text[at + len(found[0]) : at + len(found[0]) + 1] if found else ""
        if found and depth == 0 and following not in ("?", "*", "{"):
            run += found[0].lstrip("\\") if len(found[0]) > 1 else found[0]
            at += len(found[0])
            continue
        runs.append(run)
        run = ""
        if text[at] == "|" and depth == 0:
            return ()
        at, depth = _past(text, at, depth)
    return tuple(run.encode() for run in (*runs, run) if len(run) >= 3)


def _past(text: str, at: int, depth: int) -> tuple[int, int]:
    """Past one element that is no plain character: an escape, a class, a bracket of a group, a number of times."""
    char = text[at]
    if char == "\\":
        return at + 2 + (2 if text[at + 1] == "x" else 0), depth
    if char == "[":
        return text.index("]", at + 2) + 1, depth
    if char == "{":
        return text.index("}", at) + 1, depth
    return at + 1, depth + (char == "(") - (char == ")")
