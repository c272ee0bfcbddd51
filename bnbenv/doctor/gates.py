"""What packages refuse of each other: data in ``gates.toml``."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import msgspec

from bnbenv.decode import convert, read_toml

FILE = Path(__file__).parent / "gates.toml"


class Gate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where ``package`` is one of ``versions``, ``of`` has to be one of ``needs``; ``code`` is the rule's name."""

    code: str
    package: str
    versions: str
    of: str
    needs: str
    source: str


class _Gates(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    gate: tuple[Gate, ...]


@lru_cache(maxsize=1)
def gates() -> tuple[Gate, ...]:
    """All of them; of several that hold the first is told. Raises InputError where the file is damaged."""
    step = "Install bnbenv again: its own data is incomplete or damaged."
    document = read_toml(FILE.read_text(encoding="utf-8"), FILE.name, step)
    return convert(document, _Gates, FILE.name, "", step).gate
