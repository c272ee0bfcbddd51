"""Why nothing fits, and what would change that. Pure.

Every candidate has a set of rules against it. A smallest set of rules that meets all of these sets is the conflict:
were any one of them given up, some candidate would be left with nothing against it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import combinations

from bnbenv.facts.model import HostFacts
from bnbenv.matrix.drivers import number
from bnbenv.matrix.model import Matrix
from bnbenv.solve.driver_options import keep_driver, other_driver
from bnbenv.solve.model import Availability, Conflict, Option, Refusal, Request, Solution
from bnbenv.solve.pairs import archs_without_code, pairings
from bnbenv.solve.situation import Fails, Reason, with_request
from bnbenv.solve.solver import Judged, choose, judge
from bnbenv.solve.versions import admits, public
from bnbenv.solve.wording import arguments_of, command, gives

FailSets = dict[frozenset[str], Fails]
Change = tuple[str, Request, dict[str, str]]

KINDS_COMBINED = 6  # compute capabilities in one machine, up to which every mixture is tried

# What a user can change most easily comes first in a conflict of equal size.
_ORDER = (
    "gpu",
    "driver-state",
    "jetson",
    "platform",
    "build",
    "torch-wish",
    "bitsandbytes-wish",
    "python",
    "reachable",
    "driver-arch",
    "driver-cuda",
    "libc",
    "library-libc",
    "torch-ptx",
    "library-ptx",
    "torch-arch",
    "loader",
    "library-arch",
    "torch-cuda",
    "torch-requirement",
    "advisory",
)


def refuse(facts: HostFacts, matrix: Matrix, request: Request, availability: Availability) -> Refusal:
    """The refusal for a request that has no solution."""
    judged = judge(facts, matrix, request, availability, availability.managed_python)
    sets = {} if judged.situation.fails else _fail_sets(_one_of_each(judged))
    return Refusal(_conflict(judged, sets), tuple(_options(facts, matrix, request, availability, judged, sets)))


def _conflict(judged: Judged, sets: FailSets) -> tuple[Conflict, ...]:
    situation = judged.situation
    if situation.fails:
        return tuple(_conflicts(situation.fails.items()))
    platform = situation.facts.platform
    if not judged.wheels or not judged.torch:
        what = "bitsandbytes wheel" if not judged.wheels else "torch build"
        because = f"there is no {what} for {platform.os} on {platform.machine}"
        return (Conflict("platform", because, "the matrix"),)
    if situation.request.build == "always":
        because = "a source build was asked for, and this bnbenv takes published wheels only"
        return (Conflict("build", because, "the request"),)
    smallest = _hitting_set(_minimal(sets))
    return tuple(_conflicts((rule, _known(judged, rule, _reason(rule, smallest, sets))) for rule in smallest))


def _known(judged: Judged, rule: str, reason: Reason) -> Reason:
    """A wish that nothing known fulfils, on whatever host, is said to be one."""
    name = rule.removesuffix("-wish")
    if name == rule:
        return reason
    rows = (
        (*judged.situation.availability.local, *judged.matrix.torch) if name == "torch" else judged.matrix.bitsandbytes
    )
    versions = [row.version for row in rows]
    if any(admits(getattr(judged.situation.request, name), version) for version in versions):
        return reason
    newest = public(max(versions, key=public))
    return Reason(f"{reason.because}, and no such release is known; the newest known is {newest}", reason.source)


def _reason(rule: str, conflict: tuple[str, ...], sets: FailSets) -> Reason:
    """Why a rule is in the conflict: in the words of a candidate against which nothing else of the conflict stands.

    Of these the one that comes closest to fitting, the newest of several.
    """
    alone = [rules for rules in sets if rules.intersection(conflict) == {rule}]
    return sets[min(alone, key=len)][rule]


def _conflicts(items: Iterable[tuple[str, Reason]]) -> Iterator[Conflict]:
    for rule, reason in items:
        yield Conflict(rule, reason.because, reason.source)


def _one_of_each(judged: Judged) -> Judged:
    """Of GPUs of one compute capability only the first: the rules treat them alike."""
    situation = judged.situation
    first = {gpu.compute_capability: gpu.index for gpu in reversed(situation.gpus)}
    gpus = tuple(gpu for gpu in situation.gpus if first[gpu.compute_capability] == gpu.index)
    others = tuple(f"[{gpu.index}]" for gpu in situation.gpus if gpu not in gpus)
    builds = (
        (build, {rule: reason for rule, reason in fails.items() if not rule.endswith(others)})
        for build, fails in judged.torch
    )
    return replace(judged, situation=replace(situation, gpus=gpus, memo={}), torch=tuple(builds))


def _fail_sets(judged: Judged) -> FailSets:
    """The rules against each candidate, with the newest candidate's reasons.

    A candidate that breaks all the rules that another breaks, and more, says nothing new and is left out.
    """
    builds = sorted(judged.torch, key=lambda item: number(item[0].version), reverse=True)
    sets: FailSets = {}
    for wheel, wheel_fails in judged.wheels:
        archs = archs_without_code(judged.situation, judged.matrix, wheel)
        for build, build_fails in builds:
            alone = {**wheel_fails, **build_fails}
            broken = alone.keys() | archs if build.cuda else alone.keys()
            if any(rules <= broken for rules in sets):
                continue
            for pairing in pairings(judged.situation, judged.matrix, build, wheel):
                fails = {**pairing.fails, **alone}
                sets.setdefault(frozenset(fails), fails)
    return sets


def _minimal(sets: Iterable[frozenset[str]]) -> list[frozenset[str]]:
    ordered = sorted(sets, key=len)
    kept: list[frozenset[str]] = []
    for rules in ordered:
        if not any(smaller <= rules for smaller in kept):
            kept.append(rules)
    return kept


def _hitting_set(sets: list[frozenset[str]]) -> tuple[str, ...]:
    """A smallest set of rules with one from each candidate's set; ties by what is easiest to change."""
    rules = sorted(set().union(*sets), key=_rank)
    for size in range(1, len(rules) + 1):
        for chosen in combinations(rules, size):
            if all(not rules_against.isdisjoint(chosen) for rules_against in sets):
                return chosen
    return tuple(rules)


def _rank(rule: str) -> tuple[int, tuple[int, ...], str]:
    name, _, gpu = rule.split(":")[0].partition("[")
    return (_ORDER.index(name) if name in _ORDER else len(_ORDER), number(gpu), rule)


def _options(
    facts: HostFacts,
    matrix: Matrix,
    request: Request,
    availability: Availability,
    judged: Judged,
    sets: FailSets,
) -> Iterator[Option]:
    """Changes that lead to a solution, cheapest first; each has been solved."""
    arguments = arguments_of(request)
    kept = tuple(keep_driver(facts, matrix, request, availability))
    yield from kept
    taken: list[set[str]] = []  # of the sets of GPUs only the largest are worth saying
    for change, changed, replaced in (*_changes(request), *_fewer_gpus(judged, request)):
        chosen = {str(gpu.index) for gpu in facts.gpus} if changed.gpus == ("all",) else set(changed.gpus)
        if "--gpus" in replaced and any(chosen <= larger for larger in taken):
            continue
        solution = choose(facts, matrix, changed, availability)
        if solution is not None:
            yield _option(change, solution, {**arguments, **replaced}, request.build != changed.build)
            if "--gpus" in replaced:
                taken.append(chosen)
    if not kept and (judged.situation.fails or any(_driver_only(rules) for rules in sets)):
        yield from other_driver(facts, matrix, request, availability, judged.situation)
    if judged.situation.backend == "cuda":
        changed = with_request(request, backend="cpu", gpus=("all",))
        solution = choose(facts, matrix, changed, availability)
        if solution is not None:
            others = {key: value for key, value in arguments.items() if key not in ("--gpus", "--driver")}
            yield _option("use the CPU only", solution, {**others, "--backend": "cpu"})


def _option(change: str, solution: Solution, arguments: dict[str, str], by_hand: bool = False) -> Option:
    """A change of the wishes. ``by_hand``: it stands in bnbenv.toml, and no option of ``sync`` changes it."""
    words = tuple(word for item in arguments.items() for word in item)
    driver = arguments.get("--driver")
    if driver is not None:
        change += f", with the NVIDIA driver {driver}"
    return Option(change, gives(solution), None if by_hand or driver else command(arguments), words)


def _changes(request: Request) -> Iterator[Change]:
    """The wishes worth giving up: one, two, all of them."""
    if request.build == "always":
        yield 'take a published wheel (build = "auto")', with_request(request, build="auto"), {}
    wishes = {"torch": "*", "bitsandbytes": "*", "python": ">=3.10"}
    given = [name for name, loosest in wishes.items() if getattr(request, name) != loosest]
    for size in (1, 2, 3):
        for names in combinations(given, size):
            changes = {name: wishes[name] for name in names}
            text = f"give up the wish for {' and '.join(names)}"
            yield text, with_request(request, **changes), {f"--{name}": changes[name] for name in names}
    if request.gpus != ("all",):
        yield "take all GPUs", with_request(request, gpus=("all",)), {"--gpus": "all"}


def _fewer_gpus(judged: Judged, request: Request) -> Iterator[Change]:
    """Fewer GPUs, the most first. Those of one compute capability go together: the rules treat them alike."""
    situation = judged.situation
    gpus = situation.facts.gpus if "gpu" in situation.fails else situation.gpus
    kinds = tuple(dict.fromkeys(gpu.compute_capability for gpu in gpus))
    sizes = range(len(kinds) - 1, 0, -1) if len(kinds) <= KINDS_COMBINED else (len(kinds) - 1, 1)
    for size in sizes:
        for kept in combinations(kinds, size):
            subset = tuple(str(gpu.index) for gpu in gpus if gpu.compute_capability in kept)
            yield f"take only GPU {', '.join(subset)}", with_request(request, gpus=subset), {"--gpus": ",".join(subset)}


def _driver_only(rules: frozenset[str]) -> bool:
    """Whether another driver is all that a candidate lacks."""
    return all(rule.split("[")[0] in ("driver-cuda", "torch-ptx", "library-ptx") for rule in rules)
