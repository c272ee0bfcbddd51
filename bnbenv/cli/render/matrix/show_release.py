"""A release of bitsandbytes or torch, as the matrix has it."""

from __future__ import annotations

from typing import Any

from bnbenv.cli.render.matrix.words import number, platform_of, public, short_library, short_python, targets
from bnbenv.cli.render.text import listed, wrap

_RULES = {
    "exact": "loads the library for exactly the CUDA of torch, or none",
    "same-major": "loads the library for torch's CUDA, else the next lower, else the next higher of the same major",
    "libcudart": "loads the library for the libcudart that it finds on the search paths, whatever torch's CUDA is",
}


def bitsandbytes_lines(document: dict[str, Any]) -> list[str]:
    """Each version, by platform: its libraries, what they hold and need."""
    lines: list[str] = []
    wheels = document["bitsandbytes"]
    for version in sorted({row["version"] for row in wheels}, key=number):
        rows = [row for row in wheels if row["version"] == version]
        lines += ["", *_version(version, rows)] if lines else _version(version, rows)
    lines.append("")
    for rule in document["loaders"]:
        about = f"{rule['versions']}: " if len(document["loaders"]) > 1 else ""
        lines += wrap(about + _RULES[rule["rule"]] + _more(rule))
    return lines


def _more(rule: dict[str, Any]) -> str:
    twin = "; below compute capability 7.5 its twin _nocublaslt" if rule["nocublaslt"] else ""
    return twin + (f"; {rule['override']} names another" if rule["override"] else "")


def _version(version: str, rows: list[dict[str, Any]]) -> list[str]:
    first = rows[0]
    needs = [f"Python {first['requires_python']}"] if first["requires_python"] else []
    needs += [text for text in first["requires_dist"] if "extra ==" not in text]
    lines = wrap(f"bitsandbytes {version}{f', which asks for {listed(needs)}' if needs else ''}")
    for row in rows:
        tag = f"glibc {row['libc_tag']} by its tag, " if row["libc_tag"] else ""
        evidence = row["evidence"]
        size = f"{row['size'] / 1e6:.0f} MB" if row["size"] >= 1e6 else f"{row['size'] / 1e3:.0f} kB"
        lines += wrap(f"{platform_of(row)}: {tag}{size}, {evidence['level']} {evidence['date']}")
        groups: dict[str, list[str]] = {}
        for library in row["libraries"]:
            groups.setdefault(_holds(library), []).append(short_library(library["name"]))
        for holds, names in groups.items():
            lines += wrap(f"{', '.join(names)}: {holds}", "  ")
    return lines


def _holds(library: dict[str, Any]) -> str:
    parts = [targets(library["sass"])] if library["sass"] else []
    parts += [f"PTX {targets(library['ptx'])}"] if library["ptx"] else []
    parts += [f"glibc {library['glibc']}"] if library["glibc"] else []
    parts += [f"GLIBCXX {library['glibcxx']}"] if library["glibcxx"] else []
    return ", ".join(parts) or "no code for NVIDIA GPUs"


def torch_lines(document: dict[str, Any]) -> list[str]:
    """Each version, by source: builds, what they hold, for which platforms and Pythons."""
    lines: list[str] = []
    builds = document["torch"]
    for version in sorted({public(row["version"]) for row in builds}, key=number):
        rows = [row for row in builds if public(row["version"]) == version]
        lines += ["", f"torch {version}"] if lines else [f"torch {version}"]
        groups: dict[tuple[str, str, str], list[str]] = {}
        for row in rows:
            groups.setdefault((_from(row), _build(row), _serves(row)), []).append(platform_of(row))
        for (where, holds, serves), platforms in groups.items():
            lines += wrap(f"{where}, {listed(list(dict.fromkeys(platforms)))}: {holds}", "  ")
            lines += wrap(serves, "      ")
    return lines


def _from(row: dict[str, Any]) -> str:
    names = {"default-index": "default index", "local": "local wheel", "existing": "installed"}
    name = f"PyTorch's index {row['index']}" if row["index"] else names.get(row["source"], row["source"])
    return f"{name} ({row['evidence']['level']})"


def _build(row: dict[str, Any]) -> str:
    return f"CUDA {row['cuda']}, {targets(row['arch_list'])}" if row["cuda"] else "CPU"


def _serves(row: dict[str, Any]) -> str:
    parts = [f"Python {' '.join(short_python(tag) for tag in row['pythons'])}"]
    parts += [f"glibc {row['libc_tag']}"] if row["libc_tag"] else []
    parts += [f"triton {row['triton']}"] if row["triton"] else []
    return ", ".join(parts)


def advisory_lines(advisories: list[dict[str, Any]]) -> list[str]:
    """What is known to go wrong, what to do, and where that was read."""
    lines = ["", "known trouble:"] if advisories else []
    for row in advisories:
        lines += wrap(f"{row['summary']} {row['remedy']}", "  ")
        lines += wrap(f"from {row['reference']}", "      ", " ")
    return lines
