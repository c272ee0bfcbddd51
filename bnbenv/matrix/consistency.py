"""Checks across the rows of the matrix: what no single table can tell to be wrong.

Each check yields one sentence per fault, with the row it is in. ``inconsistencies`` runs them all.
"""

from __future__ import annotations

import datetime
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator
from fnmatch import fnmatchcase

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import Version

from bnbenv.matrix.consistency_hardware import arch_faults, driver_faults, toolkit_faults
from bnbenv.matrix.consistency_packages import package_faults
from bnbenv.matrix.consistency_sources import source_faults
from bnbenv.matrix.load import build_keys, wheel_keys
from bnbenv.matrix.model import (
    Advisory,
    BitsandbytesWheel,
    Matrix,
    PackageFile,
    SourceTag,
    Toolkit,
    TorchBuild,
)
from bnbenv.matrix.native import library_cuda

SYSTEMS = ("linux", "macos", "windows")
MACHINES = ("aarch64", "x86_64")
_TARGET = re.compile(r"(?:sm|compute)_(\d+)[af]?$")
_PYTHON_TAG = re.compile(r"cp3\d+t?$")


def inconsistencies(matrix: Matrix) -> list[str]:
    """What does not fit together, one sentence each; empty where all is well."""
    checks = (
        _duplicates(matrix),
        _evidence(matrix),
        _sources(matrix),
        _platforms(matrix),
        _loaders(matrix),
        _libraries(matrix),
        _torch_builds(matrix),
        _declared_and_measured(matrix),
        _targets(matrix),
        driver_faults(matrix),
        arch_faults(matrix),
        toolkit_faults(matrix),
        source_faults(matrix),
        _advisories(matrix),
        _families(matrix),
        package_faults(matrix),
    )
    return [fault for check in checks for fault in check]


def _name(row: BitsandbytesWheel | TorchBuild | Toolkit | SourceTag | PackageFile) -> str:
    if isinstance(row, BitsandbytesWheel | PackageFile):
        return row.filename
    if isinstance(row, Toolkit):
        return f"toolkit {row.cuda}"
    if isinstance(row, SourceTag):
        return f"source {row.tag}"
    index = f"/{row.index}" if row.index else ""
    return f"torch {row.version} ({row.source}{index}, {row.os} {row.machine})"


def _rows(matrix: Matrix) -> Iterator[BitsandbytesWheel | TorchBuild]:
    yield from matrix.bitsandbytes
    yield from matrix.torch


def _repeated(what: str, keys: Iterable[Hashable]) -> Iterator[str]:
    for key, count in Counter(keys).items():
        if count > 1:
            yield f"{what} {key} stands {count} times"


def _duplicates(matrix: Matrix) -> Iterator[str]:
    yield from _repeated("the wheel with sha256", (key for row in matrix.bitsandbytes for key in wheel_keys(row)))
    yield from _repeated("the wheel", (row.filename for row in matrix.bitsandbytes))
    yield from _repeated("the torch build", (key for row in matrix.torch for key in build_keys(row)))
    yield from _repeated("the loader rule for", (row.versions for row in matrix.loaders))
    yield from _repeated("CUDA", (row.cuda for row in matrix.drivers))
    yield from _repeated("the architecture", (row.arch for row in matrix.archs))
    yield from _repeated("the product", (product for row in matrix.archs for product in row.products))
    yield from _repeated("the advisory", (row.id for row in matrix.advisories))
    yield from _repeated("the toolkit", (row.cuda for row in matrix.toolkits))
    yield from _repeated("the source", (row.version for row in matrix.source_releases))
    yield from _repeated("the family", (row.name for row in matrix.families))
    yield from _repeated("the package", (package for row in matrix.families for package in row.packages))
    yield from _repeated("the file", (row.filename for row in matrix.packages))
    yield from _repeated("the file with sha256", (row.sha256 for row in matrix.packages))
    yield from _repeated("the advisory", (row.id for row in matrix.package_advisories))


def _evidence(matrix: Matrix) -> Iterator[str]:
    for row in (*_rows(matrix), *matrix.toolkits, *matrix.source_releases, *matrix.packages):
        evidence = row.evidence
        try:
            datetime.date.fromisoformat(evidence.date)
        except ValueError:
            yield f'{_name(row)}: the date of its evidence is "{evidence.date}", no ISO date'
        if not evidence.source.strip():
            yield f"{_name(row)}: its evidence names no source"
        elif evidence.level == "measured" and not isinstance(row, SourceTag) and "sha256:" not in evidence.source:
            yield f"{_name(row)}: measured, but its evidence names no sha256"
        if (
            isinstance(row, BitsandbytesWheel | PackageFile)
            and evidence.level == "measured"
            and row.sha256 not in evidence.source
        ):
            yield f"{_name(row)}: measured on a file with another sha256"


def _sources(matrix: Matrix) -> Iterator[str]:
    named = [(f'loader rule "{rule.versions}"', rule.source) for rule in matrix.loaders]
    named += [(f"CUDA {driver.cuda}", driver.source) for driver in matrix.drivers]
    named += [(arch.arch, arch.source) for arch in matrix.archs]
    for what, source in named:
        if not source.strip():
            yield f"{what} names no source"
    for advisory in matrix.advisories:
        if not advisory.reference.startswith("https://"):
            yield f"advisory {advisory.id} refers to no thread"
    if not matrix.pytorch_index.startswith("https://"):
        yield f"PyTorch's index is no https address: {matrix.pytorch_index}"
    if not matrix.upstream.startswith("https://"):
        yield f"bitsandbytes' repository is no https address: {matrix.upstream}"


def _platforms(matrix: Matrix) -> Iterator[str]:
    for row in _rows(matrix):
        if row.os not in SYSTEMS or row.machine not in MACHINES:
            yield f"{_name(row)}: unknown platform {row.os} {row.machine}"
        local = isinstance(row, TorchBuild) and row.path is not None
        anywhere = isinstance(row, BitsandbytesWheel) and row.filename.endswith("-any.whl")
        if (row.libc_tag is None) == (row.os == "linux") and not local and not anywhere:
            yield f"{_name(row)}: a glibc version stands in rows for Linux and nowhere else"
    for build in matrix.torch:
        unknown = [tag for tag in build.pythons if not _PYTHON_TAG.match(tag)]
        if unknown or not build.pythons:
            yield f"{_name(build)}: Python tags {unknown or 'missing'}"


def _loaders(matrix: Matrix) -> Iterator[str]:
    readable = []
    for row in matrix.loaders:
        specifier = _specifier(row.versions)
        if specifier is None:
            yield f'loader rule "{row.versions}" is no version specifier'
        else:
            readable.append(specifier)
            if not any(specifier.contains(wheel.version, prereleases=True) for wheel in matrix.bitsandbytes):
                yield f'loader rule "{row.versions}" is about no bitsandbytes'
        if row.override is not None and row.override != "BNB_CUDA_VERSION":
            yield f'loader rule "{row.versions}" has an unknown override {row.override}'
    for version in sorted({row.version for row in matrix.bitsandbytes}, key=Version):
        count = sum(specifier.contains(version, prereleases=True) for specifier in readable)
        if count != 1:
            yield f"bitsandbytes {version} has {count} loader rules instead of one"


def _libraries(matrix: Matrix) -> Iterator[str]:
    known = {row.cuda for row in matrix.drivers}
    for wheel in matrix.bitsandbytes:
        yield from _repeated(f"{wheel.filename}: the library", (library.name for library in wheel.libraries))
        if not wheel.libraries:
            yield f"{wheel.filename} holds no library"
        for library in wheel.libraries:
            where = f"{wheel.filename}: {library.name}"
            cuda = library_cuda(library.name)
            if (cuda is not None) != (library.backend == "cuda"):
                yield f"{where} has the backend {library.backend}"
            elif cuda is not None and cuda not in known:
                yield f"{where} is for CUDA {cuda}, which has no driver row"
            if library.backend == "cuda" and not library.sass:
                yield f"{where} holds no code for any GPU"
            if library.backend != "cuda" and (library.sass or library.ptx):
                yield f"{where} holds code for NVIDIA GPUs"


def _torch_builds(matrix: Matrix) -> Iterator[str]:
    known = {row.cuda for row in matrix.drivers}
    for build in matrix.torch:
        if (build.cuda is None) == bool(build.arch_list):
            yield f"{_name(build)}: CUDA is {build.cuda}, its architectures are {' '.join(build.arch_list) or 'none'}"
        if build.cuda is not None and build.cuda not in known:
            yield f"{_name(build)} is for CUDA {build.cuda}, which has no driver row"
        if (build.index is not None) != (build.source == "pytorch-index"):
            yield f"{_name(build)}: a variant stands in rows of PyTorch's index and nowhere else"
        if build.index is None:
            continue
        if build.index != ("cpu" if build.cuda is None else f"cu{build.cuda.replace('.', '')}"):
            yield f"{_name(build)} is for CUDA {build.cuda}"
        local = Version(build.version).local
        if local != build.index and not (local is None and build.index == "cpu"):
            yield f"{_name(build)}: the version says {local}, the index {build.index}"


def _declared_and_measured(matrix: Matrix) -> Iterator[str]:
    """Builds of one release for the same CUDA and platform hold the same SASS, whatever index they are on."""
    measured = {_release(row): row for row in matrix.torch if row.evidence.level != "declared"}
    for build in matrix.torch:
        other = measured.get(_release(build))
        if build.evidence.level != "declared" or other is None:
            continue
        if _sass(build) != _sass(other):
            differ = " ".join(sorted(_sass(build) ^ _sass(other)))
            yield f"{_name(build)} is declared otherwise than {_name(other)} was measured: {differ}"


def _release(build: TorchBuild) -> tuple[str, str, str, str | None]:
    return Version(build.version).public, build.os, build.machine, build.cuda


def _sass(build: TorchBuild) -> set[str]:
    return {target for target in build.arch_list if target.startswith("sm_")}


def _targets(matrix: Matrix) -> Iterator[str]:
    known = {row.arch.removeprefix("sm_") for row in matrix.archs}
    used: dict[str, str] = {}
    for toolkit in matrix.toolkits:
        for target in (*toolkit.sass, *toolkit.ptx):
            used.setdefault(target, _name(toolkit))
    for wheel in matrix.bitsandbytes:
        for library in wheel.libraries:
            for target in (*library.sass, *library.ptx):
                used.setdefault(target, f"{wheel.filename}: {library.name}")
    for build in matrix.torch:
        for target in build.arch_list:
            used.setdefault(target, _name(build))
    for target, where in used.items():
        match = _TARGET.match(target)
        if match is None:
            yield f"{where} has the target {target}, which is none"
        elif match[1] not in known:
            yield f"{where} has the target {target}, which has no architecture row"


def _advisories(matrix: Matrix) -> Iterator[str]:
    for advisory in matrix.advisories:
        where = f"advisory {advisory.id}"
        for field, versions in (
            ("bitsandbytes", {wheel.version for wheel in matrix.bitsandbytes}),
            ("torch", {build.version for build in matrix.torch}),
            ("triton", {build.triton for build in matrix.torch if build.triton}),
            ("capability", {row.compute_capability for row in matrix.archs}),
        ):
            text: str | None = getattr(advisory, field)
            specifier = _specifier(text or "")
            if specifier is None:
                yield f'{where}: {field} "{text}" is no version specifier'
            elif text and not any(specifier.contains(version, prereleases=True) for version in versions):
                yield f"{where}: {field} {text} is about no row"
        if not (advisory.bitsandbytes or advisory.libraries):
            yield f"{where} would apply to every bitsandbytes"
        yield from _named_by_advisory(advisory, matrix, where)


def _named_by_advisory(advisory: Advisory, matrix: Matrix, where: str) -> Iterator[str]:
    """Libraries, CUDA versions and systems that no row has."""
    specifier = _specifier(advisory.bitsandbytes or "")
    about = [
        w for w in matrix.bitsandbytes if specifier is not None and specifier.contains(w.version, prereleases=True)
    ]
    libraries = {library.name for wheel in about for library in wheel.libraries}
    for pattern in advisory.libraries:
        if not any(fnmatchcase(name, pattern) for name in libraries):
            yield f"{where} names {pattern}, which no wheel that it is about holds"
    cuda = {build.cuda for build in matrix.torch if build.cuda}
    for wanted in advisory.torch_cuda:
        if not any(one == wanted or one.startswith(f"{wanted}.") for one in cuda):
            yield f"{where} names CUDA {wanted}, for which there is no torch build"
    for system in advisory.os:
        if system not in SYSTEMS:
            yield f"{where} names the unknown system {system}"


def _families(matrix: Matrix) -> Iterator[str]:
    for row in matrix.families:
        if not row.packages:
            yield f"family {row.name} holds no package"
        if not row.references or not all(reference.startswith("https://") for reference in row.references):
            yield f"family {row.name} refers to no thread"


def _specifier(text: str) -> SpecifierSet | None:
    try:
        return SpecifierSet(text)
    except InvalidSpecifier:
        return None
