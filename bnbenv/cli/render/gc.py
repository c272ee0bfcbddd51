"""How ``bnbenv gc`` looks."""

from __future__ import annotations

from typing import Any

from bnbenv.cli.render.text import listed, wrap
from bnbenv.progress import shown_size


def render(document: dict[str, Any]) -> str:
    lines = []
    for row in document["environments"]:
        lines.append(f"{row['env']}: deleted {_generations(row['removed'])}; kept {_generations(row['kept'])}")
    for one in document["builds"]["deleted"]:
        shared = f"; {shown_size(one['shared'])} more are in uv's cache as well" if one["shared"] else ""
        lines += wrap(f"source builds: deleted {_called(one['name'])} ({shown_size(one['freed'])} freed{shared})")
    if document["builds"]["kept"]:
        kept = listed([_called(name) for name in document["builds"]["kept"]])
        lines += wrap(f"source builds: kept {kept} (bnbenv gc --builds deletes what no build is using)")
    return "\n".join(lines)


def _called(name: str) -> str:
    """``cu130-cusparse`` is the compiler of CUDA 13.0."""
    digits = name.partition("-")[0].removeprefix("cu")
    return f"the compiler of CUDA {digits[:-1]}.{digits[-1]}" if digits.isdigit() else "CMake and Ninja"


def _generations(numbers: list[int]) -> str:
    if not numbers:
        return "nothing"
    return f"generation{'s' if len(numbers) > 1 else ''} {listed([str(number) for number in numbers])}"
