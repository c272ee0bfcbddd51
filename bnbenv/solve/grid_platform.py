"""The grid's tables of one platform: what the rules say of each class of hosts and of each candidate. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import Any

from bnbenv.errors import RebootRequired
from bnbenv.facts.model import DriverState
from bnbenv.matrix.drivers import number
from bnbenv.matrix.model import Advisory, BitsandbytesWheel, GpuArch, Matrix, NativeLibrary, TorchBuild
from bnbenv.solve.coverage import ptx_for, sass_for
from bnbenv.solve.grid_parts import Asker, Machine, Tables, without
from bnbenv.solve.model import Availability, Refusal, Request
from bnbenv.solve.pairs import applies, judge_library, library_cuda, loadable, loader_of, pairings
from bnbenv.solve.preference import Judged, build_order, judge, kind_of, override_distance
from bnbenv.solve.rules import label, torch_fails, torch_pythons, wheel_fails
from bnbenv.solve.situation import Fails, Reason, Situation, situate
from bnbenv.solve.solver import solve
from bnbenv.solve.versions import public

Answer = tuple[Fails, str | None]

STATES: tuple[DriverState, ...] = ("ok", "absent", "error", "mismatch")

# GPUs for which no library has native code, so that every library the loader could be told to take is named.
_OLDEST, _NEWEST = "0.1", "999.0"

# What the conditions of an advisory look at (beside ``override``); all that are set must hold.
CONDITIONS = {
    "os": ("os",),
    "wheels": ("bitsandbytes",),
    "torch": ("torch", "triton", "torch_cuda"),
    "libraries": ("libraries",),
    "libc": ("glibc_below",),
    "archs": ("capability",),
}


def archs_in_order(matrix: Matrix) -> list[GpuArch]:
    """By compute capability: the highest of several GPUs decides which library is loaded."""
    return sorted(matrix.archs, key=lambda arch: number(arch.compute_capability))


def rows_of(matrix: Matrix, machine: Machine) -> tuple[tuple[BitsandbytesWheel, ...], tuple[TorchBuild, ...]]:
    """The wheels, the newest first, and the torch builds of a platform."""
    here = (machine.os, machine.machine)
    wheels = [wheel for wheel in matrix.bitsandbytes if (wheel.os, wheel.machine) == here]
    wheels.sort(key=lambda wheel: public(wheel.version), reverse=True)
    return tuple(wheels), tuple(build for build in matrix.torch if (build.os, build.machine) == here)


def wheel_words(wheel: BitsandbytesWheel) -> dict[str, str]:
    return {"file": wheel.filename, "bitsandbytes": f"bitsandbytes {wheel.version}", "sha256": wheel.sha256}


def library_words(library: NativeLibrary) -> dict[str, str]:
    return {"library": library.name, "codes": " ".join((*library.sass, *library.ptx))}


def torch_words(build: TorchBuild) -> dict[str, str]:
    words = {"label": label(build), "torch": f"torch {build.version}", "archs": " ".join(build.arch_list)}
    if build.evidence.level == "measured":  # a file's name and digest
        words["measured"] = build.evidence.source
    return words


def shown(wheel: BitsandbytesWheel) -> list[NativeLibrary]:
    """The libraries that the rules know: those for CUDA, and the first for the CPU."""
    cpu = [library for library in wheel.libraries if library.backend == "cpu"]
    return [library for library in wheel.libraries if library.backend == "cuda"] + cpu[:1]


def column(library: NativeLibrary) -> str:
    """The column in which a library stands: its CUDA version, or CPU."""
    return library_cuda(library) if library.backend == "cuda" else "CPU"


class Platform:
    """One machine's tables. Numbers name rows, classes and what stands in ``Tables``."""

    def __init__(self, machine: Machine, matrix: Matrix, tables: Tables) -> None:
        self.machine, self.matrix, self.tables = machine, matrix, tables
        self.ask = Asker(machine, matrix)
        self.wheels, self.builds = rows_of(matrix, machine)
        self.archs = archs_in_order(matrix)
        self.all_drivers = range(len(self.ask.drivers))
        self.all_libcs = range(len(self.ask.libcs))

    def document(self) -> dict[str, Any]:
        states = {state: [self._state(state, capability) for capability in (None, "9.0")] for state in STATES}
        gpus = states["ok"][1][0] == "cuda"
        return {
            "id": self.machine.id,
            "title": self.machine.title,
            "rows": self.machine.rows,
            "gpus": gpus,
            "libc": self.machine.os == "linux",
            "drivers": "windows" if self.machine.windows_driver else "linux",
            "missing": self._missing(),
            "states": states,
            "host": [self._host(arch) for arch in self.archs] if gpus else [],
            "leaders": self._leaders(),
            "libraries": self._libraries(gpus),
            "advisories": list(self._advisories(gpus)) if self.wheels and self.builds else [],
            "backends": {name: self._backend(name) for name in (("cuda", "cpu") if gpus else ("cpu",))},
        }

    def _state(self, state: DriverState, capability: str | None) -> list[Any]:
        """The backend, and what stands against every candidate because of the driver's state."""
        facts = self.ask.facts(gpu=capability, state=state)
        try:
            situation = situate(facts, self.matrix, Request(), Availability(), managed=True)
        except RebootRequired as error:
            against = {error.code: Reason(f"{error.message}. {error.next_step}", "the facts")}
            return ["cuda", self.tables.outcome(against, self.ask.words())]
        return [situation.backend, self.tables.outcome(without(situation.fails, ()), self.ask.words())]

    def _missing(self) -> int | None:
        """What is said of a platform for which there are no wheels or no torch builds."""
        answer = solve(self.ask.facts(state="absent"), self.matrix, Request())
        if not isinstance(answer, Refusal) or (self.wheels and self.builds):
            return None
        against = {part.rule: Reason(part.because, part.source) for part in answer.conflict}
        return self.tables.outcome(against, self.ask.words())

    @cached_property
    def _at(self) -> dict[tuple[str, int], Situation]:
        """A host with one GPU, for each architecture and class of drivers."""
        return {
            (arch.arch, driver): self.ask.situation("cuda", False, gpu=arch.compute_capability, driver=driver)
            for arch in self.archs
            for driver in self.all_drivers
        }

    def _host(self, arch: GpuArch) -> int:
        """Whether a driver knows an architecture."""
        return self._by_driver(((self._at[arch.arch, driver].fails, None) for driver in self.all_drivers), arch, {})

    def _by_driver(self, answers: Iterable[Answer], arch: GpuArch, own: dict[str, str]) -> int:
        return self._entry(answers, lambda driver: {**self.ask.words(driver, arch=arch.arch), **own})

    def _by_libc(self, answers: Iterable[Fails], own: dict[str, str]) -> int:
        return self._entry(((fails, None) for fails in answers), lambda libc: {**self.ask.words(libc=libc), **own})

    def _entry(self, answers: Iterable[Answer], words: Callable[[int], dict[str, str]]) -> int:
        """What is said of each class in turn. What is said in the same words of two does not name either."""
        outcomes: list[int] = []
        before: Answer | None = None
        for place, answer in enumerate(answers):
            again = answer == before
            outcomes.append(outcomes[-1] if again else self.tables.outcome(answer[0], words(place), answer[1]))
            before = answer
        return self.tables.entry(outcomes)

    def _leaders(self) -> list[int]:
        """For each architecture 1 or 0: whether its libraries are those of the newest or of the oldest GPUs."""
        groups = {self._loadable(_OLDEST): 0, self._loadable(_NEWEST): 1}
        return [groups[self._loadable(arch.compute_capability)] for arch in self.archs]

    def _loadable(self, capability: str) -> tuple[tuple[str, ...], ...]:
        situation = self.ask.situation("cuda", gpu=capability)
        loaders = [(wheel, loader_of(self.matrix, wheel)) for wheel in self.wheels]
        return tuple(
            tuple(one.name for one in loadable(situation, loader, wheel)) for wheel, loader in loaders if loader
        )

    def _libraries(self, gpus: bool) -> dict[str, Any]:
        """What of a library runs on an architecture with a driver, and on which libc it loads.

        Libraries for the same CUDA with the same code are alike to the rules: one of them stands for all.
        """
        classes: dict[tuple[Any, ...], int] = {}
        codes: list[list[int]] = []
        for wheel in self.wheels:
            for library in shown(wheel):
                key = (column(library), library.sass, library.ptx)
                if key not in classes:
                    classes[key] = len(classes)
                    on_cuda = gpus and library.backend == "cuda"
                    codes.append([self._code(wheel, library, arch) for arch in self.archs] if on_cuda else [])
        return {
            "codes": codes,
            "of": [[classes[column(one), one.sass, one.ptx] for one in shown(wheel)] for wheel in self.wheels],
            "libc": [[self._library_libc(wheel, one) for one in shown(wheel)] for wheel in self.wheels],
        }

    def _code(self, wheel: BitsandbytesWheel, library: NativeLibrary, arch: GpuArch) -> int:
        judged = (judge_library(self._at[arch.arch, driver], wheel, library) for driver in self.all_drivers)
        own = {**wheel_words(wheel), **library_words(library)}
        return self._by_driver(((fails, codes[0]) for codes, fails in judged), arch, own)

    @cached_property
    def _on_libc(self) -> dict[tuple[str, int], Situation]:
        return {
            (backend, libc): self.ask.situation(backend, libc=libc)
            for backend in ("cuda", "cpu")
            for libc in self.all_libcs
        }

    def _library_libc(self, wheel: BitsandbytesWheel, library: NativeLibrary) -> int:
        judged = (judge_library(self._on_libc["cpu", libc], wheel, library)[1] for libc in self.all_libcs)
        return self._by_libc(judged, {**wheel_words(wheel), **library_words(library)})

    def _backend(self, backend: str) -> dict[str, Any]:
        """The candidates, torch builds in the order of preference, and what stands against each and each pair."""
        judged = self._judged(backend)
        situation = judged.situation
        builds = [build for build, _ in judged.torch]
        usable = [build for build in builds if torch_pythons(situation, build)]
        usable.sort(key=lambda build: (kind_of(situation, build), build_order(situation, build)))
        builds = usable + [build for build in builds if build not in usable]
        classes: dict[tuple[Any, ...], int] = {}
        gpu: list[list[int]] = []
        of = []
        for build in builds:
            key = (build.cuda, build.arch_list)
            if key not in classes:
                classes[key] = len(classes)
                gpu.append([self._torch(build, arch) for arch in self.archs] if backend == "cuda" else [])
            of.append(classes[key])
        libcs = [self._on_libc[backend, libc] for libc in self.all_libcs]
        groups = (_OLDEST, _NEWEST) if backend == "cuda" else (None,)
        return {
            "torch": [self.builds.index(build) for build in builds],
            "kind": [kind_of(situation, build) for build in builds],
            "codes": gpu,
            "of": of,
            "libc": [self._by_libc((torch_fails(one, build) for one in libcs), torch_words(build)) for build in builds],
            "wheel": [
                self._by_libc((wheel_fails(one, wheel) for one in libcs), wheel_words(wheel)) for wheel in self.wheels
            ],
            "pairs": [self._pairs(backend, builds, group) for group in groups],
        }

    def _pairs(self, backend: str, builds: list[TorchBuild], group: str | None) -> list[list[int]]:
        """Each wheel with each torch build, for the oldest or the newest GPUs."""

        def make() -> list[list[int]]:
            situation = self.ask.situation(backend, gpu=group)
            return [[self._pair(situation, wheel, build) for build in builds] for wheel in self.wheels]

        return self.tables.once((self.machine.rows, backend, group), make)

    def _judged(self, backend: str) -> Judged:
        """All candidates: for CUDA those of a host with a GPU that nothing is wrong with."""
        if backend == "cuda":
            for arch in reversed(self.archs):
                facts = self.ask.facts(gpu=arch.compute_capability)
                judged = judge(facts, self.matrix, Request(), Availability(), managed=True)
                if not judged.situation.fails:
                    return judged
        return judge(self.ask.facts(state="absent"), self.matrix, Request(), Availability(), managed=True)

    def _torch(self, build: TorchBuild, arch: GpuArch) -> int:
        sass = sass_for(arch_capability(arch), build.arch_list)
        code = f"sass {sass}" if sass else f"ptx {ptx_for(arch_capability(arch), build.arch_list)}"
        answers = []
        for driver in self.all_drivers:
            fails = torch_fails(self._at[arch.arch, driver], build)
            fails.pop("python", None)  # has no driver, and is told with libc
            answers.append((fails, code))
        return self._by_driver(answers, arch, torch_words(build))

    def _pair(self, situation: Situation, wheel: BitsandbytesWheel, build: TorchBuild) -> int:
        """The Python, and every library that could be loaded: ``[library, with an override, outcome]``."""
        words = {**self.ask.words(), **wheel_words(wheel), **torch_words(build)}
        found = sorted(pairings(situation, self.matrix, build, wheel), key=override_distance)
        names = shown(wheel)
        variants = tuple(
            (
                -1 if pairing.library is None else names.index(pairing.library),
                pairing.override or "",
                self.tables.outcome(without(pairing.fails, ("advisory:",)), words),
            )
            for pairing in found
        )
        python = found[0].python
        return self.tables.put("pairs", (python.minor if python else "", variants))

    def _advisories(self, gpus: bool) -> Iterator[dict[str, Any]]:
        """Known-bad combinations: for which rows and hosts each condition holds, null where there is none."""
        host, build, wheel = self.ask.situation("cpu"), self.builds[0], self.wheels[0]
        libraries = {one.name: one for other in self.wheels for one in shown(other)}
        library = next(iter(libraries.values()))
        hosts = [self._at[arch.arch, 0] for arch in self.archs] if gpus else []
        libcs = [self._on_libc["cpu", libc] for libc in self.all_libcs]
        for advisory in self.matrix.advisories:
            part = {what: _only(advisory, fields) for what, fields in CONDITIONS.items()}
            if not applies(host, part["os"], build, wheel, library, None):
                continue
            holds = {
                "wheels": [applies(host, part["wheels"], build, one, library, None) for one in self.wheels],
                "torch": [applies(host, part["torch"], one, wheel, library, None) for one in self.builds],
                "libraries": [applies(host, part["libraries"], build, wheel, one, None) for one in libraries.values()],
                "libc": [applies(one, part["libc"], build, wheel, library, None) for one in libcs],
                "archs": [applies(one, part["archs"], build, wheel, library, None) for one in hosts],
            }
            names = list(libraries)
            bare = _only(advisory, ())
            lists = {
                what: None if part[what] == bare else [place for place, held in enumerate(answers) if held]
                for what, answers in holds.items()
            }
            because = Reason(f"{advisory.summary} {advisory.remedy}", advisory.reference)
            yield {
                "refuses": advisory.refuses,
                "outcome": self.tables.outcome({f"advisory:{advisory.id}": because}, self.ask.words()),
                "override": advisory.override,
                **lists,
                "libraries": lists["libraries"] and [names[place] for place in lists["libraries"]],
            }


def arch_capability(arch: GpuArch) -> tuple[int, int]:
    major, minor = number(arch.compute_capability)
    return major, minor


def _only(advisory: Advisory, fields: tuple[str, ...]) -> Advisory:
    """An advisory with only some of its conditions."""
    kept = {name: getattr(advisory, name) for name in fields}
    return Advisory(advisory.id, advisory.summary, advisory.remedy, advisory.reference, **kept)
