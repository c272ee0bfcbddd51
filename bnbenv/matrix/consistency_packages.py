"""Checks of the packages of other families than bitsandbytes against the other tables."""

from __future__ import annotations

import datetime
from collections.abc import Iterator

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from bnbenv.matrix.model import Matrix, PackageAdvisory, PackageFile


def package_faults(matrix: Matrix) -> Iterator[str]:
    """What is wrong with rows about packages and advisories about them, one sentence each."""
    members = {name for row in matrix.families if row.name != "bitsandbytes" for name in row.packages}
    known = {row.name for row in matrix.packages}
    for name in sorted(members - known) if matrix.packages else ():
        yield f"the families name {name}, of which no file is known"
    archs = {row.arch.removeprefix("sm_") for row in matrix.archs}
    majors = {row.cuda.split(".")[0] for row in matrix.drivers}
    versions = [Version(build.version) for build in matrix.torch]
    releases = {f"{version.major}.{version.minor}" for version in versions}
    for row in matrix.packages:
        if row.name not in members:
            yield f"{row.filename}: {row.name} belongs to no family"
        yield from _of_file(row, archs, majors, releases)
    for advisory in matrix.package_advisories:
        yield from _of_advisory(advisory, matrix)


def _of_file(row: PackageFile, archs: set[str], majors: set[str], releases: set[str]) -> Iterator[str]:
    try:
        Version(row.version)
        SpecifierSet(row.requires_python or "")
        for text in row.requires_dist:
            Requirement(text)
    except (InvalidVersion, InvalidSpecifier, InvalidRequirement) as error:
        yield f"{row.filename}: {error}"
    if row.kind == "sdist" and (row.libraries or row.pythons or row.os):
        yield f"{row.filename} is a source archive, and its row is that of a wheel"
    if row.kind == "wheel" and row.build_needs_torch:
        yield f"{row.filename} is a wheel, which nobody builds"
    targets = {target.partition("_")[2].rstrip("af") for one in row.libraries for target in (*one.sass, *one.ptx)}
    for target in sorted(targets - archs):
        yield f"{row.filename} holds code for {target}, an architecture without a row"
    if targets and row.cuda not in majors:
        yield f"{row.filename} holds kernels for CUDA {row.cuda}, which no driver row names"
    if not targets and (row.cuda or row.torch_releases):
        yield f"{row.filename} holds no kernels, and is said to be for one CUDA or torch"
    for release in row.torch_releases or ():
        if release not in releases:
            yield f"{row.filename} is for torch {release}, of which there is no build"
    if row.torch_releases == ():
        yield f"{row.filename} can be loaded beside no torch that is known"
    if row.uploaded is not None:
        try:
            datetime.date.fromisoformat(row.uploaded)
        except ValueError:
            yield f'{row.filename}: it was uploaded on "{row.uploaded}", no ISO date'


def _of_advisory(advisory: PackageAdvisory, matrix: Matrix) -> Iterator[str]:
    where = f"advisory {advisory.id}"
    for text in (advisory.versions, advisory.torch, advisory.capability):
        try:
            SpecifierSet("" if text in (None, "*") else str(text))
        except InvalidSpecifier:
            yield f'{where}: "{text}" is no specifier'
            return
    spec = SpecifierSet("" if advisory.versions == "*" else advisory.versions)
    about = [row for row in matrix.packages if row.name == advisory.package]
    if not any(spec.contains(row.version, prereleases=True) for row in about):
        yield f"{where} is about {advisory.package} {advisory.versions}, of which no file is known"
    if advisory.torch is not None:
        torch = SpecifierSet(advisory.torch)
        if not any(torch.contains(build.version, prereleases=True) for build in matrix.torch):
            yield f"{where} is about torch {advisory.torch}, of which there is no build"
    if advisory.requires and advisory.refuses:
        yield f"{where} adds requirements to what it refuses"
    # Who asks for requirements says of what, and not on what.
    if advisory.requires and (advisory.os or advisory.backend or advisory.capability):
        yield f"{where} adds requirements on some systems only"
    for requirement in advisory.requires:
        try:
            Requirement(requirement)
        except InvalidRequirement:
            yield f'{where}: "{requirement}" is no requirement'
    if not advisory.reference.strip():
        yield f"{where} names no reference"
