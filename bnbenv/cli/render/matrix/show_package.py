"""A package of GPTQ or AWQ, as the matrix has it."""

from __future__ import annotations

from typing import Any

from bnbenv.cli.render.matrix.words import number, short_python, targets
from bnbenv.cli.render.text import listed, wrap


def package_lines(document: dict[str, Any]) -> list[str]:
    """Each version, its files alike in a group: what they ask for, and what their kernels hold and are for."""
    lines: list[str] = []
    rows = document["packages"]
    for version in sorted({row["version"] for row in rows}, key=number):
        some = [row for row in rows if row["version"] == version]
        needs = [text for text in some[0]["requires_dist"] if "extra ==" not in text]
        day = f", of {some[0]['uploaded']}" if some[0]["uploaded"] else ""
        asks = f", which asks for {listed(needs)}" if needs else ""
        lines += (
            ["", *wrap(f"{some[0]['name']} {version}{day}{asks}")]
            if lines
            else wrap(f"{some[0]['name']} {version}{day}{asks}")
        )
        groups: dict[tuple[str, ...], list[str]] = {}
        for row in some:
            groups.setdefault((_kind(row), *_kernels(row)), []).extend(row["pythons"])
        for (kind, *kernels), pythons in groups.items():
            tags = f", Python {' '.join(short_python(tag) for tag in dict.fromkeys(pythons))}" if pythons else ""
            lines += wrap(f"{kind}{tags}", "  ")
            for line in kernels:
                lines += wrap(line, "    ")
    return lines


def _kind(row: dict[str, Any]) -> str:
    if row["kind"] == "sdist":
        return "source archive" + (", whose setup looks for torch" if row["build_needs_torch"] else "")
    return f"wheel for {row['os']}-{row['machine']}" if row["os"] else "wheel for any platform"


def _kernels(row: dict[str, Any]) -> list[str]:
    """Libraries that hold the same share a line."""
    holds: dict[str, list[str]] = {}
    for library in row["libraries"]:
        parts = [targets(library["sass"])] if library["sass"] else []
        parts += [f"PTX {targets(library['ptx'])}"] if library["ptx"] else []
        holds.setdefault(", ".join(parts) or "no code for GPUs", []).append(library["name"].partition(".")[0])
    lines = [f"{', '.join(names)}: {what}" for what, names in holds.items()]
    if row["cuda"]:
        torch = f", loads beside torch {' '.join(row['torch_releases'])}" if row["torch_releases"] else ""
        lines.append(f"for CUDA {row['cuda']}{torch}")
    return lines
