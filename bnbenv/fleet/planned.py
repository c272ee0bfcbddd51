"""A plan of a fleet as the document ``bnbenv.fleet-plan/1``, and the exit code that it means. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from bnbenv.errors import Exit
from bnbenv.fleet.asking import Planned
from bnbenv.fleet.classes import remarks
from bnbenv.fleet.model import ClassPlan, HostReport
from bnbenv.fleet.onelock import Common, InTheWay
from bnbenv.fleet.planning import Locks, standing
from bnbenv.solve.model import Refusal, Solution

SCHEMA = "bnbenv.fleet-plan/1"

# Hosts of which nothing can be said: somebody has to look.
_TROUBLE = frozenset({"unreachable", "failed", "no-bnbenv", "bad-answer", "unknown-facts"})


def document(
    planned: Planned, reports: Sequence[HostReport], project: str, asked: bool, locks: Mapping[str, Locks]
) -> dict[str, Any]:
    """Everything that is to be said of a plan; each host is in it once. ``locks`` are those that are used again, by
    class id."""
    answers = {report.name: report.answer for report in reports if report.answer is not None}

    def stands(plan: ClassPlan, host: str) -> str:
        answer = answers.get(host)
        if answer is None or not answer.project:  # its facts are all that is known
            return "unknown"
        return standing(plan, answer.environments, locks.get(plan.kind.id, {}))

    names = {name for kind in planned.classes for name in kind.hosts}
    return {
        "schema": SCHEMA,
        "project": project,
        "environments": list(planned.requests),
        "asked": asked,
        "hosts": len(names) + len(planned.left_out),
        "classes": [
            {
                "id": plan.kind.id,
                "title": plan.kind.title,
                "hosts": [{"host": host, "state": stands(plan, host)} for host in plan.kind.hosts],
                "gets": [_gets(env, answer) for env, answer in plan.answers.items()],
            }
            for plan in planned.plans
        ],
        "left_out": [msgspec.to_builtins(one) for one in planned.left_out],
        "remarks": [{"host": host, "because": because} for host, because in remarks(reports) if host in names],
        "one_lock": _one_lock(planned.one),
    }


def _gets(env: str, answer: Solution | Refusal) -> dict[str, Any]:
    """What an environment of a class gets, or why nothing fits, and what would change that."""
    if isinstance(answer, Refusal):
        return {"env": env, "backend": None, "choice": None, "notes": [], **_refused(answer)}
    choice = msgspec.to_builtins(answer.choice)
    given = {"backend": answer.backend, "choice": choice, "notes": list(answer.notes)}
    return {"env": env, **given, "conflict": [], "options": []}


def _refused(answer: Refusal) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(answer)
    return {"conflict": found["conflict"], "options": found["options"]}


def _one_lock(found: Common | InTheWay | None) -> dict[str, Any] | None:
    if found is None:
        return None
    common = found if isinstance(found, Common) else found.rest
    blocked = found if isinstance(found, InTheWay) else InTheWay((), None, ())
    return {
        "fits_all": isinstance(found, Common),
        "pins": [{"env": env, **msgspec.to_builtins(pins)} for env, pins in (common.pins if common else {}).items()],
        "hosts": list(blocked.hosts),
        "in_the_way": [
            {
                "id": one.kind.id,
                "title": one.kind.title,
                "hosts": list(one.kind.hosts),
                "why": [{"env": env, **_refused(answer)} for env, answer in one.answers.items()],
            }
            for one in blocked.blockers
        ],
    }


def exit_of(found: Mapping[str, Any]) -> Exit:
    """The exit code of a plan, by its document: the first that applies."""
    refusals = [gets["conflict"] for kind in found["classes"] for gets in kind["gets"] if gets["conflict"]]
    away = [conflict for conflict in refusals if any(part["rule"] == "reachable" for part in conflict)]
    states = {host["state"] for kind in found["classes"] for host in kind["hosts"]}
    left = {one["code"] for one in found["left_out"]}
    if left & _TROUBLE:
        return Exit.FAILED
    if len(away) < len(refusals) or (found["one_lock"] and not found["one_lock"]["fits_all"]):
        return Exit.NO_COMBINATION
    if away:
        return Exit.UNREACHABLE
    if states - {"in-sync"}:
        return Exit.PENDING
    return Exit.REBOOT if left else Exit.DONE
