"""Which combination fits, or why none does. Pure: facts, rows and wishes in, one value out.

The order of preference (the smaller key wins): a published wheel, and a source build only where no wheel fits or one is
asked for; on a CPU a CPU build of torch before a CUDA build; SASS for every GPU before PTX; no override before an
override; with
``minimal-change`` what is there or next to it; the newest bitsandbytes; the newest torch; on a CPU a local wheel, which
need not be downloaded; the higher evidence; the default index; a Python that is there, the newest. Where torch is kept,
the one that is there is the only candidate.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import msgspec

from bnbenv.facts.model import HostFacts
from bnbenv.matrix.model import BitsandbytesWheel, Matrix, TorchBuild
from bnbenv.solve.builds import SourceRelease, paired, toolkit_of
from bnbenv.solve.families import chosen_packages, set_evidence, set_notes
from bnbenv.solve.model import (
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
from bnbenv.solve.package_sets import PackageSet
from bnbenv.solve.pairs import Pairing, library_cuda, remarks
from bnbenv.solve.preference import Judged, best_of, descending, judge, kind_of, ways
from bnbenv.solve.rules import label, source_key
from bnbenv.solve.situation import Fails, Situation, with_request
from bnbenv.solve.versions import admits, is_built, public, release

REJECTED_SHOWN = 40


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
    for one in ways(request):
        for managed in (False, True) if availability.managed_python else (False,):
            judged = judge(facts, matrix, one, availability, managed)
            if judged.situation.fails or not considered(judged, request):  # no interpreter helps
                return None
            best = best_of(judged)
            if best is not None:
                return _solution(judged, best, tuple(_on_builds(judged, best, request)))
    return None


def try_out(facts: HostFacts, matrix: Matrix, request: Request, availability: Availability) -> Solution | None:
    """As ``choose``, in a fraction of the time, most of all where nothing fits: without what was rejected, and notes.

    Raises RebootRequired.
    """
    for one in ways(request):
        found = None
        for managed in (True, False) if availability.managed_python else (False,):
            judged = judge(facts, matrix, one, availability, managed, quick=True)
            best = best_of(judged) if considered(judged, request) else None
            if best is None:  # without interpreters to download there are only fewer candidates
                break
            found = Solution(judged.situation.backend, _choice(judged.situation, best), best.covers, (), ())
        if found is not None:
            return found
    return None


def considered(judged: Judged, request: Request) -> bool:
    """Whether these candidates count for a request. Wheels do, and source builds where they are asked for.

    Where nobody asks, a source build is for a GPU alone, and stands in for no wheel whose source is silent just now.
    """
    situation = judged.situation
    if request.build != "auto" or situation.request.build != "always":
        return True
    if situation.backend == "cpu" or not judged.wheels:
        return False
    if all(key.startswith("pytorch-index/") for key in situation.availability.unreachable):  # has torch alone
        return True
    answering = msgspec.structs.replace(situation.availability, unreachable={}, torch={}, bitsandbytes=None)
    wheels = with_request(request, build="never")
    return try_out(situation.facts, judged.matrix, wheels, answering) is None


def _choice(situation: Situation, best: Pairing) -> Choice:
    build, wheel, library = best.torch, best.wheel, best.library
    assert best.python is not None
    torch = TorchChoice(version=build.version, cuda=build.cuda, source=build.source, index=build.index)
    if isinstance(wheel, PackageSet):
        packages = chosen_packages(situation, best, wheel)
        return Choice(python=best.python.minor, torch=torch, environment={}, packages=packages)
    assert library is not None
    environment = {}
    if best.override:
        environment[best.override] = library_cuda(library).replace(".", "")
    compiled = isinstance(wheel, SourceRelease) or is_built(wheel.version)
    taken = BitsandbytesChoice(
        wheel.version, "build" if compiled else "wheel", library.name, wheel.sha256, wheel.filename
    )
    return Choice(
        python=best.python.minor,
        torch=torch,
        environment=environment,
        wheel=taken,
    )


def _solution(judged: Judged, best: Pairing, on_builds: tuple[str, ...]) -> Solution:
    return Solution(
        backend=judged.situation.backend,
        choice=_choice(judged.situation, best),
        covers=best.covers,
        evidence=_evidence(judged, best),
        rejected=_rejected(judged, best),
        notes=(*_notes(judged, best), *on_builds),
        visible_devices=judged.situation.visible,
        torch_sha256=best.torch.sha256,
    )


def _evidence(judged: Judged, best: Pairing) -> tuple[EvidenceLine, ...]:
    situation, build, wheel = judged.situation, best.torch, best.wheel
    lines = [
        EvidenceLine(label(build), build.evidence.level, build.evidence.source, build.evidence.date),
        *(set_evidence(situation, best, wheel) if isinstance(wheel, PackageSet) else _of_wheel(judged, wheel)),
    ]
    compiled = best.library is not None and isinstance(wheel, SourceRelease)
    toolkit = toolkit_of(judged.matrix, library_cuda(best.library)) if compiled and best.library else None
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


def _of_wheel(judged: Judged, wheel: BitsandbytesWheel) -> Iterator[EvidenceLine]:
    origin = wheel.evidence
    yield EvidenceLine(f"bitsandbytes {wheel.version}", origin.level, origin.source, origin.date)
    for rule in judged.matrix.loaders:
        if admits(rule.versions, release(wheel.version)):
            yield EvidenceLine(f"loader of bitsandbytes {wheel.version}", "declared", rule.source)


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
    if isinstance(best.wheel, PackageSet):
        yield from set_notes(situation, judged.matrix, best, best.wheel)
    for advisory in remarks(situation, judged.matrix, best):
        yield f"{advisory.summary} {advisory.remedy} [{advisory.reference}]"
    stale = situation.facts.environment.get("BNB_CUDA_VERSION")
    wanted = library_cuda(best.library).replace(".", "") if best.library and best.override else None
    about_it = situation.request.family == "bitsandbytes" and situation.backend == "cuda"
    if stale is not None and stale != wanted and about_it:  # an empty one counts as set, too
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


def _on_builds(judged: Judged, best: Pairing, request: Request) -> Iterator[str]:
    """Why it is compiled where nobody asked for that; or that compiling would give native code."""
    situation, matrix = judged.situation, judged.matrix
    if request.build != "auto" or request.family != "bitsandbytes":
        return
    if isinstance(best.wheel, SourceRelease):
        from bnbenv.solve.refusal import conflict_of

        wheels = with_request(situation.request, build="never")
        managed = situation.availability.managed_python
        beside = judge(situation.facts, matrix, wheels, situation.availability, managed)
        beside = replace(beside, torch=tuple(row for row in beside.torch if row[0] == best.torch))
        conflict, _ = conflict_of(beside)
        yield f"no published wheel fits: {'; '.join(part.because for part in conflict)}"
        return
    by_ptx = [str(cover.gpu) for cover in best.covers if cover.bitsandbytes.startswith("ptx")]
    if by_ptx:
        wish = with_request(situation.request, build="always")
        if try_out(situation.facts, matrix, wish, situation.availability) is not None:
            yield f"bitsandbytes has only PTX for GPU {', '.join(by_ptx)}: --build compiles native code for it"


def _would_win(situation: Situation, build: TorchBuild, chosen: TorchBuild) -> bool:
    ours, others = kind_of(situation, build), kind_of(situation, chosen)
    return (ours, descending(build.version)) < (others, descending(chosen.version))


def _rejected(judged: Judged, best: Pairing) -> tuple[Rejected, ...]:
    """What is newer and was not taken, and why: wheels, torch builds, and their pairs. Wishes are no reason to list."""
    rows: list[Rejected] = []
    wheels = [item for item in judged.wheels if public(item[0].version) > public(best.wheel.version)]
    for wheel, fails in wheels:
        rows += _rows(_titled(wheel), fails)
    for wheel, fails in wheels:
        if not fails:
            rows += _pair_rows(judged, best.torch, wheel, best)
    newer = sorted(
        (item for item in judged.torch if _would_win(judged.situation, item[0], best.torch)),
        key=lambda item: (descending(item[0].version), source_key(item[0])),
    )
    for build, fails in newer:
        rows += _rows(label(build), fails) if fails else _pair_rows(judged, build, best.wheel, best)
    return telling(tuple(dict.fromkeys(rows)), REJECTED_SHOWN)


def _titled(wheel: BitsandbytesWheel) -> str:
    return wheel.title if isinstance(wheel, PackageSet) else f"bitsandbytes {wheel.version}"


def _rows(candidate: str, fails: Fails) -> list[Rejected]:
    if any(rule.endswith("-wish") for rule in fails):
        return []
    return [Rejected(candidate, rule, why.because) for rule, why in fails.items()]


def _pair_rows(judged: Judged, build: TorchBuild, wheel: BitsandbytesWheel, best: Pairing) -> list[Rejected]:
    """Why a pair was not taken: what stands against it, or what is preferred to it."""
    name = f"{label(build)} + {_titled(wheel)}"
    rows: list[Rejected] = []
    for pairing in paired(judged.situation, judged.matrix, build, wheel):
        rows += _rows(name, pairing.fails)
        if not pairing.fails and pairing.uses_ptx and not best.uses_ptx:
            rows.append(Rejected(name, "prefer-sass", "it would run PTX where the choice has SASS"))
        elif not pairing.fails and pairing.override and not best.override and pairing.library:
            cuda = library_cuda(pairing.library).replace(".", "")
            rows.append(Rejected(name, "prefer-no-override", f"it would need {pairing.override}={cuda}"))
    return rows
