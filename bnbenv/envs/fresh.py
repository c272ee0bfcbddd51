"""Releases that came out after this bnbenv: measured when the sources offer them, once, within a minute, and kept."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from bnbenv.envs.overlay import connections, overlay, store
from bnbenv.envs.reach import Reach
from bnbenv.errors import BnbenvError
from bnbenv.matrix.model import BitsandbytesWheel, Matrix, TorchBuild
from bnbenv.paths import write_atomically
from bnbenv.progress import Progress

if TYPE_CHECKING:
    from bnbenv.envs.reach import SourceReach
    from bnbenv.envs.sources import PackageSources
    from bnbenv.matrix.index import Listing
    from bnbenv.matrix.news import Missed, Task
    from bnbenv.matrix.store import Row, Store
    from bnbenv.matrix.update import OpenSession

BUDGET = 60.0  # seconds for all of them: who syncs waits
TIMEOUT = (5.0, 15.0)  # seconds to connect, and between bytes
JOBS = 3
PAUSE = 24 * 3600.0  # seconds until one that cannot be measured is tried again
UNMEASURED = "unmeasured.json"


class _Failure(msgspec.Struct, frozen=True):
    because: str
    when: float


@dataclass
class _Keeper:
    """Keeps rows with the user's data; what cannot be kept holds for this run."""

    place: Store | None
    rows: list[Row] = field(default_factory=list)

    def add(self, row: Row) -> None:
        self.rows.append(row)
        if self.place is not None:
            try:
                self.place.add(row)
            except (BnbenvError, OSError):
                return


@dataclass(frozen=True)
class _Aside:
    """Tells what is at hand; the lines are for those who want to know more."""

    progress: Progress

    def say(self, line: str) -> None:
        self.progress.detail(line)

    def detail(self, line: str) -> None:
        self.progress.detail(line)

    def at(self, text: str) -> None:
        self.progress.at(text)


def take_in(
    reach: Reach,
    sources: PackageSources,
    matrix: Matrix,
    platform: tuple[str, str],
    environ: Mapping[str, str],
    progress: Progress,
    budget: float = BUDGET,
) -> tuple[Matrix, dict[str, str]]:
    """The matrix with rows for what the sources offer for a platform (os, machine) and is newer than all it knows.

    Second, the wheels that could not be measured, each with why. Nothing is raised, and no source is asked anything
    where nothing is newer.
    """
    tasks = unknown(reach, matrix, platform)
    if not tasks:
        return matrix, {}
    folder = overlay(environ)
    before = _failures(folder)
    missed = {one.file.filename: before[_key(one)].because for one in tasks if _key(one) in before}
    tasks = tuple(one for one in tasks if _key(one) not in before)
    if not tasks:
        return matrix, missed
    names = ", ".join(dict.fromkeys(f"{one.project} {one.name.version}" for one in tasks))
    progress.say(f"newer than what this bnbenv knows, so measured now: {names}")
    keeper = _Keeper(store(folder, environ, progress) if folder else None)
    ended = _measured(tasks, keeper, connections(sources, 0), progress, budget)
    missed |= {one.filename: one.because for one in ended}
    lasting = {one.filename: one.because for one in ended if one.lasts}
    by_key = {_key(one): lasting[one.file.filename] for one in tasks if one.file.filename in lasting}
    _remember(folder, by_key, before)
    wheels = tuple(row for row in keeper.rows if isinstance(row, BitsandbytesWheel))
    builds = tuple(row for row in keeper.rows if isinstance(row, TorchBuild))
    matrix = msgspec.structs.replace(
        matrix, bitsandbytes=(*wheels, *matrix.bitsandbytes), torch=(*builds, *matrix.torch)
    )
    return matrix, missed


def _measured(
    tasks: tuple[Task, ...], keeper: _Keeper, open_: OpenSession, progress: Progress, budget: float
) -> list[Missed]:
    """Measure; returns what could not be. Whatever a wheel of the future does to a reader, work goes on."""
    from bnbenv.matrix.news import Missed
    from bnbenv.matrix.update import Found, refresh

    try:
        report = refresh(Found(tasks), keeper, open_, _Aside(progress), JOBS, time.monotonic() + budget, TIMEOUT)
    except Exception as error:
        kept = {row.evidence.source.partition(" ")[0] for row in keeper.rows}
        because = f"it could not be measured ({type(error).__name__})"
        return [Missed(one.file.filename, because, True) for one in tasks if one.file.filename not in kept]
    return [*report.failed, *report.left_out]


def unknown(reach: Reach, matrix: Matrix, platform: tuple[str, str]) -> tuple[Task, ...]:
    """The releases for a platform that are newer than the newest known one; of torch, on PyTorch's indexes and on all
    others, each by itself. Pure."""
    from packaging.specifiers import SpecifierSet

    from bnbenv.matrix.news import Place, new_builds, new_wheels

    answering = [one for one in reach.results if one.reachable]
    known = [row for row in matrix.bitsandbytes if (row.os, row.machine) == platform]
    listing = _newer(answering, "bitsandbytes", known)
    tasks = list(new_wheels(listing, known, Place(""), SpecifierSet(), platform).tasks)
    # The torch wheels in folders are measured each time.
    places: dict[Place, list[SourceReach]] = {}
    for one in answering:
        if one.source.kind == "pytorch-index":
            places[Place(one.source.url, "pytorch-index", one.source.variant)] = [one]
        elif one.source.kind != "find-links":
            places.setdefault(Place(""), []).append(one)
    for place, offering in places.items():
        own = [row for row in matrix.torch if (row.source, row.index) == (place.source, place.variant)]
        own = [row for row in own if (row.os, row.machine) == platform]
        if own:
            tasks += new_builds(_newer(offering, "torch", own), own, place, SpecifierSet(), platform).tasks
    return tuple(tasks)


def _newer(answering: Iterable[SourceReach], project: str, known: Sequence[Row]) -> Listing:
    """The files of some sources whose versions are above all that are known; of the same name that of the first."""
    from packaging.version import Version

    from bnbenv.matrix.index import IndexFile, Listing

    newest = max((Version(row.version) for row in known), default=Version("0"))
    files: dict[str, IndexFile] = {}
    for offer in (offer for one in answering for offer in one.files if offer.project == project):
        if offer.filename not in files and Version(offer.version) > newest and (offer.sha256 or offer.path):
            words = (offer.filename, offer.url, offer.sha256 or "", offer.requires_python, offer.yanked)
            files[offer.filename] = IndexFile(*words, None, offer.path)
    return Listing(tuple(files.values()))


def _key(task: Task) -> str:
    return task.file.sha256 or task.file.filename


def _failures(folder: Path | None) -> dict[str, _Failure]:
    """What could not be measured lately. A file that cannot be read says nothing."""
    if folder is None:
        return {}
    try:
        known = msgspec.json.decode((folder / UNMEASURED).read_bytes(), type=dict[str, _Failure])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    now = time.time()
    return {key: one for key, one in known.items() if 0 <= now - one.when < PAUSE}


def _remember(folder: Path | None, failed: Mapping[str, str], before: Mapping[str, _Failure]) -> None:
    if folder is None or not failed:
        return
    now = time.time()
    rows = {**before, **{key: _Failure(because, now) for key, because in failed.items()}}
    try:
        write_atomically(folder / UNMEASURED, msgspec.json.encode(rows).decode() + "\n")
    except OSError:
        return
