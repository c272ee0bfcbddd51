"""Amounts of memory, as people write and read them. Pure."""

from __future__ import annotations

import re

GIB = 1 << 30

_SIZE = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)\s*([kmgt]?)(ib|b|)", re.IGNORECASE)


def read_size(text: str) -> int:
    """Bytes: ``20GiB`` and ``20G`` are 20 * 1024**3, ``20GB`` is 20 * 1000**3, ``512MiB``. Raises ValueError."""
    found = _SIZE.fullmatch(text.strip())
    # Who writes 20 means GiB: taken as bytes, it would wait for nothing.
    if found is None or not (found[2] or found[3]) or (found[3].lower() == "ib" and not found[2]):
        raise ValueError(f'expected a size such as 20GiB, 20GB or 512MiB, found "{text[:40]}"')
    base = 1000 if found[2] and found[3].lower() == "b" else 1024
    size = int(float(found[1]) * base ** " kmgt".index(found[2].lower() or " "))
    if size <= 0:
        raise ValueError(f'expected a size of more than nothing, found "{text[:40]}"')
    return size


def show_size(size: int) -> str:
    """``19.8 GiB``, below one GiB ``512 MiB``."""
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / (1 << 20):.0f} MiB"


def show_seconds(seconds: float) -> str:
    """``45 s``, ``12 min``, ``2 h``."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h".replace(".0 h", " h")
