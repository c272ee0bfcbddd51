"""What an index offers that no row knows yet, told by sha256. Pure."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

from msgspec.structs import replace

from bnbenv.errors import Failed
from bnbenv.matrix.index import IndexFile, Listing
from bnbenv.matrix.measure import WheelName, python_key, wheel_name
from bnbenv.matrix.model import BitsandbytesWheel, Evidence, TorchBuild, TorchSource

if TYPE_CHECKING:
    from packaging.specifiers import SpecifierSet

T = TypeVar("T")
Project = Literal["bitsandbytes", "torch"]
NO_HASH = "the index names no sha256 of it"

_HASH = re.compile("sha256:([0-9a-f]{64})")


@dataclass(frozen=True)
class Place:
    """An index. ``source`` and ``variant`` (``cu126``) are what torch rows measured there say of themselves."""

    endpoint: str
    source: TorchSource = "default-index"
    variant: str | None = None


@dataclass(frozen=True)
class Task:
    """A wheel to measure. ``pythons`` are the tags of all torch wheels that it stands for.

    ``before`` are the rows that its row takes the place of.
    """

    project: Project
    name: WheelName
    file: IndexFile
    place: Place
    pythons: tuple[str, ...] = ()
    before: tuple[TorchBuild, ...] = ()

    @property
    def because(self) -> str | None:
        """Why there was a row about it before, or None: there was none."""
        if not self.before:
            return None
        declared = all(row.evidence.level == "declared" for row in self.before)
        return "it was declared" if declared else "its bytes are others"


@dataclass(frozen=True)
class Missed:
    """A file that there is no new row about, and why. ``lasts``: another try would end alike."""

    filename: str
    because: str
    lasts: bool = False


@dataclass(frozen=True)
class News:
    """What is new on an index. ``changed`` are torch rows for more Pythons than before, each with why.

    ``gone`` are files of known rows, which stay: an environment may hold them. ``left_out`` are files of which no row
    can be made. ``unchanged`` counts the rows that hold.
    """

    tasks: tuple[Task, ...] = ()
    changed: tuple[tuple[TorchBuild, str], ...] = ()
    gone: tuple[Missed, ...] = ()
    left_out: tuple[Missed, ...] = ()
    unchanged: int = 0


def sha256_of(evidence: Evidence) -> str | None:
    """The hash of the file that a row was measured on; None for one that was not measured."""
    found = None if evidence.level == "declared" else _HASH.search(evidence.source)
    return found[1] if found else None


def new_wheels(
    listing: Listing,
    rows: Iterable[BitsandbytesWheel],
    place: Place,
    spec: SpecifierSet,
    platform: tuple[str, str] | None = None,
) -> News:
    """The bitsandbytes wheels that no row knows, newest first; those that were withdrawn are left out.

    ``platform`` (os, machine) keeps to one.
    """
    known = {row.sha256: row.filename for row in rows if _admits(spec, row.version) and _is_on(row, platform)}
    named, left_out = _named(listing, "bitsandbytes", spec, platform)
    new = [(name, file) for name, file in named if file.sha256 not in known and not file.yanked]
    return News(
        tasks=tuple(Task("bitsandbytes", name, file, place) for name, file in _newest_first(new)),
        gone=_gone(known, listing),
        left_out=left_out,
        unchanged=sum(file.sha256 in known for _, file in named),
    )


def new_builds(
    listing: Listing,
    rows: Iterable[TorchBuild],
    place: Place,
    spec: SpecifierSet,
    platform: tuple[str, str] | None = None,
) -> News:
    """The torch builds that no row was measured of: one task for all wheels of a version and platform tag.

    The wheel for the oldest Python stands for all of them. On one of PyTorch's indexes only its own variant counts.
    """
    own = [row for row in rows if (row.source, row.index) == (place.source, place.variant)]
    own = [row for row in own if _admits(spec, row.version) and _is_on(row, platform)]
    known = {sha256: row for row in own if (sha256 := sha256_of(row.evidence))}
    named, left_out = _named(listing, "torch", spec, platform)
    groups: dict[tuple[str, str], list[tuple[WheelName, IndexFile]]] = defaultdict(list)
    for name, file in named:
        if not file.yanked and _of_variant(name.version, place.variant):
            groups[name.version, name.platform].append((name, file))
    tasks, changed, unchanged = [], [], 0
    for group in groups.values():
        pythons = tuple(sorted({tag for name, _ in group for tag in name.pythons}, key=python_key))
        row = next((known[file.sha256] for _, file in group if file.sha256 in known), None)
        if row is None:
            name, file = min(group, key=lambda pair: (python_key(pair[0].pythons[0]), pair[1].filename))
            tasks.append((name, Task("torch", name, file, place, pythons, _about(name, pythons, own))))
        elif more := [tag for tag in pythons if tag not in row.pythons]:
            # A mirror may have fewer; what was measured on the index of all stays.
            pythons = tuple(sorted({*row.pythons, *more}, key=python_key))
            changed.append((replace(row, pythons=pythons), f"there are wheels for {' '.join(more)} now"))
        else:
            unchanged += 1
    files = {sha256: row.evidence.source.partition(" ")[0] for sha256, row in known.items()}
    return News(
        tasks=tuple(task for _, task in _newest_first(tasks)),
        changed=tuple(changed),
        gone=_gone(files, listing),
        left_out=left_out,
        unchanged=unchanged,
    )


def _about(name: WheelName, pythons: tuple[str, ...], rows: list[TorchBuild]) -> tuple[TorchBuild, ...]:
    """The rows about the same build. A declared one knows the libc of a wheel that is tagged plainly ``linux``."""
    here = [row for row in rows if (row.version, row.os, row.machine) == (name.version, name.os, name.machine)]
    same = [row for row in here if row.libc_tag == name.libc_tag]
    plain = name.os == "linux" and name.libc_tag is None
    found = same or [row for row in here if plain and row.evidence.level == "declared"]
    return tuple(row for row in found if {*row.pythons} & {*pythons})


def _named(
    listing: Listing, project: Project, spec: SpecifierSet, platform: tuple[str, str] | None
) -> tuple[list[tuple[WheelName, IndexFile]], tuple[Missed, ...]]:
    """The files of the versions that are asked for, and what no row can be made of."""
    found, left_out = [], []

    def wanted(filename: str) -> WheelName | None:
        try:
            name = wheel_name(filename)
        except Failed as error:
            left_out.append(Missed(filename, error.message))
            return None
        fits = name.project == project and _admits(spec, name.version) and _is_on(name, platform)
        return name if fits else None

    for file in listing.files:
        name = wanted(file.filename)
        if name is not None:
            found.append((name, file))
    left_out += [Missed(filename, NO_HASH) for filename in listing.unhashed if wanted(filename)]
    return found, tuple(left_out)


def _admits(spec: SpecifierSet, version: str) -> bool:
    """Pre-releases only where the range names one."""
    return spec.contains(version, prereleases=bool(spec.prereleases))


def _is_on(thing: WheelName | BitsandbytesWheel | TorchBuild, platform: tuple[str, str] | None) -> bool:
    return platform is None or (thing.os, thing.machine) == platform


def _of_variant(version: str, variant: str | None) -> bool:
    """The page of a variant may also list builds of another one: ``2.0.1+cu117.with.pypi.cudnn``."""
    return variant is None or version.partition("+")[2] in ("", variant)


def _gone(known: dict[str, str], listing: Listing) -> tuple[Missed, ...]:
    state = {file.sha256: file.yanked for file in listing.files}
    gone = [
        Missed(filename, "it was withdrawn" if sha256 in state else "it is no longer on the index")
        for sha256, filename in known.items()
        if state.get(sha256, True)
    ]
    return tuple(sorted(gone, key=lambda one: one.filename))


def _newest_first(pairs: list[tuple[WheelName, T]]) -> list[tuple[WheelName, T]]:
    from packaging.version import Version

    return sorted(pairs, key=lambda pair: (Version(pair[0].version), pair[0].platform), reverse=True)
