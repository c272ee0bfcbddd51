"""The rules of a rollout: who is changed when, and when it ends. Pure: states in, states out.

    state = start(groups, policy)
    while isinstance(wave := next_wave(state), Wave):
        state = after(state, <what became of the hosts of the wave>)

The hosts of a class wait until its canaries are done: changed or in sync, with kernels that ran there. A canary that
fails halts its class; one that was left (in use, busy, ...) or did not run kernels is followed by the next. Once more
hosts failed than are allowed, no wave follows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import msgspec

from bnbenv.decode import shown
from bnbenv.errors import InputError
from bnbenv.fleet.model import HostResult

DONE = frozenset({"changed", "in-sync"})
FAILED = frozenset({"verify-failed", "failed", "unreachable", "no-combination"})
# A bundle that does not fit tells that this host is not of the class that it claimed, and nothing of the others.
HALTING = FAILED - {"no-combination"}


class Share(msgspec.Struct, frozen=True):
    """A number of hosts, or a percentage of some."""

    number: int
    percent: bool = False

    def of(self, count: int) -> int:
        """How many of ``count`` hosts; a percentage is rounded down, and at least one."""
        return max(1, count * self.number // 100) if self.percent else self.number

    def __str__(self) -> str:
        return f"{self.number}%" if self.percent else str(self.number)


def read_share(text: str, option: str, least: int = 1) -> Share:
    """``10%`` or ``5``. Raises InputError, which names the option."""
    found = re.fullmatch(r"([0-9]{1,9})(%?)", text.strip())
    if found is None or (found[2] and not 1 <= int(found[1]) <= 100) or (not found[2] and int(found[1]) < least):
        raise InputError(option, "", f'expected a number from {least} on, or 1% to 100%, found "{shown(text)}"')
    return Share(int(found[1]), bool(found[2]))


class Policy(msgspec.Struct, frozen=True):
    """``batch``: hosts of a class at a time, a percentage is of the class. ``max_failures``: how many hosts may fail, a
    percentage is of the hosts to be changed. ``canaries``: how many hosts of a class have to succeed first."""

    batch: Share = Share(10, True)
    max_failures: Share = Share(10, True)
    canaries: int = 1


class Group(msgspec.Struct, frozen=True):
    """The hosts of a class that are to be changed, in the order in which they are. ``size`` is how many hosts the class
    has; ``proven``: one of them has these very locks already, and its kernels ran."""

    class_id: str
    hosts: tuple[str, ...]
    size: int
    proven: bool = False


class Wave(msgspec.Struct, frozen=True):
    """The hosts that are changed at one time, by class; ``canaries`` are those of classes that nothing is proven of."""

    number: int
    by_class: dict[str, tuple[str, ...]]
    canaries: tuple[str, ...]

    @property
    def hosts(self) -> tuple[str, ...]:
        return tuple(host for hosts in self.by_class.values() for host in hosts)


class Stop(msgspec.Struct, frozen=True):
    """No further wave: more hosts failed than are allowed."""

    failures: int
    allowed: int


class Progressed(msgspec.Struct, frozen=True):
    """How far a class is: how many of its hosts were in a wave, how many canaries succeeded, and which one failed."""

    tried: int = 0
    proofs: int = 0
    halted_by: str = ""


class State(msgspec.Struct, frozen=True):
    """A rollout between two waves. ``results`` are of all hosts that were in one, ``waves`` the ones that were."""

    groups: tuple[Group, ...]
    policy: Policy
    progress: dict[str, Progressed]
    results: dict[str, HostResult] = {}
    waves: tuple[Wave, ...] = ()
    failures: int = 0

    @property
    def allowed(self) -> int:
        return self.policy.max_failures.of(sum(len(group.hosts) for group in self.groups))


def start(groups: Sequence[Group], policy: Policy) -> State:
    """A rollout before its first wave."""
    return State(tuple(groups), policy, {group.class_id: Progressed() for group in groups})


def next_wave(state: State) -> Wave | Stop | None:
    """The hosts to be changed now, of all classes at a time; None where there are no more."""
    by_class = {group.class_id: hosts for group in state.groups if (hosts := _next_of(state, group))}
    if not by_class:
        return None
    if state.failures > state.allowed:
        return Stop(state.failures, state.allowed)
    canaries = (by_class.get(group.class_id, ()) for group in state.groups if not _proven(state, group))
    return Wave(len(state.waves) + 1, by_class, tuple(host for hosts in canaries for host in hosts))


def after(state: State, results: Mapping[str, HostResult]) -> State:
    """The state after a wave. A host of the wave without a result failed; of others nothing is taken.

    Raises ValueError where there is no wave to have results of.
    """
    wave = next_wave(state)
    if not isinstance(wave, Wave):
        raise ValueError("there is no wave under way")
    progress = dict(state.progress)
    found: dict[str, HostResult] = {}
    for class_id, hosts in wave.by_class.items():
        now = progress[class_id]
        for host in hosts:
            found[host] = results.get(host) or HostResult(host, "failed", "nothing was heard of it", "Run it again.")
            now = _with(now, found[host], host in wave.canaries)
        progress[class_id] = msgspec.structs.replace(now, tried=now.tried + len(hosts))
    failures = state.failures + sum(result.state in FAILED for result in found.values())
    return State(state.groups, state.policy, progress, {**state.results, **found}, (*state.waves, wave), failures)


def not_tried(state: State) -> dict[str, str]:
    """The hosts that were in no wave, and why."""
    why: dict[str, str] = {}
    over = f"the rollout ended: {state.failures} hosts failed, {state.allowed} may fail"
    for group in state.groups:
        now = state.progress[group.class_id]
        because = "the rollout ended before its turn"
        if now.halted_by:
            because = f"the canary of its class failed: {now.halted_by}"
        elif state.failures > state.allowed:
            because = over
        why.update(dict.fromkeys(group.hosts[now.tried :], because))
    return why


def proves(result: HostResult) -> bool:
    """Whether what became of a host shows that its class can be changed: its kernels ran with what is new."""
    environments = result.applied.environments if result.applied else ()
    return result.state in DONE and bool(environments) and all(env.verified for env in environments)


def _proven(state: State, group: Group) -> bool:
    return group.proven or state.progress[group.class_id].proofs >= state.policy.canaries


def _next_of(state: State, group: Group) -> tuple[str, ...]:
    now = state.progress[group.class_id]
    if now.halted_by:
        return ()
    many = state.policy.batch.of(group.size) if _proven(state, group) else state.policy.canaries - now.proofs
    return group.hosts[now.tried : now.tried + many]


def _with(now: Progressed, result: HostResult, canary: bool) -> Progressed:
    """How far a class is with one more result."""
    if canary and result.state in HALTING and not now.halted_by:
        return msgspec.structs.replace(now, halted_by=result.host)
    return msgspec.structs.replace(now, proofs=now.proofs + (canary and proves(result)))
