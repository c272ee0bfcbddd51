"""What came of a rollout, as the document ``bnbenv.fleet-sync/1``, and the exit code that it means. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from bnbenv.errors import BnbenvError, Exit
from bnbenv.fleet.model import ClassPlan, Content, HostEnv
from bnbenv.fleet.rolling import AGAIN, Options, Rolled
from bnbenv.fleet.rollout import Stop, next_wave, not_tried
from bnbenv.solve.model import Refusal, Solution

SCHEMA = "bnbenv.fleet-sync/1"

# Every state that a host can have in the document; a host has exactly one.
DONE = ("changed", "in-sync")
LEFT = ("would-change", "in-use", "moved", "busy", "reboot", "not-tried", "interrupted")
TROUBLE = (
    *("verify-failed", "failed", "unreachable", "no-bnbenv", "bad-answer", "unknown-facts"),
    *("no-combination", "no-content"),
)
STATES = (*DONE, *LEFT, *TROUBLE)


class Run(msgspec.Struct, frozen=True):
    """What is known of a run beside its hosts. ``started`` is ISO 8601 in UTC; ``again`` the command that goes on;
    ``journal`` the file that its document is in, once there was a wave."""

    bnbenv: str
    project: str
    inventory: tuple[str, ...]
    started: str
    content: str
    one_lock: bool
    again: str
    journal: str = ""


def document(rolled: Rolled, run: Run, options: Options, seconds: float) -> dict[str, Any]:
    """Everything that is to be said of a rollout, finished or not. Each host of the inventory is in it once."""
    hosts = _hosts(rolled)
    policy = options.policy
    states = Counter(row["state"] for row in hosts)
    return {
        "schema": SCHEMA,
        "bnbenv": run.bnbenv,
        "project": run.project,
        "inventory": list(run.inventory),
        "started": run.started,
        "seconds": round(seconds, 1),
        "dry_run": options.dry_run,
        "ended": rolled.ended,
        "because": _why_ended(rolled),
        "policy": {
            "canaries": policy.canaries,
            "batch": str(policy.batch),
            "max_failures": str(policy.max_failures),
            "failures_allowed": rolled.state.allowed,
            "in_use": options.in_use,
            "content": run.content,
            "one_lock": run.one_lock,
        },
        "states": _counted(states),
        "classes": _classes(rolled, hosts),
        "hosts": hosts,
        "waves": [
            {"number": wave.number, "hosts": len(wave.hosts), "canaries": list(wave.canaries)}
            for wave in rolled.state.waves
        ],
        "bootstrapped": list(rolled.bootstrapped),
        "reboot": [row["host"] for row in hosts if row["state"] == "reboot"],
        "run_again": run.again if states.keys() - set(DONE) else "",
        "journal": run.journal if rolled.begun else "",
    }


def exit_of(rolled: Rolled, found: Mapping[str, Any]) -> Exit:
    """The exit code of a rollout, by its document: the worst that happened, the first that applies."""
    states = {row["state"] for row in found["states"]}
    errors = [error for error in rolled.contents.values() if isinstance(error, BnbenvError)]
    if rolled.ended == "interrupted":
        return Exit.INTERRUPTED
    if "verify-failed" in states:
        return Exit.VERIFY_FAILED
    failed = {"failed", "unreachable", "no-bnbenv", "bad-answer", "unknown-facts"}
    if states & failed or rolled.stopped or any(error.exit not in _OWN_CODES for error in errors):
        return Exit.FAILED
    if "no-combination" in states or any(error.exit == Exit.NO_COMBINATION for error in errors):
        return Exit.NO_COMBINATION
    if "no-content" in states:
        return Exit.UNREACHABLE
    left = states & set(LEFT)
    if left == {"reboot"}:
        return Exit.REBOOT
    return Exit.PENDING if left else Exit.DONE


_OWN_CODES = (Exit.NO_COMBINATION, Exit.UNREACHABLE)


def _why_ended(rolled: Rolled) -> str:
    if rolled.stopped is not None:
        return rolled.stopped.message
    if rolled.ended == "interrupted":
        return "what is in use on the hosts is whole"
    stop = next_wave(rolled.state)
    if rolled.ended == "stopped" and isinstance(stop, Stop):
        return f"{stop.failures} hosts failed, and {stop.allowed} may fail (--max-failures)"
    return ""


def _hosts(rolled: Rolled) -> list[dict[str, Any]]:
    kinds = {host: plan.kind.id for plan in rolled.plans for host in plan.kind.hosts}
    waves = {host: wave.number for wave in rolled.state.waves for host in wave.hosts}
    canaries = {host for wave in rolled.state.waves for host in wave.canaries}
    waiting = not_tried(rolled.state)
    rows = []
    for host in rolled.hosts:
        said: tuple[str, str, str] = ("not-tried", waiting.get(host, ""), AGAIN)
        applied = None
        if host in rolled.settled:
            one = rolled.settled[host]
            said = (one.state, one.because, one.next_step)
        elif host in rolled.state.results:
            result = rolled.state.results[host]
            said, applied = (result.state, result.because, result.next_step), result.applied
        elif host in rolled.under_way:
            said = ("interrupted", "the run ended while it was at work there; what it has in use is whole", AGAIN)
        answer = rolled.reports[host].answer if host in rolled.reports else None
        environments = applied.environments if applied else answer.environments if answer else ()
        state, because, next_step = said
        rows.append(
            {
                "host": host,
                "class": kinds.get(host),
                "state": state,
                "because": because,
                "next_step": next_step,
                "wave": waves.get(host),
                "canary": host in canaries,
                "seconds": round(applied.seconds, 1) if applied else None,
                "environments": [_environment(env) for env in environments],
                "rolled_back": list(applied.rolled_back) if applied else [],
            }
        )
    return rows


def _environment(env: HostEnv) -> dict[str, Any]:
    return {
        "env": env.env,
        "generation": env.generation,
        "lock": env.lock,
        "in_sync": env.in_sync,
        "verified": env.verified,
    }


def _classes(rolled: Rolled, hosts: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    counts: dict[str, Counter[str]] = {}
    for row in hosts:
        if row["class"] is not None:
            counts.setdefault(row["class"], Counter())[row["state"]] += 1
    return [_class(rolled, plan, counts.get(plan.kind.id, Counter())) for plan in rolled.plans]


def _class(rolled: Rolled, plan: ClassPlan, counts: Counter[str]) -> dict[str, Any]:
    content = rolled.contents.get(plan.kind.id)
    error = content if isinstance(content, BnbenvError) else None
    progress = rolled.state.progress.get(plan.kind.id)
    made = content if isinstance(content, Content) else None
    return {
        "id": plan.kind.id,
        "title": plan.kind.title,
        "hosts": len(plan.kind.hosts),
        "gets": [_gets(env, answer, made) for env, answer in plan.answers.items()],
        "content": {"sha256": made.sha256, "size": made.size} if made and made.sha256 else None,
        "error": {"code": error.code, "message": error.message, "next_step": error.next_step} if error else None,
        "states": _counted(counts),
        "halted_by": progress.halted_by if progress else "",
    }


def _gets(env: str, answer: Solution | Refusal, content: Content | None) -> dict[str, Any]:
    """What an environment of a class gets: a choice, or why there is none."""
    solution = answer if isinstance(answer, Solution) else None
    choice = content.choices.get(env) if content else None
    choice = choice or (solution.choice if solution else None)
    return {
        "env": env,
        "backend": solution.backend if solution else None,
        "choice": msgspec.to_builtins(choice) if choice else None,
        "because": "; ".join(part.because for part in answer.conflict) if isinstance(answer, Refusal) else "",
        "lock": content.locks.get(env) if content else None,
    }


def _counted(counts: Counter[str]) -> list[dict[str, Any]]:
    return [{"state": state, "hosts": counts[state]} for state in STATES if counts[state]]
