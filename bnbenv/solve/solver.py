"""Which combination fits, or why none does. Pure: facts, rows and wishes in, one value out.

The order of preference (the smaller key wins): on a CPU a CPU build of torch before a CUDA build; SASS for every GPU
before PTX; a wheel, and a source build only where one is asked for; no override before an override; with
``minimal-change`` what is there or next to it; the newest bitsandbytes; the newest torch; on a CPU a local wheel, which
need not be downloaded; the higher evidence; the default index; a Python that is there, the newest. Where torch is kept,
the one that is there is the only candidate.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from bnbenv.facts.model import HostFacts
from bnbenv.matrix.drivers import number
from bnbenv.matrix.model import LEVELS, BitsandbytesWheel, Matrix, TorchBuild
from bnbenv.solve.builds import SourceRelease, paired, release_fails, source_releases, toolkit_of
from bnbenv.solve.model import (
    KEEP,
    Availability,
    BitsandbytesChoice,
    Choice,
    EvidenceLine,
    Refusal,
    Rejected,
    Request,
    Solution,
    TorchChoice,
    telling,
)
from bnbenv.solve.pairs import Pairing, library_cuda, remarks, with_any_torch
from bnbenv.solve.rules import label, source_key, torch_fails, torch_pythons, wheel_fails
from bnbenv.solve.situation import Fails, Situation, situate
from bnbenv.solve.versions import admits, apart, public

Key = tuple[object, ...]

REJECTED_SHOWN = 40
_STAGES = ("dev", "a", "b", "rc", "final")  # of a version, the later the newer
_SOURCES = ("local", "default-index", "pytorch-index", "existing")


@dataclass(frozen=True)
class Judged:
    """All candidates of a host with what stands against each on its own."""

    situation: Situation
    matrix: Matrix
    torch: tuple[tuple[TorchBuild, Fails], ...]
    wheels: tuple[tuple[BitsandbytesWheel, Fails], ...]


def solve(
    facts: HostFacts, matrix: Matrix, request: Request, availability: Availability | None = None
) -> Solution | Refusal:
    """The preferred combination, or a refusal with a smallest set of conflicts and the options that resolve it.

    Interpreters on the host come first; those that uv would download are considered where none of them fits. Raises
    RebootRequired if the driver's kernel module and library differ.
    """
    availability = availability or Availability()
    solution = choose(facts, matrix, request, availability)
    if solution is not None:
        return solution
    from bnbenv.solve.refusal import refuse

    return refuse(facts, matrix, request, availability)


def choose(facts: HostFacts, matrix: Matrix, request: Request, availability: Availability) -> Solution | None:
    """The preferred combination, or None. Raises RebootRequired."""
    for managed in (False, True) if availability.managed_python else (False,):
        judged = judge(facts, matrix, request, availability, managed)
        if judged.situation.fails:  # no interpreter helps
            return None
        best = _best(judged)
        if best is not None:
            return _solution(judged, best)
    return None


def try_out(facts: HostFacts, matrix: Matrix, request: Request, availability: Availability) -> Solution | None:
    """As ``choose``, in a fraction of the time, most of all where nothing fits: without what was rejected, and notes.

    Raises RebootRequired.
    """
    found = None
    for managed in (True, False) if availability.managed_python else (False,):
        judged = judge(facts, matrix, request, availability, managed, quick=True)
        best = _best(judged)
        if best is None:  # without interpreters to download there are only fewer candidates
            return found
        found = Solution(judged.situation.backend, _choice(best), best.covers, (), ())
    return found


def judge(
    facts: HostFacts, matrix: Matrix, request: Request, availability: Availability, managed: bool, quick: bool = False
) -> Judged:
    """Apply all rules that look at one candidate alone; where the host itself is against all, there are none.

    ``quick``: of each candidate only the first rule against it. Raises RebootRequired.
    """
    situation = situate(facts, matrix, request, availability, managed)
    if situation.fails:
        return Judged(situation, matrix, (), ())
    here = (facts.platform.os, facts.platform.machine)
    builds = [build for build in _builds(matrix, request, availability) if (build.os, build.machine) == here]
    if situation.backend == "cuda" and any(build.cuda for build in builds):
        builds = [build for build in builds if build.cuda]
    builds.sort(key=_newest_first)
    torch = tuple((build, torch_fails(situation, build, quick)) for build in builds)
    if request.build == "always":
        releases = source_releases(matrix, *here)
        return Judged(situation, matrix, torch, tuple((one, release_fails(situation, one)) for one in releases))
    wheels = [wheel for wheel in matrix.bitsandbytes if (wheel.os, wheel.machine) == here]
    wheels.sort(key=lambda wheel: (public(wheel.version), wheel.filename), reverse=True)
    return Judged(situation, matrix, torch, tuple((wheel, wheel_fails(situation, wheel)) for wheel in wheels))


def _newest_first(build: TorchBuild) -> Key:
    """An order in which no two builds are alike, so that the order of the rows decides nothing."""
    return (_descending(build.version), source_key(build), build.version, build.libc_tag or "", build.path or "")


def _builds(matrix: Matrix, request: Request, availability: Availability) -> tuple[TorchBuild, ...]:
    """The torch builds that are candidates."""
    if request.torch == KEEP:
        return (availability.existing.torch,) if availability.existing else ()
    return (*availability.local, *matrix.torch)


def _best(judged: Judged) -> Pairing | None:
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
            for build in alike:
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
    return (_descending(build.version), download, level, source, cuda, source_key(build), python)


@lru_cache(maxsize=4096)
def _descending(version: str) -> Key:
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
        (kept.bitsandbytes, pairing.wheel.version),
    )
    return tuple(apart(have, other) for have, other in pairs)


def override_distance(pairing: Pairing) -> tuple[int, ...]:
    """Of several overrides the highest CUDA not above torch's, as the loader itself would choose."""
    if pairing.override is None or pairing.library is None:
        return ()
    cuda = number(library_cuda(pairing.library))
    above = cuda > number(pairing.torch.cuda or "")[:2]
    return (int(above), *((part if above else -part) for part in cuda))


def _choice(best: Pairing) -> Choice:
    build, wheel, library = best.torch, best.wheel, best.library
    assert best.python is not None and library is not None
    environment = {}
    if best.override:
        environment[best.override] = library_cuda(library).replace(".", "")
    compiled = isinstance(wheel, SourceRelease)
    taken = BitsandbytesChoice(
        wheel.version, "build" if compiled else "wheel", library.name, wheel.sha256, wheel.filename
    )
    return Choice(
        python=best.python.minor,
        torch=TorchChoice(version=build.version, cuda=build.cuda, source=build.source, index=build.index),
        bitsandbytes=taken,
        environment=environment,
    )


def _solution(judged: Judged, best: Pairing) -> Solution:
    return Solution(
        backend=judged.situation.backend,
        choice=_choice(best),
        covers=best.covers,
        evidence=_evidence(judged, best),
        rejected=_rejected(judged, best),
        notes=tuple(_notes(judged, best)),
        visible_devices=judged.situation.visible,
        torch_sha256=best.torch.sha256,
    )


def _evidence(judged: Judged, best: Pairing) -> tuple[EvidenceLine, ...]:
    situation, build, wheel = judged.situation, best.torch, best.wheel
    lines = [
        EvidenceLine(label(build), build.evidence.level, build.evidence.source, build.evidence.date),
        EvidenceLine(f"bitsandbytes {wheel.version}", wheel.evidence.level, wheel.evidence.source, wheel.evidence.date),
    ]
    lines += [
        EvidenceLine(f"loader of bitsandbytes {wheel.version}", "declared", rule.source)
        for rule in judged.matrix.loaders
        if admits(rule.versions, wheel.version)
    ]
    toolkit = toolkit_of(judged.matrix, build.cuda) if build.cuda and isinstance(wheel, SourceRelease) else None
    if toolkit is not None:
        origin = toolkit.evidence
        lines.append(EvidenceLine(f"compiler of CUDA {toolkit.cuda}", origin.level, origin.source, origin.date))
    row = situation.drivers.get(build.cuda or "") if situation.backend == "cuda" else None
    if row is not None:
        lines.append(EvidenceLine(f"driver for CUDA {row.cuda}", "declared", row.source))
    for capability in dict.fromkeys(gpu.compute_capability for gpu in situation.gpus):
        arch = situation.archs.get(capability)
        if arch is not None:
            lines.append(EvidenceLine(f"drivers of {arch.arch}", "declared", arch.source))
    return tuple(lines)


def _notes(judged: Judged, best: Pairing) -> Iterable[str]:
    situation = judged.situation
    if best.python is not None and best.python.managed:
        yield f"no Python on this host fits: uv will download Python {best.python.minor}"
    unknown = next((item.reason for item in situation.facts.unknown if item.fact == "gpus"), None)
    if unknown and situation.backend == "cuda":
        yield f"not judged: {unknown}"
    elif unknown and situation.request.backend == "auto":
        yield f"for the CPU, since there is {unknown}" if unknown.startswith("no ") else f"for the CPU: {unknown}"
    if best.torch.source == "existing":
        yield f"torch {best.torch.version} stays as it is, in {best.torch.path}"
    for advisory in remarks(situation, judged.matrix, best):
        yield f"{advisory.summary} {advisory.remedy} [{advisory.reference}]"
    stale = situation.facts.environment.get("BNB_CUDA_VERSION")
    wanted = library_cuda(best.library).replace(".", "") if best.library and best.override else None
    if stale is not None and stale != wanted and situation.backend == "cuda":  # an empty one counts as set, too
        yield f"BNB_CUDA_VERSION={stale} is set in this shell and overrides the choice: unset it"
    better = [
        (key, reason.because)
        for build, fails in judged.torch
        for key, reason in [(source_key(build), fails.get("reachable"))]
        if reason is not None and len(fails) == 1 and key in situation.availability.unreachable
        if _would_win(situation, build, best.torch)
    ]
    if better:
        reason = dict(better)
        chosen = label(best.torch)
        for because in reason.values():
            yield f"{because}; the next best is {chosen}"


def _would_win(situation: Situation, build: TorchBuild, chosen: TorchBuild) -> bool:
    ours, others = kind_of(situation, build), kind_of(situation, chosen)
    return (ours, _descending(build.version)) < (others, _descending(chosen.version))


def _rejected(judged: Judged, best: Pairing) -> tuple[Rejected, ...]:
    """What is newer and was not taken, and why: wheels, torch builds, and their pairs. Wishes are no reason to list."""
    rows: list[Rejected] = []
    wheels = [item for item in judged.wheels if public(item[0].version) > public(best.wheel.version)]
    for wheel, fails in wheels:
        rows += _rows(f"bitsandbytes {wheel.version}", fails)
    for wheel, fails in wheels:
        if not fails:
            rows += _pair_rows(judged, best.torch, wheel, best)
    newer = sorted(
        (item for item in judged.torch if _would_win(judged.situation, item[0], best.torch)),
        key=lambda item: (_descending(item[0].version), source_key(item[0])),
    )
    for build, fails in newer:
        rows += _rows(label(build), fails) if fails else _pair_rows(judged, build, best.wheel, best)
    return telling(tuple(dict.fromkeys(rows)), REJECTED_SHOWN)


def _rows(candidate: str, fails: Fails) -> list[Rejected]:
    if any(rule.endswith("-wish") for rule in fails):
        return []
    return [Rejected(candidate, rule, why.because) for rule, why in fails.items()]


def _pair_rows(judged: Judged, build: TorchBuild, wheel: BitsandbytesWheel, best: Pairing) -> list[Rejected]:
    """Why a pair was not taken: what stands against it, or what is preferred to it."""
    name = f"{label(build)} + bitsandbytes {wheel.version}"
    rows: list[Rejected] = []
    for pairing in paired(judged.situation, judged.matrix, build, wheel):
        rows += _rows(name, pairing.fails)
        if not pairing.fails and pairing.uses_ptx and not best.uses_ptx:
            rows.append(Rejected(name, "prefer-sass", "it would run PTX where the choice has SASS"))
        elif not pairing.fails and pairing.override and not best.override and pairing.library:
            cuda = library_cuda(pairing.library).replace(".", "")
            rows.append(Rejected(name, "prefer-no-override", f"it would need {pairing.override}={cuda}"))
    return rows
