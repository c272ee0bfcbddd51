"""What each class of hosts gets: every class is solved once. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from bnbenv.envs.wishes import Wishes
from bnbenv.errors import UsageError
from bnbenv.fleet.model import ClassPlan, HostClass, HostEnv
from bnbenv.matrix.model import Matrix
from bnbenv.solve.model import KEEP, Availability, Choice, FamilyName, Request, Solution
from bnbenv.solve.solver import solve

Place = tuple[str, str, FamilyName]  # operating system, machine, family
Locks = Mapping[str, frozenset[str]]  # by environment the sha256 of the locks that it may have in use


class Offers(msgspec.Struct, frozen=True):
    """What can be had, by platform and family; ``own`` is by class id and environment, for what has to be compiled."""

    by_place: dict[Place, Availability] = {}
    own: dict[tuple[str, str], Availability] = {}

    def of(self, kind: HostClass, env: str, request: Request) -> Availability:
        """What counts for an environment of a class; all that the matrix knows where nobody was asked."""
        place = (kind.facts.platform.os, kind.facts.platform.machine, request.family)
        return self.own.get((kind.id, env)) or self.by_place.get(place) or Availability()


def offers_of(availability: Availability | Offers, kind: HostClass, env: str, request: Request) -> Availability:
    """The same where one availability may stand for all classes."""
    return availability if isinstance(availability, Availability) else availability.of(kind, env, request)


def requests_for(wishes: Wishes, file: str, envs: Iterable[str] | None = None) -> dict[str, Request]:
    """The solver's requests by environment; ``file`` is what errors call bnbenv.toml.

    Raises UsageError for a torch that is to be kept, which only its host can be asked about, and InputError.
    """
    names = tuple(wishes.envs if envs is None else envs)
    for env in names:
        if wishes.envs[env].torch.strip() == KEEP:
            message = f'{env}: torch = "keep" is about the torch of one machine, and facts of a host do not hold it'
            raise UsageError("fleet-keep", message, "Run bnbenv sync on those hosts, or give a version instead.")
    return {env: wishes.request(env, file) for env in names}


def plan_classes(
    classes: Iterable[HostClass],
    matrix: Matrix,
    requests: Mapping[str, Request],
    availability: Availability | Offers = Availability(),  # noqa: B008 - frozen
) -> tuple[ClassPlan, ...]:
    """By class and environment a solution or a refusal; each class is solved once, in the order of the classes."""
    return tuple(
        ClassPlan(
            kind,
            {
                env: solve(kind.facts, matrix, request, offers_of(availability, kind, env, request))
                for env, request in requests.items()
            },
        )
        for kind in classes
    )


def holds(choice: Choice, env: HostEnv) -> bool:
    """Whether an environment of a host has just the versions of a choice, and is in sync.

    What was compiled there has a local part that the choice, made before, has not.
    """
    wanted = {"torch": choice.torch.version, **choice.versions}

    def same(name: str, version: str) -> bool:
        have = env.holds.get(name, "")
        return have == version or (choice.compiled and name == "bitsandbytes" and have.partition("+")[0] == version)

    return env.in_sync and all(same(name, version) for name, version in wanted.items())


def same_versions(one: Solution, other: Solution) -> bool:
    """Whether two solutions are one combination; of a bitsandbytes that is compiled the release counts."""

    def versions(solution: Solution) -> tuple[str, str, dict[str, str]]:
        choice = solution.choice
        own = {name: text.partition("+")[0] if choice.compiled else text for name, text in choice.versions.items()}
        return choice.python, choice.torch.version, own

    return versions(one) == versions(other)


def standing(plan: ClassPlan, environments: Iterable[HostEnv], locks: Locks = {}) -> str:  # noqa: B006 - not changed
    """How a host of a class stands: ``in-sync``, ``change`` (it has something else), or ``none`` (it has nothing).

    It is in sync with the versions of the plan and, where the desk keeps a lock for an environment, with that one.
    """
    have = {one.env: one for one in environments}
    if not any(one.generation is not None for one in have.values()):
        return "none"
    good = all(
        env in have
        and isinstance(answer, Solution)
        and holds(answer.choice, have[env])
        and (not locks.get(env) or have[env].lock in locks[env])
        for env, answer in plan.answers.items()
    )
    return "in-sync" if good else "change"
