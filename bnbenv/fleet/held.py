"""The locks that a rollout would use again, so that a plan says what a rollout does. Nothing is written or deleted.

For each class that is the project's own lock where it holds for it, else the one that the desk keeps.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

import msgspec

from bnbenv.bundle.gather import files_for
from bnbenv.envs.lockfile import Locked
from bnbenv.envs.plan import describe
from bnbenv.envs.record import digest
from bnbenv.envs.resolve import Setting
from bnbenv.envs.sync import judge_lock, usable_lock
from bnbenv.errors import Failed, InputError
from bnbenv.fleet.kept import home_of, peek_locks
from bnbenv.fleet.model import ClassPlan
from bnbenv.fleet.planning import Locks, same_versions
from bnbenv.solve.model import Request, Solution


class Held(NamedTuple):
    """The plans, as they are with the locks that hold; and by class id and environment these locks' sha256."""

    plans: tuple[ClassPlan, ...]
    locks: dict[str, Locks]


def with_held(setting: Setting, plans: Iterable[ClassPlan], requests: Mapping[str, Request] | None = None) -> Held:
    """Where a lock holds for a class, its choice is what the class gets, though a newer one were there.

    ``requests``: what is asked for beyond the wishes, such as one combination for all; only a lock of these very
    versions is taken then. Raises UsageError for a lock of the project that is not to be trusted.
    """
    found: list[ClassPlan] = []
    locks: dict[str, Locks] = {}
    for plan in plans:
        own = replace(setting, facts=plan.kind.facts, elsewhere=True)
        answers = dict(plan.answers)
        digests: dict[str, frozenset[str]] = {}
        for env, answer in plan.answers.items():
            locked = _lock(own, plan, env, answer, requests) if isinstance(answer, Solution) else None
            if locked is not None and isinstance(answer, Solution):
                digests[env] = frozenset({digest(locked.text.encode())})
                answers[env] = _as_locked(locked, answer)
        found.append(ClassPlan(plan.kind, answers))
        locks[plan.kind.id] = digests
    return Held(tuple(found), locks)


def _lock(
    own: Setting, plan: ClassPlan, env: str, answer: Solution, requests: Mapping[str, Request] | None
) -> Locked | None:
    """The first lock that holds."""
    for locked in _candidates(own, plan, env, requests[env] if requests else None):
        if locked is not None and (requests is None or same_versions(locked.decision.solution, answer)):
            try:
                files_for(locked, own.facts.platform)
            except Failed:  # a package has no file for this class
                continue
            return locked
    return None


def _candidates(own: Setting, plan: ClassPlan, env: str, request: Request | None) -> Iterator[Locked | None]:
    texts = [peek_locks(home_of(own.project), plan.kind.id).get(env)]
    with contextlib.suppress(InputError):  # of a lock that cannot be read is told by who syncs
        locked, _ = usable_lock(own, env)
        texts.insert(0, locked.text if locked is not None else None)
    for text in texts:
        locked = None
        with contextlib.suppress(InputError):
            locked = judge_lock(own, env, text, "", None, request)[0] if text is not None else None
        yield locked


def _as_locked(locked: Locked, answer: Solution) -> Solution:
    """What the lock holds; where it would be another one now, that is noted."""
    held = locked.decision.solution
    if same_versions(held, answer):
        return msgspec.structs.replace(held, notes=answer.notes)
    note = f"the lock that is there holds and is used again; chosen anew it would be {describe(answer)}"
    return msgspec.structs.replace(held, notes=(*held.notes, f"{note} (--fresh-locks)"))
