"""Bring the matrix up to date: list the indexes, measure what is new, keep each row as soon as it is whole."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar

from msgspec.structs import replace

from bnbenv.errors import BnbenvError, Failed, SourceUnreachable
from bnbenv.matrix.index import TIMEOUT, Listing, list_project
from bnbenv.matrix.measure import measure_bitsandbytes, measure_torch, python_key
from bnbenv.matrix.model import BitsandbytesWheel, TorchBuild
from bnbenv.matrix.news import Missed, News, Place, Project, Task, new_builds, new_wheels
from bnbenv.matrix.rows import check_row
from bnbenv.matrix.store import Row
from bnbenv.matrix.wheel import local_wheel, remote_wheel
from bnbenv.progress import Progress

if TYPE_CHECKING:
    import requests
    from packaging.specifiers import SpecifierSet

T = TypeVar("T")

OpenSession = Callable[[], "requests.Session"]


LATE = "it did not arrive within the time there was"
NO_TIME = "there was no time left for it"


class Stopped(Exception):
    """The time for measuring is over."""


class Keeper(Protocol):
    """The port that rows are kept through."""

    def add(self, row: Row) -> None:
        """Raises BnbenvError, OSError where that ends the work."""


@dataclass(frozen=True)
class Wish:
    """What to look at: a range of versions for each project (None: not at all), and for torch the places.

    ``platform`` (os, machine) keeps to one platform; ``own_platform`` does so for PyTorch's own indexes alone.
    """

    bitsandbytes: SpecifierSet | None
    torch: SpecifierSet | None
    default: Place
    variants: tuple[Place, ...] = ()
    platform: tuple[str, str] | None = None
    own_platform: tuple[str, str] | None = None


@dataclass(frozen=True)
class Found:
    """What the indexes offer. ``silent`` are those of PyTorch's that do not answer."""

    tasks: tuple[Task, ...]
    changed: tuple[tuple[TorchBuild, str], ...] = ()
    gone: tuple[Missed, ...] = ()
    left_out: tuple[Missed, ...] = ()
    failed: tuple[Missed, ...] = ()
    silent: tuple[Missed, ...] = ()
    unchanged: int = 0


@dataclass
class Report:
    """What was done. ``kept`` are the new rows, each with why it took the place of another one, or None.

    ``left_out`` are files of which no row can be made, ``failed`` those that could not be read; ``fetched`` counts
    bytes.
    """

    kept: list[tuple[Row, str | None]] = field(default_factory=list)
    failed: list[Missed] = field(default_factory=list)
    left_out: list[Missed] = field(default_factory=list)
    fetched: int = 0


class Meter:
    """Counts what arrives, from several threads, and tells how far the work is.

    After ``deadline`` (of ``time.monotonic``), or once it was stopped, whoever counts a block gets Stopped.
    """

    def __init__(self, progress: Progress, total: int, deadline: float | None = None) -> None:
        self._progress, self._total, self._deadline = progress, total, deadline
        self._lock, self._began = threading.Lock(), time.monotonic()
        self.begun: set[str] = set()
        self.done = 0
        self.fetched = 0
        self.stopped = False

    def check(self) -> None:
        """Raises Stopped."""
        if self.stopped or (self._deadline is not None and time.monotonic() > self._deadline):
            raise Stopped

    def got(self, filename: str, size: int) -> None:
        """Another block of a file. Raises Stopped."""
        with self._lock:
            self.fetched += size
            self.begun.add(filename)
        self.check()
        self.tell(filename)

    def tell(self, filename: str) -> None:
        seconds = max(0.1, time.monotonic() - self._began)
        number = min(self.done + 1, self._total)
        amount = f"{self.fetched / 1e6:.0f} MB, {self.fetched / seconds / 1e6:.1f} MB/s"
        self._progress.at(f"measuring {number} of {self._total}: {filename} ({amount})")


def look(wish: Wish, wheels: Iterable[BitsandbytesWheel], builds: Iterable[TorchBuild], open_: OpenSession) -> Found:
    """Ask all indexes at once what they offer beyond these rows.

    Raises SourceUnreachable where the default index does not answer. One that does not know a project, or one of
    PyTorch's own that does not answer, is told in the result.
    """
    asked: list[tuple[Project, Place]] = []
    if wish.bitsandbytes is not None:
        asked.append(("bitsandbytes", wish.default))
    if wish.torch is not None:
        asked += [("torch", place) for place in (wish.default, *wish.variants)]

    def ask(project: Project, place: Place) -> Listing:
        with open_() as session:
            return list_project(session, place.endpoint, project, TIMEOUT)

    news: list[News] = []
    failed: list[Missed] = []
    silent: list[Missed] = []
    known_wheels, known_builds = tuple(wheels), tuple(builds)
    variants = {row.index for row in known_builds}
    answers = dict(in_parallel([partial(ask, *one) for one in asked], len(asked)))
    for number, (project, place) in enumerate(asked):
        answer = answers[number]
        if isinstance(answer, Listing) and project == "bitsandbytes" and wish.bitsandbytes is not None:
            news.append(new_wheels(answer, known_wheels, place, wish.bitsandbytes, wish.platform))
        elif isinstance(answer, Listing) and wish.torch is not None:
            platform = wish.platform if place.variant is None else wish.own_platform or wish.platform
            news.append(new_builds(answer, known_builds, place, wish.torch, platform))
        elif place.variant is not None and isinstance(answer, SourceUnreachable):
            if place.variant in variants:  # one that is only supposed may well be refused
                silent.append(Missed(place.variant, answer.message))
        elif place.variant is None and isinstance(answer, Failed):
            failed.append(Missed(project, answer.message))
        elif isinstance(answer, BaseException) and not isinstance(answer, Failed):
            raise answer
    return Found(
        tasks=tuple(task for one in news for task in one.tasks),
        changed=tuple(pair for one in news for pair in one.changed),
        gone=tuple(missed for one in news for missed in one.gone),
        left_out=tuple(missed for one in news for missed in one.left_out),
        failed=tuple(failed),
        silent=tuple(silent),
        unchanged=sum(one.unchanged for one in news),
    )


def refresh(
    found: Found,
    store: Keeper,
    open_: OpenSession,
    progress: Progress,
    jobs: int,
    deadline: float | None = None,
    timeout: tuple[float, float] = TIMEOUT,
) -> Report:
    """Measure what was found, ``jobs`` wheels at a time; each row is kept before the next one is looked at.

    What cannot be measured is in the report, and so is what there was no time for until ``deadline``.
    Raises InputError, Busy, OSError where rows cannot be kept. On Ctrl-C what is finished stays kept.
    """
    report = Report(failed=list(found.failed), left_out=list(found.left_out))
    for row, because in found.changed:
        store.add(row)
        report.kept.append((row, because))
        progress.say(f"changed {described(row)}")
    meter = Meter(progress, len(found.tasks), deadline)
    work = [partial(measure, task, open_, meter, timeout) for task in found.tasks]
    try:
        for number, done in in_parallel(work, jobs, deadline):
            task = found.tasks[number]
            meter.done += 1
            if isinstance(done, Stopped):
                because = LATE if task.file.filename in meter.begun else NO_TIME
                report.failed.append(Missed(task.file.filename, because, lasts=because == LATE))
            elif isinstance(done, Failed) and done.code == "not-cuda":
                report.left_out.append(Missed(task.file.filename, done.message, lasts=True))
            elif isinstance(done, BnbenvError | OSError):
                report.failed.append(Missed(task.file.filename, str(done), lasts=isinstance(done, Failed)))
                progress.detail(f"failed {task.file.filename}: {done}")
            elif isinstance(done, BaseException):
                raise done
            else:
                store.add(done)
                report.kept.append((done, task.because))
                progress.say(f"{'changed' if task.because else 'added'} {described(done)}")
    finally:
        meter.stopped = True
        progress.at("")
    report.fetched = meter.fetched
    return report


def measure(task: Task, open_: OpenSession, meter: Meter, timeout: tuple[float, float] = TIMEOUT) -> Row:
    """The row of one wheel.

    Raises SourceUnreachable; Failed (``bad-wheel``, ``bad-binary``, ``bad-hash``, ``changed``, ``no-ranges``,
    ``not-cuda``); InputError for values that the solver could not judge by; Stopped.
    """
    file = task.file
    meter.check()

    def got(size: int) -> None:
        meter.got(file.filename, size)

    got(0)
    with ExitStack() as opened:
        if file.path is not None:
            wheel = opened.enter_context(local_wheel(file.path))
        else:
            session = opened.enter_context(open_())
            words = (session, file.url, file.filename, file.sha256, file.metadata_sha256, got, timeout)
            wheel = opened.enter_context(remote_wheel(*words))
        if task.project == "bitsandbytes":
            row: Row = measure_bitsandbytes(wheel)
        else:
            row = _build(task, measure_torch(wheel, task.place.source, task.pythons))
    check_row(row, file.filename, "")
    return row


def _build(task: Task, row: TorchBuild) -> TorchBuild:
    """The row as one of its place. What was declared of the libc holds where the wheel's tag does not name one."""
    declared = next((one.libc_tag for one in task.before if one.libc_tag), None)
    return replace(row, index=task.place.variant, libc_tag=row.libc_tag or declared)


def in_parallel(
    work: Sequence[Callable[[], T]], jobs: int, deadline: float | None = None
) -> Iterator[tuple[int, T | BaseException]]:
    """Do some work in threads; yields the number of each piece with what it gave or raised, as they end.

    A second after ``deadline`` (of ``time.monotonic``) what has not ended counts as Stopped. The threads are daemons:
    then, and after Ctrl-C, nothing is waited for.
    """
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    ended: queue.SimpleQueue[tuple[int, T | BaseException]] = queue.SimpleQueue()
    for number in range(len(work)):
        waiting.put(number)

    def worker() -> None:
        while True:
            try:
                number = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                ended.put((number, work[number]()))
            except BaseException as error:
                ended.put((number, error))

    for _ in range(min(jobs, len(work))):
        threading.Thread(target=worker, daemon=True).start()
    left = set(range(len(work)))
    while left:
        try:  # on Windows a wait without an end cannot be interrupted
            number, result = ended.get(timeout=0.5)
        except queue.Empty:
            if deadline is None or time.monotonic() < deadline + 1:
                continue
            yield from ((number, Stopped()) for number in sorted(left))
            return
        left.remove(number)
        yield number, result


def described(row: Row) -> str:
    """A row in one line for people."""
    if isinstance(row, BitsandbytesWheel):
        names = " ".join(library.name.removeprefix("libbitsandbytes_").partition(".")[0] for library in row.libraries)
        return f"bitsandbytes {row.version} {row.os} {row.machine}: {names}"
    cuda = f"CUDA {row.cuda}: {' '.join(row.arch_list)}" if row.cuda else "CPU"
    where = f" ({row.source}/{row.index})" if row.index else ""
    return f"torch {row.version}{where} {row.os} {row.machine}: {cuda}; {' '.join(sorted(row.pythons, key=python_key))}"


def pytorch_places(base: str, builds: Iterable[TorchBuild], cudas: Iterable[str]) -> tuple[Place, ...]:
    """PyTorch's own indexes: those of which rows are known, and those that a newer CUDA release would have."""
    variants = {row.index for row in builds if row.index}
    newest = max((_digits(variant) for variant in variants), default=(0, 0))
    variants |= {f"cu{cuda.replace('.', '')}" for cuda in cudas if _digits(f"cu{cuda.replace('.', '')}") > newest}
    return tuple(Place(f"{base.rstrip('/')}/{one}", "pytorch-index", one) for one in sorted(variants))


def _digits(variant: str) -> tuple[int, int]:
    """``cu126`` -> (12, 6); (0, 0) for the CPU."""
    digits = variant.removeprefix("cu")
    return (int(digits[:-1]), int(digits[-1])) if digits.isdigit() and len(digits) > 1 else (0, 0)
