"""What the package sources offer just now: asked all at once, briefly, and measured where it is new."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from bnbenv.envs.families import family_named
from bnbenv.envs.fresh import take_in
from bnbenv.envs.reach import Reach, SourceReach, answering, check_reach, local_torch_wheels
from bnbenv.envs.resolve import Setting, sources_of
from bnbenv.envs.sources import PackageSources
from bnbenv.errors import BnbenvError
from bnbenv.matrix.model import TorchBuild
from bnbenv.progress import during
from bnbenv.solve.model import Availability


class Surveyed(NamedTuple):
    """What the sources offer, those of them to give to uv, and the setting with rows for what was new there."""

    found: Availability
    sources: PackageSources
    setting: Setting


def survey(setting: Setting, family: str = "bitsandbytes") -> Surveyed:
    """Ask all sources at once, briefly, what they offer of torch and a family's packages; measure the torch wheels in
    local folders, and releases that are newer than all that the matrix knows.

    Not all sources come back: uv ends at the first one that does not answer. A wheel that cannot be measured stands in
    ``unreachable`` under its path or name, a configured source that does not answer under its address.
    """
    sources, platform = sources_of(setting), setting.facts.platform
    here = (platform.os, platform.machine)
    variants = sorted({b.index for b in setting.matrix.torch if b.index is not None and (b.os, b.machine) == here})
    with during(setting.progress, "waiting for the package sources to answer"):
        own = family_named(family, setting.matrix.families)
        packages = own.packages if own is not None else ()
        reach = check_reach(sources, variants, projects=("torch", *packages))
    unreachable: dict[str, str] = {}
    with during(setting.progress, "reading the torch wheels in local folders"):
        local = _local_builds(reach, unreachable)
    matrix, missed = take_in(reach, sources, setting.matrix, here, setting.environ, setting.progress)
    unreachable |= missed
    offered: dict[str, frozenset[str]] = {}
    plain = [one for one in reach.results if one.source.kind in ("default-index", "index")]
    _note_source("default-index", plain, unreachable, offered)
    for variant in variants:
        answer = reach.pytorch(variant)
        _note_source(f"pytorch-index/{variant}", [answer] if answer else [], unreachable, offered)
    barred = sources.offline is not None or sources.no_index
    for one in reach.unreachable:
        if one.source.kind in ("index", "find-links") and not barred:
            unreachable[one.source.shown] = one.reason or "no answer"
    found = Availability(
        unreachable=unreachable,
        torch=offered,
        bitsandbytes=_names(reach, packages) if family == "bitsandbytes" else None,
        packages=_names(reach, packages) if family != "bitsandbytes" else None,
        local=local,
        managed_python=sources.offline is None,
    )
    return Surveyed(found, answering(sources, reach), replace(setting, matrix=matrix))


def _names(reach: Reach, packages: tuple[str, ...]) -> frozenset[str]:
    """The names of the files of some packages that any source offers."""
    return frozenset(offer.filename for name in packages for _, offer in reach.offers(name))


def _note_source(
    key: str, answers: list[SourceReach], unreachable: dict[str, str], offered: dict[str, frozenset[str]]
) -> None:
    versions = frozenset(
        offer.version for answer in answers for offer in answer.files if offer.project == "torch" and offer.version
    )
    closed = [answer for answer in answers if not answer.reachable and answer.reason]
    if versions:  # an index beside the default one has these; the default one might have the others
        offered[key] = versions
        closed = [answer for answer in closed if answer.source.kind != "index"]
        if closed:
            unreachable[key] = closed[0].reason or "no answer"
        return
    unreachable[key] = next((answer.reason for answer in closed if answer.reason), "it offers no torch")


def _local_builds(reach: Reach, unreachable: dict[str, str]) -> tuple[TorchBuild, ...]:
    """The torch wheels in local folders, measured. One that cannot be read, or is for ROCm or XPU, is no candidate."""
    from bnbenv.matrix.measure import measure_local_torch

    builds = []
    for wheel in local_torch_wheels(reach):
        try:
            builds.append(measure_local_torch(wheel))
        except (BnbenvError, OSError) as error:
            if not isinstance(error, BnbenvError) or error.code != "not-cuda":
                unreachable[str(wheel)] = str(error)
    return tuple(builds)
