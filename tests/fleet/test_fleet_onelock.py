"""One combination for all hosts, held against trying every combination on every host."""

from __future__ import annotations

import itertools
from functools import lru_cache
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnbenv.facts.model import HostFacts, decode_facts
from bnbenv.fleet.classes import classify
from bnbenv.fleet.model import HostAnswer, HostClass, HostReport
from bnbenv.fleet.onelock import Common, InTheWay, Pins, one_combination, pinned
from bnbenv.fleet.planning import plan_classes
from bnbenv.matrix.load import load_matrix
from bnbenv.matrix.model import Matrix
from bnbenv.solve.model import Availability, Request, Solution
from bnbenv.solve.situation import with_request
from bnbenv.solve.solver import choose
from bnbenv.solve.versions import admits

HOSTS = Path(__file__).parent.parent / "hosts"
TORCH = ("2.7.1", "2.10.0", "2.14.1", "2.15.0")
BITSANDBYTES = ("0.45.3", "0.47.0", "0.50.2")
GPTQ = ("5.8.0", "7.6.0", "7.7.0")


@lru_cache(maxsize=1)
def whole() -> Matrix:
    return load_matrix()


@lru_cache(maxsize=1)
def small() -> Matrix:
    """A few releases, so that every combination can be tried."""
    rows = whole()
    return msgspec.structs.replace(
        rows,
        torch=tuple(row for row in rows.torch if row.version.partition("+")[0] in TORCH),
        bitsandbytes=tuple(row for row in rows.bitsandbytes if row.version in BITSANDBYTES),
        packages=tuple(row for row in rows.packages if row.name != "gptqmodel" or row.version in GPTQ),
    )


@lru_cache(maxsize=1)
def recorded() -> dict[str, HostFacts]:
    paths = sorted(HOSTS.glob("*/facts.json"))
    found = {path.parent.name: decode_facts(path.read_bytes(), path.parent.name) for path in paths}
    return {name: facts for name, facts in found.items() if facts.driver.state in ("ok", "absent")}


def fleet(counts: dict[str, int], requests: dict[str, Request], rows: Matrix) -> tuple[HostClass, ...]:
    """Classes of recorded hosts, each so many times."""
    reports = [
        HostReport(f"{name}/{number}", "ok", HostAnswer("1", "/x", recorded()[name]))
        for name, count in counts.items()
        for number in range(count)
    ]
    return classify(reports, rows, requests)[0]


def named(part: str) -> str:
    return next(name for name in recorded() if part in name)


def every_combination(rows: Matrix, request: Request) -> list[Pins]:
    package = "gptqmodel" if request.family == "gptq" else "bitsandbytes"
    versions = GPTQ if request.family == "gptq" else BITSANDBYTES
    torch = sorted({row.version for row in rows.torch})
    minors = ("3.12", "3.13")
    return [Pins(one, package, version, minor) for one in torch for version in versions for minor in minors]


def fits(kind: HostClass, rows: Matrix, request: Request, pins: Pins) -> bool:
    if not (admits(request.torch, pins.torch) and admits(request.bitsandbytes, pins.version)):
        return False  # who pins it takes the place of the wish
    (asked,) = pinned({"env": request}, Common({"env": pins}), rows).values()
    return choose(kind.facts, rows, asked, Availability()) is not None


def fewest(classes: tuple[HostClass, ...], rows: Matrix, requests: dict[str, Request]) -> int:
    """How many hosts stand in the way at least, by trying all."""
    missing: list[set[frozenset[str]]] = []
    for request in requests.values():
        sets = set()
        for pins in every_combination(rows, request):
            sets.add(frozenset(kind.id for kind in classes if not fits(kind, rows, request, pins)))
        missing.append({one for one in sets if not any(other < one for other in sets)})
    weights = {kind.id: len(kind.hosts) for kind in classes}
    unions = (frozenset().union(*chosen) for chosen in itertools.product(*missing))
    return min(sum(weights[one] for one in union) for union in unions)


NARROW = Request(build="never", python=">=3.12,<3.14")
WISHES: tuple[dict[str, Request], ...] = (
    {"bnb": NARROW},
    {"bnb": NARROW, "gptq": Request(family="gptq", python=">=3.12,<3.14")},
    {"old": with_request(NARROW, torch="<2.8"), "new": with_request(NARROW, bitsandbytes=">=0.47")},
)


@settings(max_examples=8, deadline=None)
@given(st.data())
def test_it_is_the_smallest_set_of_hosts(data: st.DataObject) -> None:
    rows, requests = small(), data.draw(st.sampled_from(WISHES))
    names = data.draw(st.lists(st.sampled_from(sorted(recorded())), min_size=1, max_size=4, unique=True))
    classes = fleet({name: data.draw(st.integers(1, 3)) for name in names}, requests, rows)
    if not classes:
        return
    found = one_combination(classes, rows, requests)
    out = found.hosts if isinstance(found, InTheWay) else ()
    assert len(out) == fewest(classes, rows, requests)
    common = found if isinstance(found, Common) else found.rest
    if isinstance(found, InTheWay):
        assert {host for one in found.blockers for host in one.kind.hosts} == set(out)
        assert all(answer.conflict for one in found.blockers for answer in one.answers.values())
    if common is not None:
        for kind in classes:
            good = all(fits(kind, rows, request, common.pins[env]) for env, request in requests.items())
            assert good == (not set(kind.hosts) & set(out))


def test_all_hosts_then_get_these_very_versions() -> None:
    requests = {"bnb": Request()}
    counts = dict.fromkeys(map(named, ("580.65.06__h200", "535.183.01__a100-sm80+", "580.65.06__v100", "l4-sm89")), 2)
    counts[named("absent__nogpu__glibc2.36")] = 1
    classes = fleet(counts, requests, whole())
    found = one_combination(classes, whole(), requests)
    assert isinstance(found, Common)
    pins = found.pins["bnb"]
    plans = plan_classes(classes, whole(), pinned(requests, found, whole()))
    for plan in plans:
        answer = plan.answers["bnb"]
        assert isinstance(answer, Solution)
        assert not answer.choice.compiled
        held = (answer.choice.torch.version, answer.choice.bitsandbytes.version, answer.choice.python)
        assert held == (pins.torch, pins.version, pins.python)


def test_a_fleet_of_one_kind_gets_what_its_hosts_would_get_alone() -> None:
    """The order of preference is the solver's own."""
    names = [*list(recorded())[::5], named("581.57__rtx4090"), named("no-python")]
    for name in names:
        requests = {"bnb": Request(build="never")}
        classes = fleet({name: 1}, requests, whole())
        for plan in plan_classes(classes, whole(), requests):
            found, answer = one_combination(classes, whole(), requests), plan.answers["bnb"]
            assert isinstance(found, Common) == isinstance(answer, Solution), name
            if isinstance(answer, Solution) and isinstance(found, Common):
                choice, pins = answer.choice, found.pins["bnb"]
                assert (pins.version, pins.torch) == (choice.bitsandbytes.version, choice.torch.version), name
                assert pins.python == choice.python, name


def test_who_stands_in_the_way_is_told_what_it_needs() -> None:
    requests = {"bnb": Request()}
    old, new = named("450.248.02__a100"), named("580.65.06__rtx5090")
    found = one_combination(fleet({old: 1, new: 2}, requests, whole()), whole(), requests)
    assert isinstance(found, InTheWay)
    assert found.hosts == (f"{old}/0",)
    (blocker,) = found.blockers
    answer = blocker.answers["bnb"]
    assert [part.rule for part in answer.conflict] == ["driver-cuda"]
    assert answer.options[0].change == "upgrade the NVIDIA driver to 580 or newer"
    # The more hosts there are, the less they are in the way.
    found = one_combination(fleet({old: 3, new: 2}, requests, whole()), whole(), requests)
    assert isinstance(found, InTheWay) and found.hosts == (f"{new}/0", f"{new}/1")


def test_who_is_left_out_for_one_environment_is_no_burden_to_the_others() -> None:
    """The others get what they would get if these hosts were not there."""
    old, new = named("535.183.01__a100-sm80+"), named("580.65.06__h200-sm90")
    plain = {"bnb": Request(build="never")}
    alone = one_combination(fleet({new: 2}, plain, whole()), whole(), plain)
    both = one_combination(fleet({old: 1, new: 2}, plain, whole()), whole(), plain)
    assert isinstance(alone, Common) and isinstance(both, Common) and alone != both
    requests = {**plain, "newest": Request(torch=f"==={alone.pins['bnb'].torch}", build="never")}
    found = one_combination(fleet({old: 1, new: 2}, requests, whole()), whole(), requests)
    assert isinstance(found, InTheWay) and found.hosts == (f"{old}/0",) and found.rest is not None
    assert found.rest.pins["bnb"] == alone.pins["bnb"]


def test_hosts_that_nothing_fits_are_always_in_the_way() -> None:
    requests = {"bnb": Request()}
    classes = fleet({named("k40m"): 5, named("580.65.06__h200"): 1}, requests, whole())
    found = one_combination(classes, whole(), requests)
    assert isinstance(found, InTheWay)
    assert len(found.hosts) == 5 and found.rest is not None
    alone = one_combination(fleet({named("k40m"): 5}, requests, whole()), whole(), requests)
    assert isinstance(alone, InTheWay) and alone.rest is None and len(alone.hosts) == 5


@pytest.mark.parametrize("build", ["auto", "always"])
def test_what_a_wheel_serves_is_not_compiled_for_the_sake_of_others(build: str) -> None:
    """A host with an old C library can only compile; the others take a wheel of the same versions, unless asked."""
    request = Request(build=build)  # type: ignore[arg-type]
    requests = {"bnb": request}
    classes = fleet({named("v100-sm70__glibc2.17"): 1, named("580.65.06__v100"): 1}, requests, whole())
    found = one_combination(classes, whole(), requests)
    assert isinstance(found, Common)
    plans = plan_classes(classes, whole(), pinned(requests, found, whole()))
    compiled = [answer.choice.compiled for plan in plans if isinstance(answer := plan.answers["bnb"], Solution)]
    assert compiled == ([True, False] if build == "auto" else [True, True])
