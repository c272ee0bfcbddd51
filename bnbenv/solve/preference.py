"""The candidates of a host, and the order in which they are preferred. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from bnbenv.facts.model import HostFacts
from bnbenv.matrix.drivers import number
from bnbenv.matrix.model import LEVELS, BitsandbytesWheel, Matrix, TorchBuild
from bnbenv.solve.builds import paired, release_fails, source_releases
from bnbenv.solve.families import beside, set_fails
from bnbenv.solve.model import KEEP, Availability, Current, Request
from bnbenv.solve.package_sets import PackageSet, package_sets, wish_of
from bnbenv.solve.pairs import Pairing, library_cuda, with_any_torch
from bnbenv.solve.rules import source_key, torch_fails, torch_pythons, wheel_fails
from bnbenv.solve.situation import Fails, Situation, situate, with_request
from bnbenv.solve.versions import apart, public

Key = tuple[object, ...]

_STAGES = ("dev", "a", "b", "rc", "final")  # of a version, the later the newer
_SOURCES = ("local", "default-index", "pytorch-index", "existing")


@dataclass(frozen=True)
class Judged:
    """All candidates of a host with what stands against each on its own."""

    situation: Situation
    matrix: Matrix
    torch: tuple[tuple[TorchBuild, Fails], ...]
    wheels: tuple[tuple[BitsandbytesWheel, Fails], ...]


def ways(request: Request) -> tuple[Request, ...]:
    """The requests, for wheels alone or for source builds alone, that together are the one; the preferred first."""
    if request.family != "bitsandbytes":  # compiling is for bitsandbytes
        return (with_request(request, build="never"),)
    if request.build != "auto":
        return (request,)
    return with_request(request, build="never"), with_request(request, build="always")


def judge(
    facts: HostFacts, matrix: Matrix, request: Request, availability: Availability, managed: bool, quick: bool = False
) -> Judged:
    """Apply all rules that look at one candidate alone; where the host itself is against all, there are none.

    The candidates are source releases where a build is asked for, else wheels (of ``ways`` each is judged alone).
    ``quick``: of each candidate only the first rule against it. Raises RebootRequired, and UsageError for a wish for a
    package that is not of the family.
    """
    situation = situate(facts, matrix, request, availability, managed)
    if request.family not in ("bitsandbytes", "none"):
        wish_of(request, matrix)
    if situation.fails:
        return Judged(situation, matrix, (), ())
    here = (facts.platform.os, facts.platform.machine)
    builds = [build for build in _builds(matrix, request, availability) if (build.os, build.machine) == here]
    if situation.backend == "cuda" and any(build.cuda for build in builds):
        builds = [build for build in builds if build.cuda]
    builds.sort(key=_newest_first)
    torch = tuple((build, torch_fails(situation, build, quick)) for build in builds)
    if request.family != "bitsandbytes":
        sets = package_sets(matrix, request, situation.backend, *here)
        return Judged(situation, matrix, torch, tuple((one, set_fails(situation, matrix, one)) for one in sets))
    if request.build == "always":
        found = availability.builds
        releases = source_releases(matrix, *here, offered=found.releases if found else None)
        return Judged(situation, matrix, torch, tuple((one, release_fails(situation, one)) for one in releases))
    wheels = [wheel for wheel in matrix.bitsandbytes if (wheel.os, wheel.machine) == here]
    wheels.sort(key=lambda wheel: (public(wheel.version), wheel.filename), reverse=True)
    return Judged(situation, matrix, torch, tuple((wheel, wheel_fails(situation, wheel)) for wheel in wheels))


def _newest_first(build: TorchBuild) -> Key:
    """An order in which no two builds are alike, so that the order of the rows decides nothing."""
    return (descending(build.version), source_key(build), build.version, build.libc_tag or "", build.path or "")


def _builds(matrix: Matrix, request: Request, availability: Availability) -> tuple[TorchBuild, ...]:
    """The torch builds that are candidates."""
    if request.torch == KEEP:
        return (availability.existing.torch,) if availability.existing else ()
    return (*availability.local, *matrix.torch)


def best_of(judged: Judged) -> Pairing | None:
    """The preferred pair with nothing against it.

    Wheels and builds are walked in the order of preference, so of the pairs that are alike in what counts more (PTX,
    override, distance) the first one is the best, and one with none of these ends the search.
    """
    situation = judged.situation
    if situation.fails:
        return None
    builds = sorted(
        (build for build, fails in judged.torch if not fails), key=lambda build: build_order(situation, build)
    )
    if not builds:
        return None
    for kind in sorted({kind_of(situation, build) for build in builds}):
        found: dict[tuple[bool, bool, Key], Pairing] = {}
        alike = [build for build in builds if kind_of(situation, build) == kind]
        for wheel in _usable(judged):
            for build in beside(situation, wheel, alike):
                for pairing in sorted(paired(situation, judged.matrix, build, wheel), key=override_distance):
                    if not pairing.fails:
                        distance = _distance(situation.request, pairing)
                        found.setdefault((pairing.uses_ptx, pairing.override is not None, distance), pairing)
                if (False, False, ()) in found:
                    return found[False, False, ()]
        if found:
            return found[min(found)]
    return None


def _usable(judged: Judged) -> Iterator[BitsandbytesWheel]:
    """The wheels against which nothing stands whatever torch is, the newest first."""
    for wheel, fails in judged.wheels:
        if not fails and not with_any_torch(judged.situation, judged.matrix, wheel):
            yield wheel


def kind_of(situation: Situation, build: TorchBuild) -> int:
    """On a CPU, what is several GB of CUDA comes after any CPU build."""
    return int(situation.backend == "cpu" and build.cuda is not None)


def build_order(situation: Situation, build: TorchBuild) -> Key:
    """Newest, on a CPU local, highest evidence, the default index, the newest CUDA, the preferred Python."""
    cuda = tuple(-part for part in number(build.cuda or ""))
    python = situation.pythons.index(torch_pythons(situation, build)[0])
    source = _SOURCES.index(build.source)
    level = -LEVELS.index(build.evidence.level)
    download = situation.backend == "cpu" and build.source != "local"
    return (descending(build.version), download, level, source, cuda, source_key(build), python)


@lru_cache(maxsize=4096)
def descending(version: str) -> Key:
    """Newest first; the pre-releases of a version come after it."""
    parsed = public(version)
    release = (*parsed.release, 0, 0, 0, 0)[:4]
    stage, count = parsed.pre or ("dev" if parsed.dev is not None else "final", 0)
    return (*(-part for part in release), -_STAGES.index(stage), -count, -(parsed.post or 0))


def _distance(request: Request, pairing: Pairing) -> Key:
    """How much would change under ``minimal-change``: Python counts before torch, and torch before bitsandbytes.

    Another Python means all packages anew, another torch most of their size, bitsandbytes itself alone.
    """
    kept, python = request.kept, pairing.python
    if kept is None or python is None:
        return ()
    pairs = (
        (kept.python, python.minor),
        (kept.torch, pairing.torch.version),
        *_packages_apart(kept, pairing.wheel),
    )
    return tuple(apart(have, other) for have, other in pairs)


def _packages_apart(kept: Current, wheel: BitsandbytesWheel) -> list[tuple[str, str]]:
    """The version that is there of each package that is decided on, and the one that would be; new ones count none."""
    if not isinstance(wheel, PackageSet):
        return [(kept.bitsandbytes, wheel.version)]
    return [(kept.packages[name], version) for name, version in wheel.versions.items() if name in kept.packages]


def override_distance(pairing: Pairing) -> tuple[int, ...]:
    """Of several overrides the highest CUDA not above torch's, as the loader itself would choose."""
    if pairing.override is None or pairing.library is None:
        return ()
    cuda = number(library_cuda(pairing.library))
    above = cuda > number(pairing.torch.cuda or "")[:2]
    return (int(above), *((part if above else -part) for part in cuda))
