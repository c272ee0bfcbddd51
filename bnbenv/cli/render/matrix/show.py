"""How ``bnbenv matrix show`` looks: how much is known, a release, or a GPU."""

from __future__ import annotations

from collections import Counter
from typing import Any

from bnbenv.cli.render.matrix.show_gpu import gpu_head, gpu_lines
from bnbenv.cli.render.matrix.show_package import package_lines
from bnbenv.cli.render.matrix.show_release import advisory_lines, bitsandbytes_lines, torch_lines
from bnbenv.cli.render.matrix.words import number, platform_of, public, source_of
from bnbenv.cli.render.text import listed, wrap


def render(
    document: dict[str, Any],
    project: str | None = None,
    gpu: str | None = None,
    versions: dict[str, list[str]] | None = None,
    own: dict[str, Any] | None = None,
) -> str:
    """``project``: the one asked about; ``gpu``: the words for the GPU asked about; ``versions``: all that the matrix
    has; ``own``: the user's own rows."""
    if project is None and gpu is None:
        tells_more = 'next: bnbenv matrix show 0.50.2, torch==2.9.1, or --gpu "RTX 5090" tells more'
        return "\n".join([*_summary(document, own), tells_more])
    lines = gpu_head(document, gpu) if gpu is not None else []
    if project is not None:
        lines += [""] if lines else []
        of = {"bitsandbytes": bitsandbytes_lines, "torch": torch_lines}.get(project, package_lines)
        lines += of(document)
    else:
        lines += gpu_lines(document, versions or {"bitsandbytes": [], "torch": []})
    told = document["package_advisories"] if project not in (None, "bitsandbytes", "torch") else []
    lines += advisory_lines([*document["advisories"], *told])
    return "\n".join([*lines, "next: bnbenv solve says what fits this machine"])


def _summary(document: dict[str, Any], own: dict[str, Any] | None) -> list[str]:
    wheels, builds = document["bitsandbytes"], document["torch"]
    lines = [f"{_count(wheels, 'bitsandbytes wheel')}, {_count(builds, 'torch build')}"]
    if wheels:
        lines += _project("bitsandbytes", wheels)
    if builds:
        lines += _project("torch", builds)
    cudas = sorted((row["cuda"] for row in document["drivers"]), key=number)
    sources = document["source_releases"]
    if sources:
        tags = sorted((row["version"] for row in sources), key=number)
        lines += wrap(f"what compiles bitsandbytes {_span(tags)} ({_count(tags, 'release')} of its source)")
    archs = [row["arch"] for row in document["archs"]]
    products = sum(len(row["products"]) for row in document["archs"])
    lines += wrap(f"drivers for CUDA {_span(cudas)}")
    if document["toolkits"]:
        compiled = sorted((row["cuda"] for row in document["toolkits"]), key=number)
        lines += wrap(f"what CUDA {_span(compiled)} compile ({_count(compiled, 'toolkit')})")
    lines += wrap(f"{_count(archs, 'architecture')}, {_span(archs)}, of {products} products")
    trouble, rules = _count(document["advisories"], "known-bad combination"), _count(document["loaders"], "loader rule")
    lines += wrap(f"{trouble}, {rules}")
    packages = Counter(row["name"] for row in document["packages"])
    if packages:
        files = listed([f"{count} of {name}" for name, count in packages.items()])
        lines += wrap(f"files of other quantization packages: {files}")
    if document["families"]:
        families = listed([row["name"] for row in document["families"]])
        lines += wrap(f"families of quantization packages, kept apart: {families}")
    return lines + _own_rows(own)


def _project(name: str, rows: list[dict[str, Any]]) -> list[str]:
    """How many rows there are of which source, evidence and platform."""
    ordered = sorted({public(row["version"]) for row in rows}, key=number)
    lines = wrap(f"{name} {_span(ordered)}, {_count(ordered, 'version')}:")
    sources: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        sources.setdefault((source_of(row), row["evidence"]["level"]), []).append(row)
    for (source, level), some in sources.items():
        dates = sorted({row["evidence"]["date"] for row in some})
        lines += wrap(f"{source}: {len(some)} {level} {_span(dates)}, by platform {_counted(some)}", "  ")
    return lines


def _count(rows: list[Any], name: str) -> str:
    return f"{len(rows)} {name}" + "s" * (len(rows) != 1)


def _span(ordered: list[str]) -> str:
    return ordered[0] if len(ordered) == 1 else f"{ordered[0]} to {ordered[-1]}"


def _counted(rows: list[dict[str, Any]]) -> str:
    counts = Counter(platform_of(row) for row in rows)
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _own_rows(own: dict[str, Any] | None) -> list[str]:
    if own is None:
        return []
    count = own["bitsandbytes"] + own["torch"]
    if not count:
        return wrap(f"your own rows: none (they would lie in {own['folder']})")
    what = f"{own['bitsandbytes']} of bitsandbytes, {own['torch']} of torch, the newest of {own['newest']}"
    return wrap(f"your own rows: {what} (in {own['folder']})")
