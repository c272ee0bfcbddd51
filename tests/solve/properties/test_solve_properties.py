"""Properties over random hosts and wishes; the solver is held against the exhaustive search in conftest.py."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import hypothesis.strategies as st
import msgspec
from hypothesis import HealthCheck, given, settings

from bnbenv.facts.model import HostFacts, decode_facts
from bnbenv.matrix.model import Matrix
from bnbenv.solve.model import KEEP, Availability, Buildable, Existing, Refusal, Request, Solution
from bnbenv.solve.solver import solve

DRIVERS = (
    *("450.80.01", "450.80.02", "470.256.02", "520.61.05", "525.60.12", "525.60.13", "528.33", "535.183.01"),
    *("560.28.03", "570.26", "570.133.20", "575.51.03", "580.65.06", "582.28", "590.44.01", "595.45.04", "610.43.02"),
)
CAPABILITIES = (
    *("3.7", "5.2", "6.1", "7.0", "7.5", "8.0", "8.6", "8.7", "8.9", "9.0", "10.0", "10.3", "11.0", "12.0", "12.1"),
    "13.0",
)
TORCH_WISHES = ("*", ">=2.4,<2.8", "==2.10.*", "==2.7.1", "==2.6.0+cu126", "<2.11", ">=2.15", "==2.99.0")
WHEEL_WISHES = (
    "*",
    "<0.45",
    "<0.43",
    "==0.42.0",
    "==0.40.*",
    "==0.45.0",
    "==0.45.2",
    "==0.45.*",
    "==0.46.0",
    "==0.49.2",
    "<0.49",
    ">=0.50",
)
KEPT = (
    *(("2.6.0", "default-index"), ("2.9.1", "default-index"), ("2.13.0", "default-index"), ("2.15.0", "default-index")),
    *(("2.9.1+cu126", "pytorch-index"), ("2.5.1+cu118", "pytorch-index"), ("2.1.2", "default-index")),
)
ROWS = ("bitsandbytes", "torch", "drivers", "archs", "toolkits", "source_releases")
TOOLKITS = (("11.8", "12.4", "13.1"), ("12.8",), ())
PYTHON_WISHES = (">=3.10", "==3.9.*", "==3.12.*", ">=3.13", ">=3.10,<3.12")


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
    build: str = "auto"
    toolkits: tuple[str, ...] | None = None
    kept: tuple[str, str] | None = None

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
        torch = self.torch if self.kept is None else KEEP
        build: Any = self.build
        return Request(torch=torch, bitsandbytes=self.wheel, python=self.python, backend=backend, build=build)

    def availability(self, matrix: Matrix) -> Availability:
        """The torch that is kept is a row of the matrix as if it were there."""
        builds = None if self.toolkits is None else Buildable(dict.fromkeys(self.toolkits, ""))
        here = (self.kept, self.os, self.machine)
        for row in matrix.torch:
            if ((row.version, row.source), row.os, row.machine) == here:
                changes: dict[str, Any] = {"source": "existing", "pythons": ("cp312",), "path": "there"}
                row = msgspec.structs.replace(row, **changes, index=None, libc_tag=None, requires_python=None)
                return Availability(existing=Existing(row, "3.12.5"), builds=builds)
        return Availability(builds=builds)

    @property
    def cuda(self) -> bool:
        return self.backend != "cpu" and (bool(self.gpus) or self.backend == "cuda")


def some(values: tuple[str, ...], first: int) -> st.SearchStrategy[str]:
    """Half of the time the first, which asks for nothing."""
    return st.one_of(st.just(values[first]), st.sampled_from(values))


CASES = (
    st.builds(
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
        build=st.sampled_from(("auto", "auto", "always", "never")),
        toolkits=st.one_of(st.none(), st.sampled_from(TOOLKITS)),
        kept=st.one_of(st.none(), st.none(), st.sampled_from(KEPT)),
    )
    | st.builds(
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
        build=st.sampled_from(("auto", "auto", "always", "never")),
        toolkits=st.one_of(st.none(), st.sampled_from(TOOLKITS)),
        kept=st.one_of(st.none(), st.none(), st.sampled_from(KEPT)),
    )
    | st.builds(  # where a build is likely
        Case,
        os=st.just("linux"),
        machine=st.just("x86_64"),
        glibc=st.sampled_from(("2.39", "2.17")),
        driver=st.sampled_from(("580.65.06", "570.133.20")),
        gpus=st.lists(st.sampled_from(("5.2", "6.1", "7.0", "8.7", "9.0", "12.0")), min_size=1, max_size=2).map(tuple),
        pythons=st.just(("3.12",)),
        torch=some(("*", ">=2.4,<2.8", "==2.10.*", "==2.6.0+cu126"), 0),
        wheel=some(("*", "==0.46.0", "==0.49.2", ">=0.50"), 0),
        python=st.just(">=3.10"),
        backend=st.just("auto"),
        build=st.sampled_from(("auto", "always")),
        toolkits=st.one_of(st.none(), st.sampled_from(TOOLKITS)),
        kept=st.one_of(st.none(), st.sampled_from(KEPT)),
    )
)


def quick(examples: int) -> settings:
    """The same examples at each run, none too slow for a busy machine, nothing written into the project."""
    checks = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
    return settings(max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=checks)


@quick(100)
@given(case=CASES)
def test_the_answer_is_that_of_an_exhaustive_search(case: Case, shipped: Matrix, search: Any) -> None:
    answer = asked(case, shipped)
    best = search(case).best()
    if best is None:
        assert isinstance(answer, Refusal), answer
        return
    assert isinstance(answer, Solution), answer
    assert answer.backend == ("cuda" if case.cuda else "cpu")
    choice = answer.choice
    assert case.build == "auto" or choice.bitsandbytes.source == ("build" if case.build == "always" else "wheel")
    assert (choice.bitsandbytes.filename == "") == (choice.bitsandbytes.source == "build")
    assert (choice.torch.source == "existing") == (case.kept is not None)
    torch = (choice.torch.version, choice.torch.source, choice.torch.index)
    override = choice.environment.get("BNB_CUDA_VERSION")
    bitsandbytes = (choice.bitsandbytes.version, choice.bitsandbytes.filename, choice.bitsandbytes.library, override)
    chosen = search(case).find(choice.python, torch, bitsandbytes)
    assert chosen is not None, "the choice does not fit"
    assert chosen.key == best.key, (best.torch["version"], best.wheel["version"], best.library)


def asked(case: Case, shipped: Matrix) -> Solution | Refusal:
    return solve(case.facts, shipped, case.request, case.availability(shipped))


@quick(30)
@given(case=CASES)
def test_every_selected_gpu_is_covered(case: Case, shipped: Matrix) -> None:
    answer = asked(case, shipped)
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
    if case.build == "auto":
        yield replace(case, build="never")
        yield replace(case, build="always")
    if case.gpus:
        yield replace(case, gpus=(*case.gpus, "8.0"))
    yield replace(case, glibc="2.17")


@quick(20)
@given(case=CASES)
def test_a_restriction_never_turns_a_refusal_into_a_solution(case: Case, shipped: Matrix) -> None:
    if isinstance(asked(case, shipped), Refusal):
        for harder in restricted(case):
            assert isinstance(asked(harder, shipped), Refusal), harder


@quick(40)
@given(case=CASES)
def test_a_refusal_names_rules_and_offers_what_works(case: Case, shipped: Matrix) -> None:
    answer = asked(case, shipped)
    if isinstance(answer, Solution):
        return
    assert answer.conflict
    for option in answer.options:
        if option.solve_args is not None:
            again = solve(case.facts, shipped, request_of(option.solve_args), case.availability(shipped))
            assert isinstance(again, Solution), option
            assert f"bitsandbytes {again.choice.bitsandbytes.version} " in option.gives
            assert f"torch {again.choice.torch.version} " in option.gives
    on_cpu = replace(case, backend="cpu")
    if case.backend != "cpu" and isinstance(asked(on_cpu, shipped), Solution):
        assert any("--backend cpu" in " ".join(option.solve_args or ()) for option in answer.options)


@quick(30)
@given(case=CASES)
def test_a_wish_in_the_conflict_can_be_given_up(case: Case, shipped: Matrix) -> None:
    """A single wish that alone stands against a solution is an option to give up."""
    answer = asked(case, shipped)
    if isinstance(answer, Solution):
        return
    loose: dict[str, Any] = {"torch": "*", "wheel": "*", "python": ">=3.10"}
    for name, loosest in loose.items():
        freed = replace(case, **{name: loosest}, kept=None if name == "torch" else case.kept)
        if freed == case or isinstance(asked(freed, shipped), Refusal):
            continue
        option = "--bitsandbytes" if name == "wheel" else f"--{name}"
        offered = [pairs(one.solve_args).get(option) for one in answer.options if one.solve_args is not None]
        assert loosest in offered, answer


@quick(25)
@given(case=CASES, seed=st.integers(0, 1 << 30))
def test_the_order_of_the_rows_changes_nothing(case: Case, seed: int, shipped: Matrix) -> None:
    """Neither the choice nor the words of a refusal: whoever asks the same again is told the same."""
    shuffled = {name: list(getattr(shipped, name)) for name in ROWS}
    for rows in shuffled.values():
        random.Random(seed).shuffle(rows)
    other = msgspec.structs.replace(shipped, **{name: tuple(rows) for name, rows in shuffled.items()})
    answer = solve(case.facts, other, case.request, case.availability(shipped))
    assert answer.document() == asked(case, shipped).document()


def pairs(words: tuple[str, ...]) -> dict[str, str]:
    plain = [word for word in words if word not in ("--build", "--no-build")]
    return dict(zip(plain[::2], plain[1::2], strict=True))


def request_of(words: tuple[str, ...]) -> Request:
    """Options of ``bnbenv solve`` as a request."""
    names = {"--torch": "torch", "--bitsandbytes": "bitsandbytes", "--python": "python", "--backend": "backend"}
    build = "always" if "--build" in words else "never" if "--no-build" in words else "auto"
    changes: dict[str, Any] = {"build": build}
    for name, value in pairs(words).items():
        if name == "--gpus":
            changes["gpus"] = tuple(value.split(","))
        else:
            changes[names[name]] = value
    return Request(**changes)
