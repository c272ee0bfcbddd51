"""What an environment of another family than bitsandbytes may hold: the candidates beside torch. Pure.

A candidate is one release of the family's package, as a wheel or as a source archive, and where kernels are a package
of their own one release of these. It is judged as wheels of bitsandbytes are, so it is one for whoever judges.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from bnbenv.decode import shown
from bnbenv.errors import UsageError
from bnbenv.matrix.model import BitsandbytesWheel, Evidence, Family, Matrix, PackageFile
from bnbenv.solve.model import Backend, FamilyName, Request
from bnbenv.solve.versions import public, requirement_on

KERNELS = {"autoawq": "autoawq-kernels"}  # packages whose kernels are a package of their own
EXTRA = "kernels"  # by which they are asked for

Key = tuple[object, ...]


class PackageSet(BitsandbytesWheel, frozen=True, kw_only=True):
    """Files that go together: ``main`` of one release, a file a Python where they are wheels, and ``kernels`` likewise.

    Its fields as a wheel are those of the main package; ``requires_dist`` is what all of them ask of torch. Without
    files it is torch alone.
    """

    name: str
    main: tuple[PackageFile, ...]
    kernels: tuple[PackageFile, ...] = ()

    @property
    def title(self) -> str:
        """``autoawq 0.2.9, autoawq-kernels 0.0.9``."""
        parts = [f"{files[0].name} {files[0].version}" for files in (self.main, self.kernels) if files]
        return ", ".join(parts) or "torch alone"

    @property
    def without_kernels(self) -> bool:
        """Whether no file holds a library."""
        return not any(file.libraries for file in (*self.main, *self.kernels))

    @property
    def versions(self) -> dict[str, str]:
        return {files[0].name: files[0].version for files in (self.main, self.kernels) if files}


class Wish(NamedTuple):
    """A package of a family that is asked for: its normalized name, its extras, and a specifier (``*``: any)."""

    name: str
    extras: frozenset[str]
    spec: str


def wish_of(request: Request, matrix: Matrix) -> Wish:
    """The package that a request is about. Raises UsageError for one that is not of its family."""
    mains = main_packages(request.family, matrix.families)
    if not request.package:
        return Wish(mains[0], frozenset(), "*")
    wish = read_package(request.package)
    if wish.name in KERNELS.values():
        of = next(name for name, kernels in KERNELS.items() if kernels == wish.name)
        raise UsageError(
            "wrong-package", f"{wish.name} holds kernels for {of} and is no use alone", f"Ask for {of}[{EXTRA}]."
        )
    if wish.name not in mains:
        known = " or ".join(mains)
        message = f"{shown(wish.name)} is no package of the family {request.family}"
        raise UsageError("wrong-package", message, f"Ask for {known}, with a version where it matters.")
    return wish


@lru_cache(maxsize=256)
def read_package(text: str) -> Wish:
    """``autoawq[kernels]>=0.2`` taken apart. Raises UsageError for what is no requirement."""
    try:
        requirement = Requirement(text)
    except InvalidRequirement:
        requirement = None
    if requirement is None or requirement.url is not None or requirement.marker is not None:
        step = "It may have extras and a version: autoawq[kernels]>=0.2"
        raise UsageError("wrong-package", f'expected a package, found "{shown(text)}"', step)
    extras = frozenset(canonicalize_name(one) for one in requirement.extras)
    return Wish(canonicalize_name(requirement.name), extras, str(requirement.specifier) or "*")


def looser(text: str) -> list[str]:
    """A wish for a package with less and less of it: without its version, without its extras, for none at all."""
    wish = read_package(text)
    extras = f"[{','.join(sorted(wish.extras))}]" if wish.extras else ""
    return [one for one in dict.fromkeys((f"{wish.name}{extras}", wish.name, "")) if one != text]


def main_packages(family: FamilyName, families: Iterable[Family]) -> tuple[str, ...]:
    """The packages that an environment of a family can be about; the first is meant where nothing is said.

    Raises UsageError for a family that has none: of bitsandbytes and of torch alone no package can be asked for.
    """
    rows = [row for row in families if row.name == family != "bitsandbytes"]
    if not rows:
        step = "It is for the families gptq and awq."
        raise UsageError("wrong-package", f"an environment of the family {family} is about no other package", step)
    return tuple(name for name in rows[0].packages if name not in KERNELS.values())


def package_sets(matrix: Matrix, request: Request, backend: Backend, system: str, machine: str) -> list[PackageSet]:
    """The candidates on a platform, the preferred first: the newest; of one release wheels, which may hold kernels.

    On a CPU kernels are only taken along where the package cannot be installed without.
    """
    if request.family == "none":
        nothing = Evidence("declared", "the request", "")
        return [_set((), (), system, machine, nothing)]
    wish = wish_of(request, matrix)
    here = [row for row in matrix.packages if row.os in (None, system) and row.machine in (None, machine)]
    found = []
    for main in _releases(here, wish.name):
        pinned = KERNELS.get(wish.name)
        always = pinned is not None and requirement_on(pinned, main[0].requires_dist) is not None
        if pinned and (always or (backend == "cuda" and EXTRA in wish.extras)):
            found += [_set(main, kernels, system, machine, main[0].evidence) for kernels in _releases(here, pinned)]
        else:
            found.append(_set(main, (), system, machine, main[0].evidence))
    return found


def unpublished(matrix: Matrix, request: Request, system: str, machine: str) -> str:
    """Which of the packages of a wish has no file at all for a platform, where there is no candidate."""
    wish = wish_of(request, matrix)
    here = [row for row in matrix.packages if row.os in (None, system) and row.machine in (None, machine)]
    missing = not any(row.name == wish.name for row in here)
    return wish.name if missing else KERNELS.get(wish.name, wish.name)


def _releases(rows: Iterable[PackageFile], name: str) -> Iterator[tuple[PackageFile, ...]]:
    """The files of each release, wheels and source archives apart, the newest release first."""
    groups: dict[tuple[str, str], list[PackageFile]] = {}
    for row in rows:
        if row.name == name:
            groups.setdefault((row.version, row.kind), []).append(row)
    ordered = sorted(groups, key=lambda key: (public(key[0]), key[1] == "wheel"), reverse=True)
    yield from (tuple(sorted(groups[key], key=lambda row: row.filename)) for key in ordered)


def _set(
    main: tuple[PackageFile, ...], kernels: tuple[PackageFile, ...], system: str, machine: str, evidence: Evidence
) -> PackageSet:
    files = (*main[:1], *kernels[:1])
    torch = ",".join(filter(None, (requirement_on("torch", one.requires_dist) for one in files)))
    return PackageSet(
        version=main[0].version if main else "0",
        filename=main[0].filename if main else "",
        sha256="",
        size=sum(one.size for one in files),
        os=system,
        machine=machine,
        libc_tag=None,
        requires_python=None,
        requires_dist=(f"torch{torch}",) if torch else (),
        libraries=(),
        evidence=evidence,
        name=main[0].name if main else "",
        main=main,
        kernels=kernels,
    )
