"""What is known about each thing that the doctor can name: data in ``causes.toml``, one table a code.

Codes of rules stand in ``causes.toml``, those of signatures of texts in ``text/signatures.toml``, in the same layout.
The order of ``causes.toml`` is the order of preference where several causes stand side by side.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Literal

import msgspec

from bnbenv.decode import convert, read_toml
from bnbenv.doctor.model import Cause

FILE = Path(__file__).parent / "causes.toml"
SIGNATURES = Path(__file__).parent / "text" / "signatures.toml"

# ``root``: can be the primary cause. ``consequence``: hardly ever alone. ``note``: primary only if nothing else is
# found. ``harmless``: said, and no finding.
Role = Literal["root", "consequence", "note", "harmless"]


class About(msgspec.Struct, frozen=True, kw_only=True):
    """A code: ``title`` is one line, ``explanation`` a sentence or two, ``reference`` where it is documented.

    ``explains`` are what follows from it: codes, or causes of the vocabulary.
    """

    code: str
    cause: Cause
    title: str
    explanation: str
    reference: str
    role: Role = "root"
    explains: tuple[str, ...] = ()


@lru_cache(maxsize=1)
def rule_codes() -> dict[str, About]:
    """Everything in ``causes.toml``, in its order. Raises InputError where that file of bnbenv is damaged."""
    return _read(FILE)


def about(code: str) -> About:
    """What is known about a code of a rule or a signature. Raises KeyError for any other."""
    found = rule_codes().get(code)
    return found if found is not None else _signatures()[code]


@lru_cache(maxsize=1)
def _signatures() -> dict[str, About]:
    return _read(SIGNATURES) if SIGNATURES.is_file() else {}


def _read(path: Path) -> dict[str, About]:
    step = "Install bnbenv again: its own data is incomplete or damaged."
    tables = read_toml(path.read_text(encoding="utf-8"), path.name, step)
    return {
        code: convert({**table, "code": code}, About, path.name, code, step)
        for code, table in tables.items()
        if isinstance(table, dict)
    }
