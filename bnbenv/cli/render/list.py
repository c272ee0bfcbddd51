"""How ``bnbenv list`` looks."""

from __future__ import annotations

from typing import Any


def render(document: dict[str, Any]) -> str:
    if not document["generations"]:
        return "no generations yet\nnext: bnbenv sync"
    lines = []
    for row in document["generations"]:
        if not row["finished"]:
            lines.append(f"  {row['env']} {row['generation']}  unfinished; the next sync deletes it")
            continue
        mark = "*" if row["in_use"] else " "
        state = "verified" if row["verified"] else "not verified"
        state = state if row["usable"] else "its Python is gone"
        lines.append(
            f"{mark} {row['env']} {row['generation']}  {row['created'][:16].replace('T', ' ')}  "
            f"bitsandbytes {row['bitsandbytes']}, torch {row['torch']}, Python {row['python']}, {state}"
        )
    lines.append("(* in use)")
    return "\n".join(lines)
