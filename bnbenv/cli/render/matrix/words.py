"""Words for rows of the matrix: platforms, sources, targets, runs of versions."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any


def number(text: str) -> tuple[int, ...]:
    """What versions are sorted by: ``0.40.0.post1`` after ``0.40.0``."""
    return tuple(int(part) for part in re.findall(r"\d+", text)[:8])


def public(version: str) -> str:
    """A version without its local part."""
    return version.partition("+")[0]


def platform_of(row: dict[str, Any]) -> str:
    """``linux-x86_64``, as ``--platform`` takes it."""
    return f"{row['os']}-{row['machine']}"


def source_of(row: dict[str, Any]) -> str:
    """Where a torch build is from; wheels of bitsandbytes are all from the default index."""
    if "source" not in row:
        return "wheels"
    names = {"pytorch-index": "PyTorch's own index", "local": "local wheels", "existing": "installed"}
    return names.get(row["source"], "the default index")


def targets(names: Iterable[str]) -> str:
    """``sm_70 75 80, compute_90``: the prefix once."""
    groups: dict[str, list[str]] = {}
    for name in names:
        prefix, _, rest = name.partition("_")
        groups.setdefault(prefix, []).append(rest)
    return ", ".join(f"{prefix}_{' '.join(rest)}" for prefix, rest in groups.items()) or "none"


def runs(found: Iterable[str], known: list[str]) -> str:
    """``0.45.3 to 0.45.5, 0.47.0``: versions as runs of what is known; those with a gap between them apart."""
    wanted = sorted({public(version) for version in found}, key=number)
    places = {version: place for place, version in enumerate(known)}
    groups: list[list[str]] = []
    for version in wanted:
        before = places.get(groups[-1][-1], -9) if groups else -9
        if groups and places.get(version) == before + 1:
            groups[-1].append(version)
        else:
            groups.append([version])
    return ", ".join(one[0] if len(one) == 1 else f"{one[0]} to {one[-1]}" for one in groups)


def short_library(name: str) -> str:
    """``cuda128`` of ``libbitsandbytes_cuda128.so``."""
    return re.sub(r"^libbitsandbytes_|\.(?:so|dll|dylib)$", "", name)


def short_python(tag: str) -> str:
    """``3.13t`` of ``cp313t``."""
    return re.sub(r"^cp3(?=\d)", "3.", tag)
