"""Why nothing fits, and what would change that. Pure.

Every candidate has a set of rules against it. A smallest set of rules that meets all of these sets is the conflict:
were any one of them given up, some candidate would be left with nothing against it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import combinations

from bnbenv.facts.model import HostFacts
from bnbenv.matrix.model import Matrix
from bnbenv.solve.model import Availability, Conflict, Option, Refusal, Request, Solution
from bnbenv.solve.pairs import pairings
from bnbenv.solve.situation import Fails, Reason, with_request
from bnbenv.solve.solver import Judged, choose, judge
from bnbenv.solve.versions import number

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
    sets = {} if judged.situation.fails else _fail_sets(judged)
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
    return tuple(_conflicts((rule, _reason(rule, smallest, sets)) for rule in smallest))


def _reason(rule: str, conflict: tuple[str, ...], sets: FailSets) -> Reason:
    """Why a rule is in the conflict: in the words of a candidate against which nothing else of the conflict stands.

    Of these the one that comes closest to fitting, the newest of several.
    """
    alone = [rules for rules in sets if rules.intersection(conflict) == {rule}]
    return sets[min(alone, key=len)][rule]


def _conflicts(items: Iterable[tuple[str, Reason]]) -> Iterator[Conflict]:
    for rule, reason in items:
        yield Conflict(rule, reason.because, reason.source)


def _fail_sets(judged: Judged) -> FailSets:
    """The rules against each candidate, with the newest candidate's reasons.

    A candidate that breaks all the rules that another breaks, and more, says nothing new and is left out.
    """
    builds = sorted(judged.torch, key=lambda item: number(item[0].version), reverse=True)
    sets: FailSets = {}
    for wheel, wheel_fails in judged.wheels:
        for build, build_fails in builds:
            alone = {**wheel_fails, **build_fails}
            if any(rules <= alone.keys() for rules in sets):
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
    arguments = _arguments(request)
    taken: list[set[str]] = []  # of the sets of GPUs only the largest are worth saying
    for change, changed, replaced in (*_changes(request), *_fewer_gpus(judged, request)):
        chosen = {str(gpu.index) for gpu in facts.gpus} if changed.gpus == ("all",) else set(changed.gpus)
        if "--gpus" in replaced and any(chosen <= larger for larger in taken):
            continue
        solution = choose(facts, matrix, changed, availability)
        if solution is not None:
            words = tuple(word for key, value in {**arguments, **replaced}.items() if value for word in (key, value))
            yield Option(change, gives(solution), _command(replaced), words)
            if "--gpus" in replaced:
                taken.append(chosen)
    if judged.situation.fails or any(_driver_only(rules) for rules in sets):
        yield from _driver_upgrade(facts, matrix, request, availability, judged)
    if judged.situation.backend == "cuda":
        changed = with_request(request, backend="cpu", gpus=("all",), build="auto")
        solution = choose(facts, matrix, changed, availability)
        if solution is not None:
            kept = {key: value for key, value in arguments.items() if key not in ("--gpus", "--backend", "--driver")}
            words = tuple(word for key, value in kept.items() if value for word in (key, value))
            change = "use the CPU only"
            yield Option(change, gives(solution), "bnbenv sync --backend cpu", (*words, "--backend", "cpu"))


def _changes(request: Request) -> Iterator[Change]:
    """The wishes worth giving up: one, two, all of them."""
    if request.build == "always":
        yield "take a published wheel", with_request(request, build="auto"), {}
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


def _driver_upgrade(
    facts: HostFacts, matrix: Matrix, request: Request, availability: Availability, judged: Judged
) -> Iterator[Option]:
    """The oldest driver of the matrix with which it would be solved; only people can install it."""
    situation = judged.situation
    if situation.backend != "cuda" or not facts.gpus or request.driver is not None:
        return
    windows = situation.windows_driver
    versions: set[str | None] = set()
    for row in matrix.drivers:
        versions |= (
            {row.family_min_windows, row.bundled_windows} if windows else {row.family_min_linux, row.bundled_linux}
        )
    versions |= {arch.first_driver_windows if windows else arch.first_driver_linux for arch in matrix.archs}
    known = sorted({text for text in versions if text}, key=number)
    current = facts.driver.version
    for text in known:
        if current is not None and number(text) <= number(current):
            continue
        solution = choose(facts, matrix, with_request(request, driver=text), availability)
        if solution is not None:
            yield Option(f"upgrade the NVIDIA driver to {text} or newer", gives(solution), None, None)
            return


def _driver_only(rules: frozenset[str]) -> bool:
    """Whether another driver is all that a candidate lacks."""
    return all(rule.split("[")[0] in ("driver-cuda", "torch-ptx", "library-ptx") for rule in rules)


def gives(solution: Solution) -> str:
    """A solution in one line: ``bitsandbytes 0.50.2 with torch 2.15.0 (CUDA 13.2), Python 3.12``."""
    choice = solution.choice
    torch = f"torch {choice.torch.version} ({f'CUDA {choice.torch.cuda}' if choice.torch.cuda else 'CPU'})"
    return f"bitsandbytes {choice.bitsandbytes.version} with {torch}, Python {choice.python}"


def _arguments(request: Request) -> dict[str, str]:
    """The request as options of ``bnbenv solve``, defaults left out."""
    values = {
        "--torch": request.torch if request.torch != "*" else "",
        "--bitsandbytes": request.bitsandbytes if request.bitsandbytes != "*" else "",
        "--python": request.python if request.python != ">=3.10" else "",
        "--gpus": ",".join(request.gpus) if request.gpus != ("all",) else "",
        "--backend": request.backend if request.backend != "auto" else "",
        "--driver": request.driver or "",
    }
    return {key: value for key, value in values.items() if value}


def _command(replaced: dict[str, str]) -> str:
    words = [f"{key} '{value}'" if set(value) & set("<>*!= ") else f"{key} {value}" for key, value in replaced.items()]
    return " ".join(["bnbenv sync", *words])
