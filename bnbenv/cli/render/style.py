"""Colour as a second channel: it repeats what the words at the beginning of a line have said.

Renderers write plain text and know nothing of it, so no meaning can lie in a colour alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

# Machines read what these print, on a terminal too.
PLAIN = frozenset({"path", "export", "config", "completion"})

_RED, _GREEN, _YELLOW, _BOLD, _END = "\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[1m", "\x1b[0m"
_WORDS = {
    _RED: (
        "error:",
        "FAILED",
        "DIED",
        "nothing known to be good fits:",
        "reboot required",
        "failed",
        "unreadable",
        "found:",
        "does not fit",
    ),
    _YELLOW: (
        "not in sync",
        "changes are pending",
        "warning:",
        "skipped",
        "not verified",
        "problem:",
        "because",
        "contradiction:",
        "quantized already",
    ),
    _GREEN: ("in sync", "verified", "ok", "wrote", "nothing is wrong", "fits on"),
    _BOLD: ("next:", "use it:"),
}

# What fills a device (``bnbenv fit``): the line below the bar names the same signs.
_BAR = re.compile(r"^(  \[)([^\]\n]{72})(\])$", re.MULTILINE)
_SIGNS = {_GREEN: "W█", _YELLOW: "sex▓▚▞", _BOLD: "kct▄▂"}


def wanted(stream: Any, environ: Mapping[str, str], system: str = os.name) -> bool:
    """Whether a stream is shown in colour. NO_COLOR forbids it, FORCE_COLOR asks for it, else a terminal decides."""
    if environ.get("NO_COLOR"):
        return False
    if environ.get("FORCE_COLOR"):
        return True
    if environ.get("TERM") == "dumb" or (system == "nt" and not {"WT_SESSION", "ANSICON", "TERM"} & environ.keys()):
        return False
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):  # no stream, or one that was closed
        return False


def paint(text: str) -> str:
    """The text with the words at the beginnings of its lines coloured by what they say."""
    colours = {word: colour for colour, words in _WORDS.items() for word in words}
    words = "|".join(map(re.escape, sorted(colours, key=len, reverse=True)))
    # A line may begin with the name of an environment: "bnb: in sync".
    beginning = re.compile(rf"^(\s*(?:[A-Za-z0-9_-]+: )?)({words})(?!\w)", re.MULTILINE)
    text = beginning.sub(lambda found: f"{found[1]}{colours[found[2]]}{found[2]}{_END}", text)
    return _BAR.sub(lambda found: f"{found[1]}{_filled(found[2])}{found[3]}", text)


def _filled(bar: str) -> str:
    for colour, signs in _SIGNS.items():
        bar = re.sub(f"[{signs}]+", rf"{colour}\g<0>{_END}", bar)
    return bar
