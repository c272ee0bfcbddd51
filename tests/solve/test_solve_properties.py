"""Properties over random hosts and wishes. The solver is held against an exhaustive search over the raw tables.

The search below is written from the field's rules (CUDA's binary and minor-version compatibility, the loaders, the
tags of wheels) and shares no code with the solver.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from bnbenv.facts.model import HostFacts, decode_facts
from bnbenv.matrix.load import find_data
from bnbenv.matrix.model import Matrix
from bnbenv.solve.model import Refusal, Request, Solution
from bnbenv.solve.solver import solve

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DRIVERS = (
    *("450.80.01", "450.80.02", "470.256.02", "520.61.05", "525.60.12", "525.60.13", "528.33", "535.183.01"),
    *("560.28.03", "570.26", "570.133.20", "575.51.03", "580.65.06", "582.28", "590.44.01", "595.45.04", "610.43.02"),
)
CAPABILITIES = (
    *("3.7", "5.2", "6.1", "7.0", "7.5", "8.0", "8.6", "8.7", "8.9", "9.0", "10.0", "10.3", "11.0", "12.0", "12.1"),
    "13.0",
)
FAMILY_MIN = {
    "linux": {"11": "450.80.02", "12": "525.60.13", "13": "580"},
    "windows": {"11": "452.39", "12": "528.33", "13": "580"},
}
TORCH_WISHES = ("*", ">=2.4,<2.8", "==2.10.*", "==2.7.1", "==2.6.0+cu126", "<2.11", ">=2.15", "==2.99.0")
WHEEL_WISHES = ("*", "==0.45.0", "==0.45.2", "==0.45.*", "==0.46.0", "==0.49.2", "<0.49", ">=0.50")
PYTHON_WISHES = (">=3.10", "==3.9.*", "==3.12.*", ">=3.13", ">=3.10,<3.12")
LEVELS = ("declared", "measured", "resolved", "verified")


@dataclass(frozen=True)
class Case:
    """A host and what is wished for on it."""

    os: str
    machine: str
    glibc: str
    driver: str
    gpus: tuple[str, ...]
    pythons: tuple[str, ...]
    torch: str
    wheel: str
    python: str
    backend: str

    @property
    def facts(self) -> HostFacts:
        libc = {"name": "glibc", "version": self.glibc} if self.os == "linux" else None
        document = {
            "schema": "bnbenv.facts/1",
            "platform": {"os": self.os, "machine": self.machine, "libc": libc},
            "driver": {"state": "ok" if self.gpus else "absent", "version": self.driver if self.gpus else None},
            "gpus": [
                {"index": i, "uuid": f"GPU-{i:08x}", "name": "a GPU", "compute_capability": gpu, "memory_total": 1}
                for i, gpu in enumerate(self.gpus)
            ],
            "pythons": [{"path": f"/usr/bin/python{minor}", "version": f"{minor}.5"} for minor in self.pythons],
        }
        return decode_facts(json.dumps(document), "the host")

    @property
    def request(self) -> Request:
        backend: Any = self.backend
        return Request(torch=self.torch, bitsandbytes=self.wheel, python=self.python, backend=backend)

    @property
    def cuda(self) -> bool:
        return self.backend != "cpu" and (bool(self.gpus) or self.backend == "cuda")


def some(values: tuple[str, ...], first: int) -> st.SearchStrategy[str]:
    """Half of the time the first, which asks for nothing."""
    return st.one_of(st.just(values[first]), st.sampled_from(values))


CASES = st.builds(
    Case,
    os=st.sampled_from(("linux", "linux", "windows")),
    machine=st.just("x86_64"),
    glibc=st.sampled_from(("2.17", "2.24", "2.27", "2.28", "2.31", "2.34", "2.36", "2.39")),
    driver=st.sampled_from(DRIVERS),
    gpus=st.lists(st.sampled_from(CAPABILITIES), max_size=3).map(tuple),
    pythons=st.sets(st.sampled_from(("3.8", "3.9", "3.10", "3.11", "3.12", "3.13", "3.14")), max_size=3).map(
        lambda found: tuple(sorted(found))
    ),
    torch=some(TORCH_WISHES, 0),
    wheel=some(WHEEL_WISHES, 0),
    python=some(PYTHON_WISHES, 0),
    backend=some(("auto", "cpu", "cuda"), 0),
) | st.builds(
    Case,
    os=st.just("linux"),
    machine=st.just("aarch64"),
    glibc=st.sampled_from(("2.27", "2.28", "2.35", "2.39")),
    driver=st.sampled_from(DRIVERS[7:]),
    gpus=st.lists(st.sampled_from(("7.5", "8.0", "8.7", "9.0", "10.3", "11.0", "12.1")), max_size=2).map(tuple),
    pythons=st.just(("3.10", "3.12")),
    torch=some(TORCH_WISHES, 0),
    wheel=some(WHEEL_WISHES, 0),
    python=st.just(">=3.10"),
    backend=some(("auto", "cpu", "cuda"), 0),
)


@dataclass(frozen=True)
class Tables:
    """The matrix as it stands in the files."""

    torch: tuple[dict[str, Any], ...]
    wheels: tuple[dict[str, Any], ...]
    bundled: dict[str, dict[str, str | None]]
    archs: dict[str, dict[str, Any]]
    advisories: tuple[dict[str, Any], ...]


@pytest.fixture(scope="session")
def tables() -> Tables:
    folder = find_data()
    loads = {name: json.loads((folder / name).read_text())["rows"] for name in JSON_TABLES}
    toml = {
        name: tomllib.loads((folder / name).read_text()) for name in ("drivers.toml", "gpus.toml", "advisories.toml")
    }
    return Tables(
        torch=(*loads["torch.json"], *loads["torch-declared.json"]),
        wheels=tuple(loads["bitsandbytes.json"]),
        bundled={
            row["cuda"]: {"linux": row.get("bundled_linux"), "windows": row.get("bundled_windows")}
            for row in toml["drivers.toml"]["cuda"]
        },
        archs={row["compute_capability"]: row for row in toml["gpus.toml"]["arch"]},
        advisories=tuple(toml["advisories.toml"]["advisory"]),
    )


JSON_TABLES = ("torch.json", "torch-declared.json", "bitsandbytes.json")


@cache
def admits(spec: str | None, version: str) -> bool:
    return SpecifierSet("" if spec in (None, "*") else str(spec)).contains(version)


@cache
def dotted(text: str) -> tuple[int, ...]:
    parts = [int(part) for part in text.split(".")]
    return tuple(parts + [0] * (4 - len(parts)))


def code(targets: list[str], capability: str, ptx_allowed: bool) -> str | None:
    """``sass`` or ``ptx`` where one of the targets runs on the capability, else None."""
    major, minor = (int(part) for part in capability.split("."))
    kinds = set()
    for target in targets:
        kind, _, number = target.partition("_")
        suffix, number = number[-1] if number[-1].isalpha() else "", number.rstrip("af")
        here = (int(number[:-1]), int(number[-1]))
        if kind == "sm":
            exact = suffix == "a" or (major, minor) == (8, 7) or here == (8, 7)  # Orin is a Tegra
            if here[0] == major and (here[1] == minor if exact else here[1] <= minor):
                kinds.add("sass")
        elif here <= (major, minor) and ptx_allowed:
            assert suffix == "", "PTX for one architecture only: think about it"
            kinds.add("ptx")
    return "sass" if "sass" in kinds else "ptx" if kinds else None


@dataclass(frozen=True)
class Found:
    """A combination that fits; the smaller key is preferred."""

    key: tuple[Any, ...]
    torch: dict[str, Any]
    wheel: dict[str, Any]
    library: str
    override: str | None


class Search:
    """Every combination of the tables that fits a case."""

    def __init__(self, tables: Tables, case: Case) -> None:
        self.tables, self.case = tables, case

    def best(self) -> Found | None:
        """The preferred combination: with a Python that is there, else with one to download."""
        wish = self.case.python
        there = [minor for minor in self.case.pythons if admits(wish, f"{minor}.5")]
        every = [f"3.{number}" for number in range(8, 16)]
        download = [minor for minor in every if any(admits(wish, f"{minor}.{patch}") for patch in (0, 99))]
        for pythons in (there, [*there, *download]):
            found = sorted(self.all(pythons), key=lambda one: one.key)
            if found:
                return found[0]
        return None

    def all(self, pythons: list[str]) -> Iterator[Found]:
        case = self.case
        if case.cuda and not (case.gpus and self.driver_knows_gpus()):
            return
        here = [row for row in self.tables.torch if (row["os"], row["machine"]) == (case.os, case.machine)]
        builds = [row for row in here if admits(case.torch, row["version"]) and self.libc(row["libc_tag"])]
        wheels = [row for row in self.tables.wheels if (row["os"], row["machine"]) == (case.os, case.machine)]
        wheels = [row for row in wheels if admits(case.wheel, row["version"]) and self.libc(row["libc_tag"])]
        for build, wheel in itertools.product(builds, wheels):
            if not any(self.python_fits(minor, build, wheel) for minor in pythons):
                continue
            if not self.requirement(build, wheel):
                continue
            yield from self.on_gpus(build, wheel) if case.cuda else self.on_cpu(build, wheel)

    def libc(self, needed: str | None) -> bool:
        return needed is None or self.case.os != "linux" or dotted(self.case.glibc) >= dotted(needed)

    @staticmethod
    def python_fits(minor: str, build: dict[str, Any], wheel: dict[str, Any]) -> bool:
        tag = f"cp{minor.replace('.', '')}"
        full = f"{minor}.5"
        return (
            tag in build["pythons"]
            and admits(build["requires_python"], full)
            and admits(wheel["requires_python"], full)
        )

    @staticmethod
    def requirement(build: dict[str, Any], wheel: dict[str, Any]) -> bool:
        (needed,) = [text for text in wheel["requires_dist"] if text.startswith("torch") and ";" not in text]
        return admits(needed.removeprefix("torch") or None, build["version"])

    def driver_knows_gpus(self) -> bool:
        version = dotted(self.case.driver)
        for gpu in self.case.gpus:
            row = self.tables.archs.get(gpu, {})
            first, last = row.get(f"first_driver_{self.case.os}"), row.get("last_branch")
            beyond = None if last is None else last + (10 if self.case.os == "windows" else 1)
            if (first and version < dotted(first)) or (beyond and version[0] >= beyond):
                return False
        return True

    def ptx_compiles(self, cuda: str) -> bool:
        needed = self.tables.bundled.get(cuda, {}).get(self.case.os)
        return needed is not None and dotted(self.case.driver) >= dotted(needed)

    def on_cpu(self, build: dict[str, Any], wheel: dict[str, Any]) -> Iterator[Found]:
        for library in wheel["libraries"]:
            fits = library["backend"] == "cpu" and self.libc(library["glibc"])
            if fits and not self.bad(build, wheel, library["name"], None):
                yield Found(self.key(build, wheel, False, False), build, wheel, library["name"], None)

    def on_gpus(self, build: dict[str, Any], wheel: dict[str, Any]) -> Iterator[Found]:
        cuda, case = build["cuda"], self.case
        if cuda is None or dotted(case.driver) < dotted(FAMILY_MIN[case.os][cuda.split(".")[0]]):
            return
        torch = [code(build["arch_list"], gpu, self.ptx_compiles(cuda)) for gpu in case.gpus]
        libraries = {cuda_of(row["name"]): row for row in wheel["libraries"] if row["backend"] == "cuda"}
        same = {number: row for number, row in libraries.items() if number.split(".")[0] == cuda.split(".")[0]}
        default = cuda if cuda in same else None
        if default is None and Version(wheel["version"]) >= Version("0.50"):
            lower = [number for number in same if dotted(number) < dotted(cuda)]
            default = max(lower, key=dotted) if lower else min(same, key=dotted, default=None)
        for number, row in same.items():
            override = None if number == default else number.replace(".", "")
            own = [code([*row["sass"], *row["ptx"]], gpu, self.ptx_compiles(number)) for gpu in case.gpus]
            if None in torch or None in own or not self.libc(row["glibc"]):
                continue
            if not self.bad(build, wheel, row["name"], override):
                key = self.key(build, wheel, "ptx" in (*torch, *own), override is not None)
                yield Found(key, build, wheel, row["name"], override)

    def key(self, build: dict[str, Any], wheel: dict[str, Any], ptx: bool, override: bool) -> tuple[Any, ...]:
        kind = 1 if build["cuda"] and not self.case.cuda else 0
        bitsandbytes = [-part for part in Version(wheel["version"]).release]
        torch = [-part for part in Version(build["version"]).release]
        level = -LEVELS.index(build["evidence"]["level"])
        return (kind, ptx, override, bitsandbytes, torch, level, build["source"] != "default-index")

    def bad(self, build: dict[str, Any], wheel: dict[str, Any], library: str, override: str | None) -> bool:
        return any(
            row.get("refuses", True) and self.concerns(row, build, wheel, library, override)
            for row in self.tables.advisories
        )

    def concerns(
        self, row: dict[str, Any], build: dict[str, Any], wheel: dict[str, Any], library: str, override: str | None
    ) -> bool:
        cuda, gpus = build["cuda"] or "", self.case.gpus if self.case.cuda else ()
        conditions = {
            "bitsandbytes": lambda want: admits(want, wheel["version"]),
            "torch": lambda want: admits(want, build["version"]),
            "triton": lambda want: bool(build.get("triton")) and admits(want, build["triton"]),
            "torch_cuda": lambda want: any(f"{cuda}.".startswith(f"{number}.") for number in want),
            "libraries": lambda want: library in want,
            "glibc_below": lambda want: self.case.os == "linux" and dotted(self.case.glibc) < dotted(want),
            "capability": lambda want: any(admits(want, gpu) for gpu in gpus),
            "os": lambda want: self.case.os in want,
            "override": lambda want: want == (override is not None),
        }
        return all(holds(row[name]) for name, holds in conditions.items() if name in row)


def cuda_of(library: str) -> str:
    digits = library.split("_cuda")[1].split(".")[0]
    return f"{digits[:-1]}.{digits[-1]}"


def quick(examples: int) -> settings:
    """The same examples at each run, none too slow for a busy machine, nothing written into the project."""
    checks = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
    return settings(max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=checks)


@quick(100)
@given(case=CASES)
def test_the_answer_is_that_of_an_exhaustive_search(case: Case, shipped: Matrix, tables: Tables) -> None:
    answer = solve(case.facts, shipped, case.request)
    best = Search(tables, case).best()
    if best is None:
        assert isinstance(answer, Refusal), answer
        return
    assert isinstance(answer, Solution), answer
    choice = answer.choice
    (build,) = [
        row
        for row in tables.torch
        if (row["version"], row["source"], row.get("index"))
        == (choice.torch.version, choice.torch.source, choice.torch.index)
        and (row["os"], row["machine"]) == (case.os, case.machine)
    ]
    (wheel,) = [row for row in tables.wheels if row["sha256"] == choice.bitsandbytes.sha256]
    override = choice.environment.get("BNB_CUDA_VERSION")
    chosen = [
        one
        for one in Search(tables, case).all([choice.python])
        if (one.torch, one.wheel, one.library, one.override) == (build, wheel, choice.bitsandbytes.library, override)
    ]
    assert chosen, "the choice does not fit"
    assert chosen[0].key == best.key, (best.torch["version"], best.wheel["version"], best.library)
    assert answer.backend == ("cuda" if case.cuda else "cpu")


@quick(30)
@given(case=CASES)
def test_every_selected_gpu_is_covered(case: Case, shipped: Matrix) -> None:
    answer = solve(case.facts, shipped, case.request)
    if isinstance(answer, Solution):
        assert [cover.gpu for cover in answer.covers] == (list(range(len(case.gpus))) if case.cuda else [])
        for cover in answer.covers:
            assert cover.arch == f"sm_{case.gpus[cover.gpu].replace('.', '')}"


def restricted(case: Case) -> Iterator[Case]:
    """The case with one more restriction."""
    both = {"torch": TORCH_WISHES[1:3], "wheel": WHEEL_WISHES[2:4], "python": PYTHON_WISHES[3:4]}
    for name, specs in both.items():
        for spec in specs:
            former = getattr(case, name)
            changed: dict[str, Any] = {name: spec if former == "*" else f"{former},{spec}"}
            yield replace(case, **changed)
    if case.backend == "auto":
        yield replace(case, backend="cuda")
    if case.gpus:
        yield replace(case, gpus=(*case.gpus, "8.0"))
    yield replace(case, glibc="2.17")


@quick(20)
@given(case=CASES)
def test_a_restriction_never_turns_a_refusal_into_a_solution(case: Case, shipped: Matrix) -> None:
    if isinstance(solve(case.facts, shipped, case.request), Refusal):
        for harder in restricted(case):
            assert isinstance(solve(harder.facts, shipped, harder.request), Refusal), harder


@quick(40)
@given(case=CASES)
def test_a_refusal_names_rules_and_offers_what_works(case: Case, shipped: Matrix) -> None:
    answer = solve(case.facts, shipped, case.request)
    if isinstance(answer, Solution):
        return
    assert answer.conflict
    for option in answer.options:
        if option.solve_args is not None:
            again = solve(case.facts, shipped, request_of(option.solve_args))
            assert isinstance(again, Solution), option
            assert f"bitsandbytes {again.choice.bitsandbytes.version} " in option.gives
            assert f"torch {again.choice.torch.version} " in option.gives
    on_cpu = replace(case, backend="cpu")
    if case.backend != "cpu" and isinstance(solve(on_cpu.facts, shipped, on_cpu.request), Solution):
        assert any("--backend cpu" in " ".join(option.solve_args or ()) for option in answer.options)


@quick(30)
@given(case=CASES)
def test_a_wish_in_the_conflict_can_be_given_up(case: Case, shipped: Matrix) -> None:
    """A single wish that alone stands against a solution is an option to give up."""
    answer = solve(case.facts, shipped, case.request)
    loose = {"--torch": "*", "--bitsandbytes": "*", "--python": ">=3.10"}
    given_wishes = {"--torch": case.torch, "--bitsandbytes": case.wheel, "--python": case.python}
    if isinstance(answer, Solution):
        return
    for name, loosest in loose.items():
        if given_wishes[name] == loosest:
            continue
        words = {**given_wishes, "--backend": case.backend, name: loosest}
        freed = solve(case.facts, shipped, request_of(tuple(word for item in words.items() for word in item)))
        offered = [pairs(option.solve_args).get(name) for option in answer.options if option.solve_args is not None]
        assert isinstance(freed, Refusal) or loosest in offered, answer


def pairs(words: tuple[str, ...]) -> dict[str, str]:
    return dict(zip(words[::2], words[1::2], strict=True))


def request_of(words: tuple[str, ...]) -> Request:
    """Options of ``bnbenv solve`` as a request."""
    names = {"--torch": "torch", "--bitsandbytes": "bitsandbytes", "--python": "python", "--backend": "backend"}
    changes: dict[str, Any] = {}
    for name, value in pairs(words).items():
        if name == "--gpus":
            changes["gpus"] = tuple(value.split(","))
        else:
            changes[names[name]] = value
    return Request(**changes)
