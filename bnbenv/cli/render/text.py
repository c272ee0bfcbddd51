"""Lines of at most 80 columns, in which paths, addresses and commands stay whole."""

from __future__ import annotations

from typing import Any

WIDTH = 80


def wrap(text: str, indent: str = "", more: str = "    ") -> list[str]:
    """A sentence as lines; ``more`` is how far the second and later ones are indented beyond the first."""
    if len(indent) + len(text) <= WIDTH:
        return [indent + text]
    import textwrap

    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=indent + more,
        break_long_words=False,
        break_on_hyphens=False,
    )


def harmless(text: str, keep: str = "") -> str:
    """A text without the codes that a terminal obeys: what was read in other people's files may hold some.

    They are shown as escapes, and so is every other sign that is none to look at, but for those to ``keep``.
    """
    if text.isprintable():
        return text
    return "".join(
        sign if sign.isprintable() or sign in keep else sign.encode("unicode_escape").decode() for sign in text
    )


def describe(choice: dict[str, Any]) -> str:
    """``bitsandbytes 0.50.2, torch 2.15.0 (CUDA 13.2), Python 3.12``."""
    torch = choice["torch"]
    cuda = f"CUDA {torch['cuda']}" if torch["cuda"] else "CPU"
    wheel = choice["bitsandbytes"]
    # What an earlier release recorded has no list of packages.
    named = [*([{"name": "bitsandbytes", **wheel}] if wheel else []), *choice.get("packages", [])]
    own = "".join(f"{one['name']} {one['version']}, " for one in named)
    return f"{own}torch {torch['version']} ({cuda}), Python {choice['python']}"


def listed(words: list[str]) -> str:
    """``a, b and c``."""
    *others, last = words
    return f"{', '.join(others)} and {last}" if others else last


def local_time(moment: str | None) -> str:
    """An ISO time on this machine's clock, to the minute; what is none stays as it is."""
    import datetime

    try:
        return datetime.datetime.fromisoformat(moment or "").astimezone().strftime("%Y-%m-%d %H:%M")
    except (ValueError, OverflowError, OSError):
        return moment or "at an unknown time"
