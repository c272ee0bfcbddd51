"""All combinations of versions that a host admits, not only the preferred one. Pure.

It asks the rules of the solver (``solve.preference.judge``, ``solve.builds.paired``) about every pair of a torch build
and a wheel; of builds that the rules treat alike only one is asked about.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from bnbenv.facts.model import HostFacts
from bnbenv.matrix.model import BitsandbytesWheel, Matrix, TorchBuild
from bnbenv.solve.builds import paired
from bnbenv.solve.coverage import sass_for
from bnbenv.solve.families import beside, set_pythons
from bnbenv.solve.model import Availability, Request
from bnbenv.solve.package_sets import PackageSet
from bnbenv.solve.pairs import with_any_torch
from bnbenv.solve.preference import Judged, build_order, judge, kind_of, ways
from bnbenv.solve.refusal import alike
from bnbenv.solve.rules import torch_pythons, wheel_pythons
from bnbenv.solve.solver import considered
from bnbenv.solve.versions import admits, requirement_on

KINDS_OF_MERIT = 4
Merit = tuple[bool, ...]  # compiled, CUDA torch on a CPU, PTX, an override: what is preferred less, the worst first
Pair = tuple[str, str]  # the version of torch, and of bitsandbytes or another family's main package
Order = tuple[object, ...]  # of builds of one release of torch: the solver's order, the preferred one first


class Fit(NamedTuple):
    """How a pair fits: the minors of Python for it, what speaks for and against it, and where its torch is from."""

    minors: tuple[str, ...]
    merit: Merit
    order: Order


class Admitted(NamedTuple):
    """The pairs that fit, and how; ``there`` are the minors of Python that are on the host.

    ``compiled``: only source builds fit this host.
    """

    pairs: frozenset[tuple[Pair, Fit]]
    there: frozenset[str]
    compiled: bool


def admitted_by(facts: HostFacts, matrix: Matrix, request: Request, availability: Availability) -> Admitted:
    """Every combination for which the solver, asked for just these versions, has a solution; of wheels where any fits.

    Raises RebootRequired.
    """
    there: frozenset[str] = frozenset()
    for one in ways(request):
        judged = judge(facts, matrix, one, availability, availability.managed_python, quick=False)
        if judged.situation.fails or not considered(judged, request):
            continue
        there = frozenset(python.minor for python in judged.situation.pythons if not python.managed)
        found = _pairs(judged, one.build == "always")
        if found:
            return Admitted(frozenset(found.items()), there, one.build == "always")
    return Admitted(frozenset(), there, False)


def _pairs(judged: Judged, compiled: bool) -> dict[Pair, Fit]:
    situation, matrix = judged.situation, judged.matrix
    found: dict[Pair, Fit] = {}
    builds = [(build, kind) for build, fails, kind in alike(judged) if not fails]
    ptx = {id(build): not _native(judged, build) for build, _ in builds}
    orders = {
        id(build): build_order(situation, build)[1:-2] for build, _ in builds
    }  # without version, place and Python
    for wheel, fails in judged.wheels:
        if fails or with_any_torch(situation, matrix, wheel):
            continue
        spec = requirement_on("torch", wheel.requires_dist)
        judgements: dict[tuple[int, bool], Judgement | None] = {}
        near = {id(build) for build in beside(situation, wheel, [build for build, _ in builds])}
        for build, kind in builds:
            if id(build) not in near:
                continue
            asked = (kind, spec is None or admits(spec, build.version, pre=build.source == "existing"))
            if asked not in judgements:
                judgements[asked] = _judgement(judged, build, wheel)
            judgement = judgements[asked]
            if judgement is None:
                continue
            merit = (compiled, bool(kind_of(situation, build)), judgement.ptx or ptx[id(build)], judgement.override)
            fit = Fit(judgement.minors, merit, orders[id(build)])
            pair = (build.version, wheel.version)
            found[pair] = _better(found[pair], fit) if pair in found else fit
    return found


def _better(one: Fit, other: Fit) -> Fit:
    """The same versions from several sources, or with several kernels: the best of them is taken."""
    minors = tuple(dict.fromkeys((*one.minors, *other.minors)))
    return Fit(minors, *min(one[1:], other[1:]))


class Judgement(NamedTuple):
    """What the rules say of a wheel with builds of one kind: whether PTX of it is taken, and a variable needed, and
    the minors of Python for both."""

    ptx: bool
    override: bool
    minors: tuple[str, ...]


def _judgement(judged: Judged, build: TorchBuild, wheel: BitsandbytesWheel) -> Judgement | None:
    """None: nothing makes the pair fit."""
    ways_of_it = [
        (any("ptx" in (one.bitsandbytes[:3], one.kernels[:3]) for one in pairing.covers), pairing.override is not None)
        for pairing in paired(judged.situation, judged.matrix, build, wheel)
        if not pairing.fails
    ]
    return Judgement(*min(ways_of_it), tuple(_minors(judged, build, wheel))) if ways_of_it else None


def _native(judged: Judged, build: TorchBuild) -> bool:
    return all(sass_for(gpu.capability, build.arch_list) for gpu in judged.situation.gpus) or build.cuda is None


def _minors(judged: Judged, build: TorchBuild, wheel: BitsandbytesWheel) -> Iterator[str]:
    situation = judged.situation
    of_wheel = set_pythons(situation, wheel) if isinstance(wheel, PackageSet) else wheel_pythons(situation, wheel)
    yield from sorted(option.minor for option in torch_pythons(situation, build) if option.minor in of_wheel)
