"""How ``bnbenv list`` looks: a line a generation that can be read aloud, and what it holds below."""

from __future__ import annotations

from typing import Any

from bnbenv.cli.render.text import local_time, wrap


def render(document: dict[str, Any]) -> str:
    if not document["generations"]:
        return f"no generations yet\nproject: {document['project']}\nnext: bnbenv sync"
    lines = [line for row in document["generations"] for line in _row(row)]
    return "\n".join([*lines, "next: bnbenv rollback N switches to generation N, bnbenv gc deletes old ones"])


def _row(row: dict[str, Any]) -> list[str]:
    name = f"{row['env']} {row['generation']}{', in use' if row['in_use'] else ''}"
    if row["newer"]:
        return [f"{name}: made by a newer bnbenv"]
    if not row["finished"]:
        return [f"{name}: {'its record is missing or damaged' if row['in_use'] else 'unfinished'}"]
    state = "verified" if row["verified"] else "not verified"
    how = "adopted" if row["adopted"] else "made"
    made = f"{name}: {how} {local_time(row['created'])}, {state if row['usable'] else 'its Python is gone'}"
    where = wrap(f"in {row['path']}, which bnbenv leaves as it is", "  ") if row["adopted"] else []
    return [made, *where, *wrap(f"{held(row)}torch {row['torch']}, Python {row['python']}", "  ")]


def held(row: dict[str, Any]) -> str:
    """``bitsandbytes 0.50.2, ``, or another family's packages; nothing where it is torch alone."""
    own = [f"bitsandbytes {row['bitsandbytes']}"] if row["bitsandbytes"] else []
    named = [*own, *(f"{name} {version}" for name, version in row["packages"].items())]
    return "".join(f"{one}, " for one in named)
