"""How ``bnbenv list`` looks."""

from __future__ import annotations

from typing import Any

_HEAD = ("  env no", "made", "bitsandbytes", "torch", "Python", "state")


def render(document: dict[str, Any]) -> str:
    if not document["generations"]:
        return f"no generations yet\nproject: {document['project']}\nnext: bnbenv sync"
    rows = [_HEAD, *(_row(row) for row in document["generations"])]
    widths = [max(len(row[place]) for row in rows) for place in range(len(_HEAD))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, "(* in use; bnbenv rollback NO switches back)"])


def _row(row: dict[str, Any]) -> tuple[str, ...]:
    name = f"{'*' if row['in_use'] else ' '} {row['env']} {row['generation']}"
    if not row["finished"]:
        return (name, "-", "-", "-", "-", "its record is gone" if row["in_use"] else "unfinished")
    state = "verified" if row["verified"] else "not verified"
    versions = (str(row["bitsandbytes"]), str(row["torch"]), str(row["python"]))
    return (name, _local(row["created"]), *versions, state if row["usable"] else "its Python is gone")


def _local(created: str) -> str:
    """The time on this machine's clock."""
    import datetime

    try:
        return datetime.datetime.fromisoformat(created).astimezone().strftime("%Y-%m-%d %H:%M")
    except ValueError:
        return created
