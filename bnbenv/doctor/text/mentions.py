"""What a text only speaks of: advice of what to do if it happens, a list of what was mended, source code.

A message counts where a program printed it, or somebody says that it came. Advice in the log of a run that went well
names the same messages.
"""

from __future__ import annotations

import re

from bnbenv.doctor.text.cleaning import SPACE, Views

# What stands before a message on its line where it is advice: "if you see ...", "to avoid ...", "- Fixed ...".
_ADVICE = re.compile(
    rb"(?:\bif you (?:still |ever |then )?(?:see|get|encounter|hit|meet|experience|have|run into|run out|are running)\b"
    rb"[^.;!?]{0,40}"
    rb"|\bif (?:it|this|that|there|the \w{1,20}) (?:is|are|says?|prints?|shows?|reports?|fails? with|complains?)\b"
    rb"[^.;!?]{0,40}"
    rb"|\bif\W{0,4}"
    rb"|\bin case (?:of|you|it|there)\b[^.;!?]{0,40}"
    rb"|\b(?:avoid|prevent|mitigate)(?:s|ing)?\b[^.;!?]{0,40}"
    rb"|^[-*+ ]{1,6}(?:fix(?:ed|es)|improve[ds]|avoid(?:s|ed)|prevent(?:s|ed)|handle[ds])\b[^;!?]{0,80})$"
)
# A line of source code in which a message stands as what would be printed or caught.
_SOURCE = re.compile(
    rb"[\w./\\-]{1,200}:\d{1,6}[:-] {0,40}(?:#|//)"
    rb"|(?:[\w./\\-]{1,200}:\d{1,6}[:-])?[+-]?\s{0,40}"
    rb"(?:raise \w|print\w?\(|f?printf\(|logg(?:er|ing)\.|warnings\.warn\("
    rb"|except\b.{0,200}:|if .{0,200}:|elif .{0,200}:|assert |return |throw )"
)
# A program ran: a traceback, or an exception at the beginning of a line.
_RAN = re.compile(
    rb"traceback \(most recent|^file \"|^in \w|^-{2,6}> ?\d|^[\w.]{0,100}(?:error|exception|warning): "
    rb"|\berror\b.{0,20}:",
    re.MULTILINE,
)


def spoken_of(views: Views, squeezed: bool, begin: int, executed: bool) -> bool:
    """Whether the message that begins there is only spoken of. ``executed``: the text shows that a program `ran`."""
    index = views.line_at(squeezed, begin)
    start = views.worded_offsets[index]
    end = views.worded.find(b"\n", start)
    line = views.worded[start : end if end >= 0 else len(views.worded)]
    before = _first(line, begin - views.squeezed_offsets[index]) if squeezed else line[: begin - start]
    return _ADVICE.search(before[-200:]) is not None or (not executed and _SOURCE.match(line) is not None)


def ran(views: Views) -> bool:
    """Whether the text shows that a program ran and failed."""
    return _RAN.search(views.worded) is not None


def _first(line: bytes, count: int) -> bytes:
    """The beginning of a line with so many characters that are no white space."""
    for at, char in enumerate(line):
        if char not in SPACE:
            if count <= 0:
                return line[:at]
            count -= 1
    return line
