"""A rollout carried out: ask the hosts, sort them into classes, make what each class gets, and change them in waves.

What runs here holds no state of its own between runs: hosts tell what they have, so what is done is skipped, and a run
that was killed is gone on with by running it again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Literal

import msgspec

from bnbenv.errors import BnbenvError, Failed
from bnbenv.fleet.model import (
    ClassPlan,
    Content,
    Contents,
    Delivery,
    Engine,
    GpuProcess,
    HostAnswer,
    HostReport,
    HostResult,
    InUse,
    Job,
    LeftOut,
)
from bnbenv.fleet.rollout import DONE, Group, Policy, State, Wave, after, next_wave, start
from bnbenv.progress import Progress, during
from bnbenv.solve.model import Refusal

AGAIN = "Run it again: what is done is skipped."
Ended = Literal["running", "done", "stopped", "interrupted"]
Planning = Callable[[Sequence[HostReport]], tuple[Sequence[ClassPlan], Sequence[LeftOut]]]


class Options(msgspec.Struct, frozen=True):
    """``later``: hosts that failed in earlier runs, by how often; they are the last of their class now."""

    policy: Policy = Policy()
    in_use: InUse = "later"
    dry_run: bool = False
    later: Mapping[str, int] = {}


@dataclass(frozen=True)
class Desk:
    """What a rollout is done with. ``plan`` sorts hosts into classes and solves each; ``delivery`` is open while there
    are waves (a server may stand behind it), and is told for which hosts; ``tool`` makes the bundle that bare hosts get
    bnbenv from, None: they get none. ``keep`` has the rollout written down, before each wave."""

    engine: Engine
    plan: Planning
    contents: Contents
    delivery: Callable[[Sequence[Content], Sequence[str]], AbstractContextManager[Delivery]]
    progress: Progress
    tool: Callable[[], str] | None = None
    keep: Callable[[Rolled], None] = lambda rolled: None


class Settled(msgspec.Struct, frozen=True):
    """A host that no wave is for, and why. Beside the states of results: ``no-bnbenv``, ``bad-answer``,
    ``unknown-facts``, ``no-content`` (its class's bundle cannot be made)."""

    state: str
    because: str = ""
    next_step: str = ""


@dataclass(frozen=True)
class Rolled:
    """A rollout as far as it has come. Each of ``hosts`` is in ``settled`` or in the groups of ``state``;
    ``under_way`` are those of a wave that nobody knows the end of."""

    hosts: tuple[str, ...]
    reports: Mapping[str, HostReport]
    plans: tuple[ClassPlan, ...]
    contents: Mapping[str, Content | BnbenvError]
    settled: Mapping[str, Settled]
    state: State
    ended: Ended = "running"
    stopped: BnbenvError | None = None
    under_way: tuple[str, ...] = ()
    bootstrapped: tuple[str, ...] = ()

    @property
    def begun(self) -> bool:
        """Whether there was a wave."""
        return bool(self.state.waves or self.under_way)


def roll(desk: Desk, options: Options) -> Rolled:
    """Bring the hosts of an inventory to what their classes should have.

    Raises what the engine raises before a host was changed; Busy, OSError of what is written at the desk. Afterwards an
    error or Ctrl-C ends the rollout, and the answer says how far it came.
    """
    hosts = tuple(dict.fromkeys(desk.engine.hosts()))
    reports = _ask(desk, hosts, f"asking {_many(len(hosts), 'host')}")
    refused, new = _bootstrap(desk, reports)
    if new:
        reports = {**reports, **_ask(desk, new, f"asking {_many(len(new), 'host')} that have bnbenv now")}
    plans, left = desk.plan([reports[host] for host in hosts])
    solved = [plan for plan in plans if plan.solved]
    contents = dict(desk.contents(solved, False)) if solved else {}
    settled = {**_left_out(left), **refused}
    rolled = survey(hosts, reports, tuple(plans), contents, settled, options)
    ids = {group.class_id for group in rolled.state.groups}
    if ids:
        contents.update(desk.contents([plan for plan in solved if plan.kind.id in ids], True))
        rolled = survey(hosts, reports, tuple(plans), contents, settled, options)
    rolled = replace(rolled, bootstrapped=new)
    pending = [host for group in rolled.state.groups for host in group.hosts]
    done = sum(one.state in DONE for one in rolled.settled.values())
    change = len(pending) + sum(one.state == "would-change" for one in rolled.settled.values())
    desk.progress.say(
        f"{_many(len(hosts), 'host')}, {_many(len(plans), 'kind')}: {change} to be changed, {done} in sync,"
        f" {len(hosts) - change - done} left out"
    )
    if options.dry_run or not pending:
        return replace(rolled, ended="done")
    needed = [one for group in rolled.state.groups if isinstance(one := contents[group.class_id], Content)]
    with desk.delivery(needed, pending) as delivery:
        return _waves(desk, options, rolled, delivery)


def survey(
    hosts: tuple[str, ...],
    reports: Mapping[str, HostReport],
    plans: tuple[ClassPlan, ...],
    contents: Mapping[str, Content | BnbenvError],
    left: Mapping[str, Settled],
    options: Options,
) -> Rolled:
    """Which hosts are to be changed, and what is to be said of all others. Pure."""
    settled = {host: left[host] for host in hosts if host in left}
    groups: list[Group] = []
    for plan in plans:
        members = [host for host in plan.kind.hosts if host in reports and host not in settled]
        content = contents.get(plan.kind.id)
        if not isinstance(content, Content):
            settled.update(dict.fromkeys(members, _without_content(plan, content)))
            continue
        todo, proven = [], False
        for host in members:
            answer = reports[host].answer
            found = _settled(answer, content, options) if answer else Settled("bad-answer", "it did not answer")
            if found is None:
                todo.append(host)
            else:
                settled[host] = found
                proven = proven or (found.state == "in-sync" and answer is not None and _verified(answer, content))
        todo.sort(key=lambda host: options.later.get(host, 0))  # among equals the order stays
        if todo:
            groups.append(Group(plan.kind.id, tuple(todo), len(plan.kind.hosts), proven))
    known = settled.keys() | {host for group in groups for host in group.hosts}
    for host in hosts:
        if host not in known:
            settled[host] = Settled("failed", "no class was found for it", AGAIN)
    return Rolled(hosts, reports, plans, contents, settled, start(groups, options.policy))


def _waves(desk: Desk, options: Options, rolled: Rolled, delivery: Delivery) -> Rolled:
    """The waves, one after the other. What ends them is in the answer."""
    jobs = _jobs(rolled, options)
    try:
        while isinstance(wave := next_wave(rolled.state), Wave):
            rolled = replace(rolled, under_way=wave.hosts)
            desk.keep(rolled)
            desk.progress.say(_announced(wave))
            work = [jobs[host] for host in wave.hosts]
            with during(desk.progress, f"wave {wave.number}: {_many(len(work), 'host')}"):
                results = desk.engine.apply(work, delivery, _telling(desk))
            believed = {job.host: believe(job, results[job.host]) for job in work if job.host in results}
            rolled = replace(rolled, state=after(rolled.state, believed), under_way=())
            if believed and all(result.state == "not-tried" for result in believed.values()):
                reason = next(iter(believed.values())).because or "no host of a wave was begun"
                raise Failed("engine", f"the rollout cannot go on: {reason}", AGAIN)
    except KeyboardInterrupt:
        return replace(rolled, ended="interrupted")
    except BnbenvError as error:
        return replace(rolled, ended="stopped", stopped=error)
    return replace(rolled, ended="done" if wave is None else "stopped")


def believe(job: Job, result: HostResult) -> HostResult:
    """A result, unless it contradicts itself: who is done has the locks of its content in use."""
    result = msgspec.structs.replace(result, host=job.host)
    if result.state not in DONE:
        return result
    there = {env.env: env.lock for env in result.applied.environments} if result.applied else {}
    wrong = [env for env, lock in job.content.locks.items() if there.get(env) != lock]
    if not wrong:
        return result
    because = f"it answered {result.state}, but does not have the lock of its class in use for: {', '.join(wrong)}"
    step = f"See what is there: bnbenv status, on {job.host}"
    return msgspec.structs.replace(result, state="failed", because=because, next_step=step)


def _ask(desk: Desk, hosts: Sequence[str], text: str) -> dict[str, HostReport]:
    answered: set[str] = set()

    def told(host: str, said: str) -> None:
        answered.add(host)
        desk.progress.at(f"{text}: {len(answered)} of {len(hosts)}")
        desk.progress.detail(f"{host}: {said}")

    desk.progress.say(text)
    with during(desk.progress, text):
        found = desk.engine.ask(hosts, told)
    silent = HostReport("", "unreachable", because="nothing was heard of it")
    return {host: msgspec.structs.replace(found.get(host, silent), name=host) for host in hosts}


def _bootstrap(desk: Desk, reports: Mapping[str, HostReport]) -> tuple[dict[str, Settled], tuple[str, ...]]:
    """Bare hosts: those that could not be helped and why, and those that have bnbenv now."""
    bare = tuple(host for host, report in reports.items() if report.state == "no-bnbenv")
    if desk.tool is None or not bare:
        return {}, ()
    bundle = desk.tool()
    desk.progress.say(f"installing bnbenv on {_many(len(bare), 'host')}")
    results = desk.engine.bootstrap(bare, bundle, _telling(desk))
    silent = HostResult("", "failed", "nothing was heard of it", AGAIN)
    refused = {
        host: Settled(result.state, result.because, result.next_step)
        for host in bare
        if (result := results.get(host, silent)).state not in DONE
    }
    return refused, tuple(host for host in bare if host not in refused)


def _left_out(left: Iterable[LeftOut]) -> dict[str, Settled]:
    codes = {"reboot-required": "reboot"}
    steps = {"no-bnbenv": "Run it again with --bootstrap, which installs it there."}
    return {
        one.host: Settled(codes.get(one.code, one.code), one.because, steps.get(one.code, one.next_step))
        for one in left
    }


def _without_content(plan: ClassPlan, error: Content | BnbenvError | None) -> Settled:
    """Why the hosts of a class get nothing."""
    for env, answer in plan.answers.items():
        if isinstance(answer, Refusal):
            because = "; ".join(part.because for part in answer.conflict)
            if answer.unreachable:
                step = "Check the network and the indexes, then run it again."
                return Settled("no-content", f"{env}: {because}", step)
            step = "See what each kind of host would need: bnbenv fleet plan, for the same hosts"
            return Settled("no-combination", f"nothing known to be good fits for {env}: {because}", step)
    if isinstance(error, BnbenvError):
        return Settled("no-content", error.message, error.next_step)
    return Settled("no-content", "nothing was made for its class", AGAIN)


def _settled(answer: HostAnswer, content: Content, options: Options) -> Settled | None:
    """What is to be said of a host that needs no wave, or is left now; None: it is to be changed."""
    there = {env.env: env for env in answer.environments}
    if all(env in there and there[env].in_sync and there[env].lock == lock for env, lock in content.locks.items()):
        return Settled("in-sync")
    if answer.reboot:
        return Settled("reboot", answer.reboot, "Reboot it, then run it again.")
    if options.in_use == "later":
        because = _used(answer.processes) if answer.processes else answer.processes_unknown
        if because:
            step = "Run it again when they have ended, or with --in-use anyway."
            return Settled("in-use", because, step)
    return Settled("would-change", _pending(answer, content)) if options.dry_run else None


def _pending(answer: HostAnswer, content: Content) -> str:
    there = {env.env: env for env in answer.environments}
    parts = []
    for env, lock in content.locks.items():
        if env not in there or there[env].lock is None:
            parts.append(f"{env} is not there yet")
        elif there[env].lock != lock:
            parts.append(f"{env} has another lock")
        elif not there[env].in_sync:
            parts.append("; ".join(reason.because for reason in there[env].reasons) or f"{env} is not in sync")
    return "; ".join(parts)


def _used(processes: Sequence[GpuProcess]) -> str:
    names = list(dict.fromkeys(f"{one.name or one.pid}{f' of {one.user}' * bool(one.user)}" for one in processes))
    more = f" and {len(names) - 3} more" * (len(names) > 3)
    return f"{_many(len({one.pid for one in processes}), 'process')} on its GPUs: {', '.join(names[:3])}{more}"


def _verified(answer: HostAnswer, content: Content) -> bool:
    return all(env.verified for env in answer.environments if env.env in content.locks)


def _jobs(rolled: Rolled, options: Options) -> dict[str, Job]:
    """By host what is to be done. A host is changed only from what the desk has seen there."""
    jobs: dict[str, Job] = {}
    for group in rolled.state.groups:
        content = rolled.contents[group.class_id]
        assert isinstance(content, Content), "a group is of a class that has its content"
        for host in group.hosts:
            answer = rolled.reports[host].answer
            seen = {env.env: env.lock for env in answer.environments} if answer else {}
            expect = {env: seen.get(env) for env in content.locks}
            jobs[host] = Job(host, content, expect, options.in_use)
    return jobs


def _announced(wave: Wave) -> str:
    many = len(wave.hosts)
    text = f"wave {wave.number}: {_many(many, 'host')}"
    if wave.canaries:
        first = f"{', '.join(wave.canaries[:5])}{f' and {len(wave.canaries) - 5} more' * (len(wave.canaries) > 5)}"
        text += f", {'the first of each kind' if len(wave.canaries) == many else 'among them canaries'}: {first}"
    return text


def _telling(desk: Desk) -> Callable[[str, str], None]:
    return lambda host, text: desk.progress.say(f"{host}: {text}")


def _many(count: int, what: str) -> str:
    plural = f"{what}es" if what.endswith("s") else f"{what}s"
    return f"{count} {what if count == 1 else plural}"
