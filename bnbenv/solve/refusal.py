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
from bnbenv.matrix.model import Matrix, TorchBuild
from bnbenv.solve.builds import compiles_on, paired
from bnbenv.solve.families import series
from bnbenv.solve.model import KEEP, Availability, Conflict, Refusal, Request
from bnbenv.solve.options import Question, options
from bnbenv.solve.package_sets import unpublished, wish_of
from bnbenv.solve.pairs import with_any_torch
from bnbenv.solve.preference import Judged, judge, ways
from bnbenv.solve.rules import torch_pythons
from bnbenv.solve.situation import Fails, Reason
from bnbenv.solve.solver import considered
from bnbenv.solve.versions import admits, public, requirement_on

FailSets = dict[frozenset[str], Fails]

# What a user can change most easily comes first in a conflict of equal size.
_ORDER = (
    "gpu",
    "driver-state",
    "jetson",
    "platform",
    "build",
    "torch-wish",
    "bitsandbytes-wish",
    "package-wish",
    "python",
    "reachable",
    "build-source",
    "build-toolkit",
    "driver-arch",
    "driver-cuda",
    "libc",
    "library-libc",
    "torch-ptx",
    "library-ptx",
    "kernels-ptx",
    "torch-arch",
    "toolkit",
    "toolkit-arch",
    "build-arch",
    "build-cuda",
    "loader",
    "library-arch",
    "package-build",
    "kernels-arch",
    "kernels-cuda",
    "kernels-torch",
    "torch-cuda",
    "torch-requirement",
    "advisory",
    "package-advisory",
)


def refuse(facts: HostFacts, matrix: Matrix, request: Request, availability: Availability) -> Refusal:
    """The refusal for a request that has no solution."""
    judged = candidates(facts, matrix, request, availability)
    conflict, sets = conflict_of(*judged)
    question = Question(facts, matrix, request, availability, judged[0])
    return Refusal(conflict, tuple(options(question, sets)))


def candidates(facts: HostFacts, matrix: Matrix, request: Request, availability: Availability) -> tuple[Judged, ...]:
    """All that was considered: wheels first, then source builds. Raises RebootRequired."""
    every = [judge(facts, matrix, one, availability, availability.managed_python) for one in ways(request)]
    return tuple(judged for judged in every if considered(judged, request))


def conflict_of(first: Judged, *others: Judged) -> tuple[tuple[Conflict, ...], FailSets]:
    """A smallest set of facts that leave no candidate, and the rules against each candidate.

    ``others`` are the same host and wishes with other candidates, such as source builds beside wheels.
    """
    sets: FailSets = {}
    if not first.situation.fails:
        for judged in (first, *others):
            _fail_sets(_one_of_each(judged), sets)
    with_candidates = next((judged for judged in (first, *others) if judged.wheels and judged.torch), first)
    return _conflict(with_candidates, sets), sets


def _conflict(judged: Judged, sets: FailSets) -> tuple[Conflict, ...]:
    situation = judged.situation
    if situation.fails:
        return tuple(_conflicts(situation.fails.items()))
    platform = situation.facts.platform
    kept = situation.availability.existing
    if situation.request.torch == KEEP and kept is not None and not judged.torch:
        because = f"the torch that is there is for {kept.torch.os} on {kept.torch.machine}, and this is not such a host"
        return (Conflict("torch-wish", because, kept.torch.evidence.source),)
    if situation.request.build == "always" and not compiles_on(platform.os):
        because = f"bnbenv compiles bitsandbytes on Linux only, and this is {platform.os}"
        return (Conflict("build", because, "the request"),)
    if not judged.wheels or not judged.torch:
        what = "torch build"
        if not judged.wheels:
            what = "source of bitsandbytes" if situation.request.build == "always" else "bitsandbytes wheel"
            if situation.request.family != "bitsandbytes":
                what = f"file of {unpublished(judged.matrix, situation.request, platform.os, platform.machine)}"
        because = f"no {what} for {platform.os} on {platform.machine} is known"
        return (Conflict("platform", because, "the matrix"),)
    smallest = _hitting_set(_minimal(sets))
    return tuple(_conflicts((rule, _known(judged, rule, _reason(rule, smallest, sets))) for rule in smallest))


def _known(judged: Judged, rule: str, reason: Reason) -> Reason:
    """A wish that nothing known fulfils, on whatever host or on one like this, is said to be one."""
    name = rule.removesuffix("-wish")
    if name == "package":
        return _known_package(judged, reason)
    if name == rule or (name == "torch" and judged.situation.request.torch == KEEP):
        return reason
    rows = (
        (*judged.situation.availability.local, *judged.matrix.torch) if name == "torch" else judged.matrix.bitsandbytes
    )
    here = judged.situation.facts.platform
    wish = getattr(judged.situation.request, name)
    admitted = [row for row in rows if admits(wish, row.version)]
    if admitted and name == "bitsandbytes" and judged.situation.request.build == "always":
        return _can_be_compiled(judged, wish, reason)
    if any((row.os, row.machine) == (here.os, here.machine) for row in admitted):
        return reason
    if admitted:
        because = f"{reason.because}, and none such was published for {here.os} on {here.machine}"
        return Reason(because, reason.source)
    newest = public(max((row.version for row in rows), key=public))
    return Reason(f"{reason.because}, and no such release is known; the newest known is {newest}", reason.source)


def _known_package(judged: Judged, reason: Reason) -> Reason:
    """As ``_known``, of a package of another family."""
    wish = wish_of(judged.situation.request, judged.matrix)
    rows = [row for row in judged.matrix.packages if row.name == wish.name]
    if any(admits(wish.spec, row.version) for row in rows) or not rows:
        return reason
    newest = public(max((row.version for row in rows), key=public))
    return Reason(f"{reason.because}, and no such release is known; the newest known is {newest}", reason.source)


def _can_be_compiled(judged: Judged, wish: str, reason: Reason) -> Reason:
    """A wish for a release older than all that can be compiled is said to be one."""
    sources = sorted((release.version for release, _ in judged.wheels), key=public)
    if any(admits(wish, version) for version in sources):
        return reason
    return Reason(f"{reason.because}, and only {sources[0]} to {sources[-1]} can be compiled", reason.source)


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

    def without(fails: Fails) -> Fails:
        return {rule: reason for rule, reason in fails.items() if not rule.endswith(others)}

    return replace(
        judged,
        situation=replace(situation, gpus=gpus, memo={}),
        torch=tuple((build, without(fails)) for build, fails in judged.torch),
        wheels=tuple((wheel, without(fails)) for wheel, fails in judged.wheels),
    )


def _fail_sets(judged: Judged, sets: FailSets) -> None:
    """Add the rules against each candidate, with the newest candidate's reasons.

    A candidate that breaks all the rules that another breaks, and more, says nothing new and is left out.
    """
    builds = alike(judged)
    for wheel, wheel_fails in judged.wheels:
        archs = with_any_torch(judged.situation, judged.matrix, wheel)
        spec = requirement_on("torch", wheel.requires_dist)
        judged_kinds: set[tuple[int, bool]] = set()
        for build, build_fails, kind in builds:
            asked = (kind, spec is None or admits(spec, build.version, pre=build.source == "existing"))
            if asked in judged_kinds:
                continue
            judged_kinds.add(asked)
            alone = {**wheel_fails, **build_fails}
            broken = alone.keys() | archs if build.cuda else alone.keys()
            if any(rules <= broken for rules in sets):
                continue
            for pairing in paired(judged.situation, judged.matrix, build, wheel):
                fails = {**pairing.fails, **alone}
                sets.setdefault(frozenset(fails), fails)


def alike(judged: Judged) -> list[tuple[TorchBuild, Fails, int]]:
    """The torch builds, each with the number of its kind: of one kind, a wheel is judged alike with all.

    What a pair is judged by, beside the wheel's requirement: CUDA, Pythons, and what advisories say of the versions; of
    other families than bitsandbytes the series that kernels were compiled for.
    """
    advisories = judged.matrix.advisories
    torch = {one.torch for one in advisories if one.torch}
    torch |= {one.torch for one in judged.matrix.package_advisories if one.torch}
    triton = {one.triton for one in advisories if one.triton}
    kinds: dict[object, int] = {}
    rows = []
    for build, fails in judged.torch:
        kind = (
            build.cuda,
            torch_pythons(judged.situation, build),
            frozenset(fails),
            tuple(admits(spec, build.version, pre=True) for spec in torch),
            build.triton and tuple(admits(spec, build.triton, pre=True) for spec in triton),
            *(() if judged.situation.request.family == "bitsandbytes" else (series(build.version),)),
        )
        rows.append((build, fails, kinds.setdefault(kind, len(kinds))))
    return rows


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
