"""What a text says without the clothes it wears: colours, log prefixes, quotes, boxes, wrapping, source that is shown.

Everything here is bytes: what is looked for is ASCII in every encoding that a log comes in.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from typing import NamedTuple

from bnbenv.doctor.text.reading import Line

SHOWN = 300  # characters of a line of evidence

_COLOUR = re.compile(
    rb"(?:\x1b|\\x1b|\\033|\\u001b|\^\[)\[[0-9;?]{0,24}[A-Za-z]"
    rb"|\x1b\][^\x07\x1b]{0,256}(?:\x07|\x1b\\)"
    rb"|\x1b[@-Z\\-_]"
    rb"|\[[0-9;]{1,12}m"
)
_ENTITIES = ((b"&#39;", b"'"), (b"&quot;", b'"'), (b"&gt;", b">"), (b"&lt;", b"<"), (b"&amp;", b"&"), (b"&#x27;", b"'"))
# Quotation marks that an editor or a web page put in place of the printed ones, and characters as an address has them.
_ADDRESS = ((b"%20", b" "), (b"%27", b"'"), (b"%3a", b":"), (b"%3A", b":"))
_QUOTES = ((b"\xe2\x80\x98", b"'"), (b"\xe2\x80\x99", b"'"), (b"\xe2\x80\x9c", b'"'), (b"\xe2\x80\x9d", b'"'))
_BOX = re.compile(rb"\xe2[\x94\x95][\x80-\xbf]|\xe2\x9d\xb1")  # lines and the arrow that Rich draws
_PREFIX = re.compile(
    rb"\s{0,40}(?:"
    rb">(?!>)\s?"  # quoted in Markdown or mail
    rb"|\[(?:default|rank ?|gpu ?|worker ?)?\d{1,4}\]:?\s"
    rb"|\[?(?:[a-z]{1,12}\s)?\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[.,]?\d{0,9}(?:Z|[+-]\d\d:?\d\d)?\]?:?\s"
    rb"|\d{1,2}:\d\d:\d\d[.,-]?\d{0,9}\s"
    rb"|[\w.-]{1,40}\s{0,12}\|\s"  # docker compose
    rb"|(?:stdout|stderr)\s[FP]\s"  # Kubernetes
    rb"|\([\w.=:/-]{0,60}\s?pid=\d{1,9}[^)]{0,60}\)\s"  # Ray
    rb"|(?:ERROR|INFO|WARNING|WARN|DEBUG|CRITICAL)\s\d\d-\d\d\s\d\d:\d\d:\d\d\s\[?[\w./]{1,60}:\d{1,6}\]\s"  # vLLM
    rb"|\[[\w ]{1,20}\]\s(?=\[)"
    rb")"
)
SPACE = b" \t\r\n\v\f\xa0"
_CONTROL = bytes({*range(32), 127} - {*b"\t\r\x1b\b\f\v"})
_ARROW = re.compile(rb"\s{0,3}(?:-{1,6}>\s{0,4}\[?\d{1,6}\b|\xe2\x94\x82\s{0,3}\xe2\x9d\xb1)")
_CONTEXT = re.compile(rb"\s{0,8}(?:\d{1,6}(?:\s|$)|\[\d{1,6}\]\(|\xe2\x94\x82\s{1,8}\d{1,6}\s\xe2\x94\x82)")
NEAR = 8  # lines around an arrow in which source is shown


class Views(NamedTuple):
    """A text in two forms, in lower case: ``squeezed`` has no white space, ``worded`` its cleaned lines.

    Parts that are no neighbors are separated by a line break, which ``.`` does not match. The offsets tell in which
    of ``lines`` a place is.
    """

    squeezed: bytes
    worded: bytes
    lines: tuple[Line, ...]
    squeezed_offsets: tuple[int, ...]
    worded_offsets: tuple[int, ...]

    def line_at(self, squeezed: bool, offset: int) -> int:
        """The index in ``lines`` of a place in one of the two forms."""
        offsets = self.squeezed_offsets if squeezed else self.worded_offsets
        return max(0, bisect_right(offsets, offset) - 1)

    def shown(self, index: int) -> tuple[int, str]:
        """A line as evidence: its number, and its text without clothes, cut where it is long."""
        text = decoded(self.lines[index].text).strip()
        return self.lines[index].number, text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def decoded(text: bytes) -> str:
    """UTF-8 where it is that, else Windows' Western code page; unprintable characters become spaces."""
    try:
        found = text.decode("utf-8")
    except UnicodeDecodeError:
        found = text.decode("cp1252", "replace")
    return "".join(char if char.isprintable() else " " for char in found)


def clean(line: bytes) -> bytes:
    """A line without colours, entities of HTML, and what log programs put before it."""
    if b"[" in line:
        line = _COLOUR.sub(b"", line)
    if b"&" in line:
        for entity, char in _ENTITIES:
            line = line.replace(entity, char)
    for _ in range(3):
        prefix = _PREFIX.match(line)
        if prefix is None:
            break
        line = line[prefix.end() :]
    return line


def _plain(line: bytes) -> bytes:
    """With the quotation marks of a keyboard, and without the escapes of an address."""
    for sign, pairs in ((b"\xe2\x80", _QUOTES), (b"%20", _ADDRESS)):
        if sign in line:
            for written, meant in pairs:
                line = line.replace(written, meant)
    return line


def _is_binary(line: bytes) -> bool:
    return (len(line) - len(line.translate(None, _CONTROL))) * 16 > len(line)


def views(parts: tuple[tuple[Line, ...], ...]) -> Views:
    """The forms in which a text is judged."""
    squeezed: list[bytes] = []
    worded: list[bytes] = []
    kept: list[Line] = []
    squeezed_offsets: list[int] = []
    worded_offsets: list[int] = []
    at_squeezed = at_worded = 0
    for part in parts:
        for line in _without_source(part):
            if not line.text or line.text.isspace() or _is_binary(line.text):
                continue
            text = clean(line.text)
            boxless = _BOX.sub(b" ", text) if b"\xe2" in text else text
            plain = _plain(boxless)
            tight, wide = plain.translate(None, SPACE).lower(), plain.strip(b" \t").lower() + b"\n"
            kept.append(Line(line.number, boxless))
            squeezed_offsets.append(at_squeezed)
            worded_offsets.append(at_worded)
            squeezed.append(tight)
            worded.append(wide)
            at_squeezed += len(tight)
            at_worded += len(wide)
        squeezed.append(b"\n")
        worded.append(b"\n")
        at_squeezed += 1
        at_worded += 1
    return Views(b"".join(squeezed), b"".join(worded), tuple(kept), tuple(squeezed_offsets), tuple(worded_offsets))


def _without_source(part: tuple[Line, ...]) -> tuple[Line, ...]:
    """Without the lines of source that IPython and Rich show around the one that failed: they were not executed.

    Except for the rest of a ``raise`` that failed: its message can stand nowhere else.
    """
    arrows = [index for index, line in enumerate(part) if _ARROW.match(line.text)]
    if not arrows:
        return part
    shown = {near for at in arrows for near in range(at - NEAR, at + NEAR + 1)}
    shown -= {*arrows, *(near for at in arrows for near in _raised(part, at))}
    return tuple(line for i, line in enumerate(part) if not (i in shown and _CONTEXT.match(line.text)))


def _raised(part: tuple[Line, ...], at: int) -> range:
    """The lines after an arrow that go on with its ``raise``, to the parenthesis that ends it."""
    begin = part[at].text.find(b"raise ")
    depth = 0 if begin < 0 else part[at].text.count(b"(", begin) - part[at].text.count(b")", begin)
    end = at + 1
    while depth > 0 and end < min(len(part), at + NEAR + 1):
        depth += part[end].text.count(b"(") - part[end].text.count(b")")
        end += 1
    return range(at + 1, end)
