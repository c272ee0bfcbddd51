"""What the grid is made of: hosts to ask the rules about, and tables in which nothing stands twice. Pure.

The rules write driver, libc and GPU into their reasons. Here they are asked about one of each class, with names that
are told apart from everything else; in the texts, placeholders such as ``{driver}`` stand for them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar, cast

from bnbenv.facts.model import Driver, DriverState, Gpu, HostFacts, Libc, Platform
from bnbenv.matrix.drivers import at_least, known_releases, number, unsupported
from bnbenv.matrix.model import GpuArch, Matrix
from bnbenv.solve.model import Availability, Request
from bnbenv.solve.situation import Fails, Situation, situate

T = TypeVar("T")

INDEX = 888_888_888
JETSON = "99.99.99"
_MARK = ".0.0"  # makes a version like no other, and means the same
_BRANCHES = range(300, 1000)


class Machine(NamedTuple):
    """A platform that people pick. ``windows_driver``: Windows, or Linux in WSL2, which runs on its driver."""

    id: str
    title: str
    os: str
    machine: str
    wsl: bool = False
    jetson: bool = False

    @property
    def rows(self) -> str:
        return f"{self.os}/{self.machine}"

    @property
    def windows_driver(self) -> bool:
        return self.wsl or self.os == "windows"


MACHINES = (
    Machine("linux-x86_64", "Linux on x86-64", "linux", "x86_64"),
    Machine("linux-x86_64-wsl2", "Linux on x86-64, in WSL2 on Windows", "linux", "x86_64", wsl=True),
    Machine("linux-aarch64", "Linux on aarch64 (Grace, GB10, Thor)", "linux", "aarch64"),
    Machine("linux-aarch64-l4t", "Jetson with L4T (Xavier, Orin)", "linux", "aarch64", jetson=True),
    Machine("windows-x86_64", "Windows on x86-64", "windows", "x86_64"),
    Machine("windows-aarch64", "Windows on aarch64", "windows", "aarch64"),
    Machine("macos-aarch64", "macOS on Apple silicon", "macos", "aarch64"),
    Machine("macos-x86_64", "macOS on Intel", "macos", "x86_64"),
)


def driver_bounds(matrix: Matrix, windows: bool) -> tuple[str, ...]:
    """The versions at which what a driver runs can change, the oldest first; before the first stands ``1``."""
    ends = [end for arch in matrix.archs for end in _ends(arch, windows)]
    found = sorted({*known_releases(matrix.drivers, matrix.archs, windows), *ends}, key=number)
    distinct = [new for old, new in pairwise(["1", *found]) if not at_least(old, new)]
    return ("1", *distinct)


def _ends(arch: GpuArch, windows: bool) -> Iterator[str]:
    """The branch from which on an architecture is no longer supported."""
    answers = [unsupported(arch, str(branch), windows) is None for branch in _BRANCHES]
    for branch, (before, after) in zip(_BRANCHES[1:], pairwise(answers), strict=True):
        if before and not after:
            yield str(branch)


def libc_bounds(matrix: Matrix) -> tuple[str, ...]:
    """The versions of glibc at which what runs can change, the oldest first; before the first stands ``0``."""
    found = {wheel.libc_tag for wheel in matrix.bitsandbytes} | {build.libc_tag for build in matrix.torch}
    found |= {library.glibc for wheel in matrix.bitsandbytes for library in wheel.libraries}
    found |= {advisory.glibc_below for advisory in matrix.advisories}
    return ("0", *sorted((text for text in found if text), key=number))


class Asker:
    """Situations of one machine, of which each holds one thing that matters."""

    def __init__(self, machine: Machine, matrix: Matrix) -> None:
        self.machine, self.matrix = machine, matrix
        # None: a driver whose version is unknown
        self.drivers = (None, *(bound + _MARK for bound in driver_bounds(matrix, machine.windows_driver)))
        glibc = [Libc("glibc", bound + _MARK) for bound in libc_bounds(matrix)]
        self.libcs: tuple[Libc | None, ...] = (None, Libc("{libc_name}", "0" + _MARK), *glibc)
        self.newest = len(self.drivers) - 1

    def facts(
        self,
        gpu: str | None = None,
        driver: int | None = None,
        libc: int = 0,
        state: DriverState = "ok",
    ) -> HostFacts:
        """``gpu`` is a compute capability, ``driver`` and ``libc`` number classes (default: the newest, unknown)."""
        version = self.drivers[self.newest if driver is None else driver]
        one = Gpu(INDEX, "GPU-0", "{gpu}", gpu or "", 0)
        return HostFacts(
            platform=Platform(
                self.machine.os,
                self.machine.machine,
                self.libcs[libc],
                self.machine.wsl,
                jetson=JETSON if self.machine.jetson else None,
            ),
            driver=Driver(state, version if state == "ok" else None),
            gpus=(one,) if gpu else (),
        )

    def situation(self, backend: str, pythons: bool = True, **facts: Any) -> Situation:
        """For the CPU, or for CUDA even where no GPU is named; with any Python or, which is quicker, with none."""
        wish = Request(backend="cpu" if backend == "cpu" else "cuda")
        return situate(self.facts(**facts), self.matrix, wish, Availability(), managed=pythons)

    def words(self, driver: int | None = None, libc: int = 0, arch: str = "") -> dict[str, str]:
        """What stands for itself in the texts about such a host."""
        found = self.libcs[libc]
        return {
            "driver": self.drivers[self.newest if driver is None else driver] or "",
            "libc": found.version if found else "",
            "index": str(INDEX),
            "arch": arch,
            "jetson": JETSON,
        }


class Tables:
    """Texts, reasons, outcomes and entries, each kept once and named by its number.

    A reason is ``[rule, text, source]``; an outcome ``[code, reasons]``, where ``code`` is such as ``sass sm_90`` (or
    null); an entry the outcomes of a row of classes as ``[outcome, from, outcome, from, outcome ...]``.
    """

    def __init__(self) -> None:
        self.kinds: dict[str, dict[Hashable, int]] = {
            name: {} for name in ("texts", "reasons", "outcomes", "entries", "pairs")
        }
        self._made: dict[Hashable, object] = {}

    def put(self, kind: str, value: Hashable) -> int:
        known = self.kinds[kind]
        return known.setdefault(value, len(known))

    def text(self, text: str | None, words: Mapping[str, str]) -> int:
        return self.put("texts", with_places(text or "", words))

    def outcome(self, fails: Fails, words: Mapping[str, str], code: str | None = None) -> int:
        """``words`` are what stands for itself: the host's (``Asker.words``) and the candidate's."""
        reasons = tuple(
            self.put("reasons", (with_places(rule, words), self.text(why.because, words), self.text(why.source, words)))
            for rule, why in fails.items()
        )
        return self.put("outcomes", (code, reasons))

    def entry(self, outcomes: Sequence[int]) -> int:
        flat = [outcomes[0]]
        for position, (before, after) in enumerate(pairwise(outcomes), 1):
            if before != after:
                flat += [position, after]
        return self.put("entries", tuple(flat))

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What is the same for several machines, made once."""
        if key not in self._made:
            self._made[key] = make()
        return cast("T", self._made[key])

    def document(self) -> dict[str, list[Any]]:
        return {kind: list(known) for kind, known in self.kinds.items()}


def with_places(text: str, words: Mapping[str, str]) -> str:
    """A text with ``{name}`` in the place of what has a name, the longest first."""
    found = [(name, word) for name, word in words.items() if word and word in text]
    for name, word in sorted(found, key=lambda item: -len(item[1])):
        text = text.replace(word, f"{{{name}}}")
    return text


def without(fails: Fails, rules: Iterable[str]) -> Fails:
    """The reasons but for those whose rules begin so, and those about the GPU that stands for others."""
    prefixes, suffix = tuple(rules), f"[{INDEX}]"
    return {rule: why for rule, why in fails.items() if not rule.startswith(prefixes) and not rule.endswith(suffix)}
