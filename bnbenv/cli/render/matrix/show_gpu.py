"""A GPU, as the matrix has it: its drivers, and which wheels and builds hold code for it."""

from __future__ import annotations

from typing import Any

import msgspec

from bnbenv.cli.render.matrix.words import number, runs, short_library
from bnbenv.cli.render.text import listed, wrap
from bnbenv.matrix.model import BitsandbytesWheel, GpuArch, Matrix, TorchBuild
from bnbenv.solve.lookup import Code, libraries_for, runs_on

_KINDS: dict[Code, str] = {
    "sass": "with native code",
    "ptx": "with PTX alone, which a driver as new as its CUDA compiles",
}


def gpu_head(document: dict[str, Any], asked: str) -> list[str]:
    """What the GPU is, and its drivers; ``asked`` are the user's words for it."""
    (row,) = document["archs"]
    name = "" if asked.strip().lower() in (row["arch"], row["compute_capability"]) else f"{asked.strip()}: "
    lines = wrap(f"{name}{row['arch']}, {row['generation']}, compute capability {row['compute_capability']}")
    lines += wrap(_drivers(row))
    if document["toolkits"]:
        cudas = sorted((one["cuda"] for one in document["toolkits"]), key=number)
        lines += wrap(f"compiled for by CUDA {cudas[0] if len(cudas) == 1 else f'{cudas[0]} to {cudas[-1]}'}")
    return lines


def gpu_lines(document: dict[str, Any], versions: dict[str, list[str]]) -> list[str]:
    """Which wheels and builds hold code for it; ``versions`` are all that the matrix has."""
    rows = msgspec.convert(document, Matrix)
    (arch,) = rows.archs
    found = {
        "bitsandbytes": _wheels(libraries_for(arch, rows), versions["bitsandbytes"]),
        "torch": _builds(rows.torch, arch, versions["torch"]),
    }
    lines: list[str] = []
    for project, kinds in found.items():
        if not any(kinds.values()):
            lines += ["", f"no {project} has code for it"]
        for kind, told in kinds.items():
            if told:
                lines += ["", f"{project} {_KINDS[kind]}:"]
                lines += told
    return lines


def _drivers(row: dict[str, Any]) -> str:
    first = [
        f"{driver} on {system}"
        for system, driver in (("Linux", row["first_driver_linux"]), ("Windows", row["first_driver_windows"]))
        if driver
    ]
    start = f"drivers from {listed(first)}" if first else "its first driver is not known"
    return f"{start}; R{row['last_branch']} is the last branch" if row["last_branch"] else f"{start}; still supported"


def _wheels(found: list[tuple[BitsandbytesWheel, dict[str, Code]]], known: list[str]) -> dict[Code, list[str]]:
    """By kind of code, the versions of each platform, and of each library in them.

    A version with native code in one library and PTX in another is among the former.
    """
    places: dict[Code, dict[str, dict[str, list[str]]]] = {"sass": {}, "ptx": {}}
    for wheel, kinds in found:
        best: Code = "sass" if "sass" in kinds.values() else "ptx"
        libraries = places[best].setdefault(f"{wheel.os}-{wheel.machine}", {})
        for name, kind in kinds.items():
            if kind == best:
                libraries.setdefault(short_library(name), []).append(wheel.version)
    return {
        kind: [line for platform, libraries in platforms.items() for line in _by_library(platform, libraries, known)]
        for kind, platforms in places.items()
    }


def _by_library(platform: str, libraries: dict[str, list[str]], known: list[str]) -> list[str]:
    """The platform with all versions, then which library is in which of them."""
    whole = runs([version for versions in libraries.values() for version in versions], known)
    by_run: dict[str, list[str]] = {}
    for library, versions in libraries.items():
        by_run.setdefault(runs(versions, known), []).append(library)
    every = by_run.pop(whole, [])
    lines = wrap(f"{platform}: {whole}{f' by {listed(sorted(every))}' if every else ''}", "  ")
    return lines + [line for run, names in by_run.items() for line in wrap(f"{run} by {listed(sorted(names))}", "    ")]


def _builds(builds: tuple[TorchBuild, ...], arch: GpuArch, known: list[str]) -> dict[Code, list[str]]:
    """By kind of code, the versions of each source and platform."""
    found: dict[Code, dict[tuple[str, str, str], list[TorchBuild]]] = {"sass": {}, "ptx": {}}
    for build in builds:
        kind = runs_on(arch, build.arch_list)
        if kind is not None:
            source = f"PyTorch's index {build.index}" if build.index else build.source.replace("-", " ")
            key = (source, build.evidence.level, f"{build.os}-{build.machine}")
            found[kind].setdefault(key, []).append(build)
    return {kind: _by_source(sources, known) for kind, sources in found.items()}


def _by_source(sources: dict[tuple[str, str, str], list[TorchBuild]], known: list[str]) -> list[str]:
    alike: dict[tuple[str, str, str], list[str]] = {}
    for (source, level, platform), builds in sources.items():
        cudas = sorted({build.cuda or "" for build in builds}, key=number)
        said = f"{runs([build.version for build in builds], known)} (CUDA {', '.join(cudas)})"
        alike.setdefault((source, level, said), []).append(platform)
    sentences = [
        f"{source} ({level}), {listed(platforms)}: {said}" for (source, level, said), platforms in alike.items()
    ]
    return [line for sentence in sentences for line in wrap(sentence, "  ")]
