"""What the package sources offer for the platforms of a fleet, and the plan that follows from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec

from bnbenv.envs.builds import survey_builds
from bnbenv.envs.resolve import Setting, would_compile
from bnbenv.envs.sources import PackageSources
from bnbenv.envs.survey import survey
from bnbenv.facts.model import HostFacts, Toolkit
from bnbenv.facts.toolkits import find_toolkits
from bnbenv.fleet.classes import classify
from bnbenv.fleet.model import ClassPlan, HostClass, HostReport, LeftOut
from bnbenv.fleet.onelock import Common, InTheWay, one_combination, pinned
from bnbenv.fleet.planning import Offers, Place, plan_classes
from bnbenv.matrix.model import Matrix
from bnbenv.paths import Sysroot
from bnbenv.solve.model import Availability, Request


@dataclass(frozen=True)
class Planned:
    """Every host is in one of the classes or left out. ``requests`` are what the plans answer: with one combination for
    all hosts (``one``) those narrowed to it."""

    classes: tuple[HostClass, ...]
    left_out: tuple[LeftOut, ...]
    plans: tuple[ClassPlan, ...]
    requests: dict[str, Request]
    matrix: Matrix
    one: Common | InTheWay | None = None


def plan_hosts(
    setting: Setting,
    reports: Sequence[HostReport],
    requests: Mapping[str, Request],
    ask: bool = True,
    one: bool = False,
) -> Planned:
    """Sort hosts into classes and solve each; ``setting`` is the desk's, and its facts are not looked at.

    ``ask``: only what the package sources offer now is a candidate, else all that the matrix knows. ``one``: one
    combination for all classes; where there is none, each keeps its own plan. Raises InputError, UsageError (sources).
    """
    matrix, offers, sources = _ask(setting, reports, requests) if ask else (setting.matrix, Offers(), {})
    classes, left = classify(reports, matrix, requests)
    plans = plan_classes(classes, matrix, requests, offers)
    if ask:
        offers = _with_builds(replace(setting, matrix=matrix), plans, requests, offers, sources)
        if offers.own:
            plans = plan_classes(classes, matrix, requests, offers)
    found = one_combination(classes, matrix, requests, offers) if one and classes else None
    if isinstance(found, Common):
        requests = pinned(requests, found, matrix)
        plans = plan_classes(classes, matrix, requests, offers)
    return Planned(classes, left, plans, dict(requests), matrix, found)


Asked = tuple[Matrix, Offers, dict[Place, PackageSources]]


def _ask(setting: Setting, reports: Iterable[HostReport], requests: Mapping[str, Request]) -> Asked:
    """The sources, once for each platform and family; rows for releases that are new there are taken in."""
    known = {(build.os, build.machine) for build in setting.matrix.torch}
    hosts: dict[tuple[str, str], HostFacts] = {}
    for report in reports:
        if report.answer is not None:
            platform = report.answer.facts.platform
            hosts.setdefault((platform.os, platform.machine), report.answer.facts)
    found: dict[Place, Availability] = {}
    sources: dict[Place, PackageSources] = {}
    for place, facts in hosts.items():
        for family in dict.fromkeys(request.family for request in requests.values()) if place in known else ():
            surveyed = survey(replace(setting, facts=facts, elsewhere=True), family)
            key = (*place, family)
            found[key], sources[key], setting = surveyed
    return setting.matrix, Offers(found), sources


def _with_builds(
    setting: Setting,
    plans: Iterable[ClassPlan],
    requests: Mapping[str, Request],
    offers: Offers,
    sources: Mapping[Place, PackageSources],
) -> Offers:
    """For classes whose answer hangs on it, what the desk can compile for them, by its own toolkits."""
    own: dict[tuple[str, str], Availability] = {}
    toolkits: tuple[Toolkit, ...] | None = None
    for plan in plans:
        for env, answer in plan.answers.items():
            platform, request = plan.kind.facts.platform, requests[env]
            place = (platform.os, platform.machine, request.family)
            if place in sources and would_compile(answer, request):
                if toolkits is None:
                    sysroot = Sysroot.from_environment(setting.environ)
                    toolkits, _ = find_toolkits(setting.environ, sysroot, setting.runner)
                facts = msgspec.structs.replace(plan.kind.facts, toolkits=toolkits)
                theirs = replace(setting, facts=facts, elsewhere=True)
                found = offers.by_place[place]
                builds, _ = survey_builds(theirs, sources[place], request, found)
                own[plan.kind.id, env] = msgspec.structs.replace(found, builds=builds)
    return msgspec.structs.replace(offers, own=own)
