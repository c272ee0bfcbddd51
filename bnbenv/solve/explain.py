"""Why not this one: every rule against what somebody names, or what is preferred to it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from bnbenv.facts.model import HostFacts
from bnbenv.matrix.model import BitsandbytesWheel, Matrix, TorchBuild
from bnbenv.solve.builds import paired
from bnbenv.solve.model import KEEP, Availability, Choice, Conflict, Request, Solution
from bnbenv.solve.pairs import Pairing, with_any_torch
from bnbenv.solve.preference import Judged
from bnbenv.solve.refusal import candidates, conflict_of
from bnbenv.solve.rules import label
from bnbenv.solve.situation import Fails, Reason, with_request
from bnbenv.solve.solver import choose
from bnbenv.solve.versions import admits, public, specifier
from bnbenv.solve.wording import arguments_of, command

SCHEMA = "bnbenv.why-not/1"
_MOST_PAIRS = 4000  # that are judged; more are named only where somebody asks about nearly everything
_MOST_ROWS = 300
_LOOSEST = {"bitsandbytes": "*", "python": ">=3.10"}


class Standing(msgspec.Struct, frozen=True):
    """A wheel, a torch build or a pair of them, and everything that stands against it here."""

    candidate: str
    against: tuple[Conflict, ...]


class Explanation(msgspec.Struct, frozen=True):
    """The answer: whether what was named ``fits``, and as what (``chosen``).

    ``conflict`` is a smallest set of facts that forbid it, ``candidates`` are all that were named with all rules
    against each; ``notes`` are what is to be known of ``chosen``; ``preferred`` is what would be chosen if nothing were
    named (null: nothing else), ``because`` why that comes first, ``command`` what takes the one that fits, else the
    preferred one.
    """

    fits: bool
    conflict: tuple[Conflict, ...]
    candidates: tuple[Standing, ...]
    chosen: Choice | None
    notes: tuple[str, ...]
    preferred: Choice | None
    because: str | None
    command: str | None

    def document(self) -> dict[str, Any]:
        return {"schema": SCHEMA, **msgspec.to_builtins(self)}


def why_not(facts: HostFacts, matrix: Matrix, request: Request, availability: Availability) -> Explanation:
    """Judge what the wishes for torch, bitsandbytes and Python name. Raises RebootRequired."""
    chosen = choose(facts, matrix, request, availability)
    free = with_request(request, **_LOOSEST, torch=request.torch if request.torch == KEEP else "*")
    best = choose(facts, matrix, free, availability)
    judged, *compiled = candidates(facts, matrix, request, availability)
    named = _named(judged)
    missing = tuple(_missing(judged, named))
    conflict = tuple(part for one in missing for part in one.against)
    if chosen is None and not conflict:
        conflict, _ = conflict_of(named if named.torch and named.wheels else judged, *map(_named, compiled))
    preferred = None if best is None or (chosen and best.choice == chosen.choice) else best
    wished = request if chosen else free
    able = (chosen or preferred) is not None and request.driver is None
    return Explanation(
        fits=chosen is not None,
        conflict=conflict,
        candidates=(*missing, *_candidates(judged, named)) or (Standing("anything with these wishes", conflict),),
        chosen=chosen.choice if chosen else None,
        notes=chosen.notes if chosen else (),
        preferred=preferred.choice if preferred else None,
        because=_preference(preferred, chosen) if preferred and chosen else None,
        command=command(arguments_of(wished)) if able else None,
    )


def _named(judged: Judged) -> Judged:
    """Only what the wishes name, so that they themselves are no reason."""
    wheels = tuple((row, fails) for row, fails in judged.wheels if "bitsandbytes-wish" not in fails)
    builds = tuple((row, fails) for row, fails in judged.torch if "torch-wish" not in fails)
    return replace(judged, wheels=wheels, torch=builds)


def _candidates(judged: Judged, named: Judged) -> Iterable[Standing]:
    """The wheels and builds that were named, then their pairs."""
    situation, request = judged.situation, judged.situation.request
    if situation.fails:
        yield Standing("this machine", _listed(situation.fails))
        return
    wheels, builds = named.wheels, named.torch
    pairs = _pairs(judged, [row for row, _ in wheels], [row for row, _ in builds])
    of_wheels = [{**fails, **_of_wheel(judged, number, row, pairs)} for number, (row, fails) in enumerate(wheels)]
    if request.bitsandbytes != "*":
        for (wheel, _), fails in zip(wheels, of_wheels, strict=True):
            yield Standing(f"bitsandbytes {wheel.version}", _listed(fails))
    if request.torch != "*":
        for build, fails in builds:
            yield Standing(label(build), _listed(fails))
    if request.torch != "*" and request.bitsandbytes != "*":
        yield from _standings(wheels, builds, of_wheels, pairs)


Pairs = dict[tuple[int, int], Pairing]


def _pairs(judged: Judged, wheels: Sequence[BitsandbytesWheel], builds: Sequence[TorchBuild]) -> Pairs:
    """Of each pair the way to load it that has the least against it."""
    if len(wheels) * len(builds) > _MOST_PAIRS:
        return {}
    return {
        (i, j): min(paired(judged.situation, judged.matrix, build, wheel), key=lambda one: len(one.fails))
        for i, wheel in enumerate(wheels)
        for j, build in enumerate(builds)
    }


def _of_wheel(judged: Judged, number: int, wheel: BitsandbytesWheel, pairs: Pairs) -> Fails:
    """What stands against a wheel with every torch that was named, in the same words: it is about the wheel alone."""
    own = [pairing.fails for (i, _), pairing in pairs.items() if i == number]
    bare = with_any_torch(judged.situation, judged.matrix, wheel)
    if not own:
        return {}
    said = {
        f"library-arch[{gpu.index}]": Reason(
            f"none of its libraries has code for GPU {gpu.index} ({gpu.name}, {gpu.arch})", wheel.filename
        )
        for gpu in judged.situation.gpus
    }
    return {
        rule: said.get(rule, reason) if rule in bare else reason
        for rule, reason in own[0].items()
        if rule in bare or (len(own) > 1 and all(fails.get(rule) == reason for fails in own[1:]))
    }


def _standings(
    wheels: Sequence[tuple[BitsandbytesWheel, Fails]],
    builds: Sequence[tuple[TorchBuild, Fails]],
    of_wheels: Sequence[Fails],
    pairs: Pairs,
) -> Iterable[Standing]:
    """What stands against pairs beyond what stands against one of the two."""
    left = _MOST_ROWS
    for (i, j), pairing in pairs.items():
        fails = {rule: why for rule, why in pairing.fails.items() if rule not in of_wheels[i]}
        if left and (fails or not (of_wheels[i] or builds[j][1])):
            left -= 1
            yield Standing(f"bitsandbytes {wheels[i][0].version} with {label(builds[j][0])}", _listed(fails))


def _listed(fails: Fails) -> tuple[Conflict, ...]:
    return tuple(Conflict(rule, reason.because, reason.source) for rule, reason in fails.items())


def _missing(judged: Judged, named: Judged) -> Iterable[Standing]:
    """The wishes that no release fulfils."""
    request, local = judged.situation.request, judged.situation.availability.local
    if judged.situation.fails:
        return
    if not named.wheels and request.bitsandbytes != "*":
        yield _unpublished("bitsandbytes", request.bitsandbytes, judged, judged.matrix.bitsandbytes)
    if not named.torch and request.torch not in ("*", KEEP):
        yield _unpublished("torch", request.torch, judged, (*local, *judged.matrix.torch))


def _unpublished(name: str, wish: str, judged: Judged, rows: Sequence[BitsandbytesWheel | TorchBuild]) -> Standing:
    """A wish that no release fulfils, or none for this platform, with the nearest ones."""
    platform = judged.situation.facts.platform
    here = [row.version for row in rows if (row.os, row.machine) == (platform.os, platform.machine)]
    anywhere = any(admits(wish, row.version) for row in rows)
    near = _nearest(wish, here)
    known = f"; the nearest known {'is' if len(near) == 1 else 'are'} {' and '.join(near)}" if near else ""
    because = f"no release of {name} that is {wish} is known{known}"
    if anywhere:
        because = f"{name} {wish} was published, but not for {platform.os} on {platform.machine}{known}"
    reason = Reason(because, "the matrix")
    return Standing(f"{name} {wish}", _listed({"platform" if anywhere else f"{name}-wish": reason}))


def _nearest(wish: str, versions: Iterable[str]) -> list[str]:
    """The releases before and after the one version that a wish names; of other wishes the newest release."""
    known = sorted({str(public(version)) for version in versions}, key=public)
    named = [one.version.removesuffix(".*") for one in specifier(wish) if one.operator in ("==", "===", "~=")]
    if len(named) != 1:
        return known[-1:]
    try:
        middle = public(named[0])
    except ValueError:  # what only === admits
        return known[-1:]
    before = [version for version in known if public(version) < middle]
    after = [version for version in known if public(version) > middle]
    return [*before[-1:], *after[:1]]


def _preference(preferred: Solution, chosen: Solution) -> str:
    """Which step of the order of preference decides between two that fit."""
    one, other = preferred.choice, chosen.choice
    if other.bitsandbytes.source == "build" and one.bitsandbytes.source == "wheel":
        return "it is a published wheel, where the other one has to be compiled"
    if _by_ptx(chosen) and not _by_ptx(preferred):
        return "it has native code for every GPU, where the other one has the driver compile PTX"
    if other.environment and not one.environment:
        needs = " and ".join(f"{name}={value}" for name, value in other.environment.items())
        return f"it needs no variable to be set, and the other one {needs}"
    if public(one.bitsandbytes.version) != public(other.bitsandbytes.version):
        return f"its bitsandbytes is newer ({one.bitsandbytes.version})"
    if public(one.torch.version) != public(other.torch.version):
        return f"its torch is newer ({one.torch.version})"
    if (one.torch.source, one.torch.index) != (other.torch.source, other.torch.index):
        return "of the same versions, where it comes from or what is known of it is preferred"
    return "its Python is preferred: it is there, or newer"


def _by_ptx(solution: Solution) -> bool:
    return any("ptx" in (cover.torch[:3], cover.bitsandbytes[:3]) for cover in solution.covers)
