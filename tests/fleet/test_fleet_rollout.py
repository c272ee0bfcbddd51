"""The rules of a rollout: whatever becomes of hosts, who is changed when, and when it ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnbenv.errors import InputError
from bnbenv.fleet.model import Applied, HostEnv, HostResult
from bnbenv.fleet.rollout import (
    FAILED,
    HALTING,
    Group,
    Policy,
    Share,
    State,
    Stop,
    Wave,
    after,
    next_wave,
    not_tried,
    proves,
    read_share,
    start,
)

LEFT = ("in-use", "moved", "busy", "reboot")


def result(host: str, state: str, verified: bool = True) -> HostResult:
    environments = (HostEnv("bnb", True, 1, "a" * 64, verified),)
    applied = Applied(state, environments=environments) if state != "unreachable" else None  # type: ignore[arg-type]
    return HostResult(host, state, applied=applied)  # type: ignore[arg-type]


def ends(groups: list[Group], policy: Policy, becomes: Callable[[str], HostResult]) -> tuple[State, list[Wave]]:
    """Carry a rollout out, checking each wave as it comes."""
    state, waves = start(groups, policy), []
    while isinstance(wave := next_wave(state), Wave):
        assert state.failures <= state.allowed, "after the budget is spent nothing is started"
        for group in groups:
            hosts = wave.by_class.get(group.class_id, ())
            before = [state.results[host] for host in group.hosts if host in state.results]
            proofs = sum(one.state in ("changed", "in-sync") and one.applied.environments[0].verified for one in before)
            if group.proven or proofs >= policy.canaries:
                assert len(hosts) <= policy.batch.of(group.size)
                assert not set(hosts) & set(wave.canaries)
            else:
                assert len(hosts) <= policy.canaries - proofs, "before its canaries succeeded no other is touched"
                assert set(hosts) <= set(wave.canaries)
                assert not hosts or not any(one.state in HALTING for one in before), "a failed canary stops its class"
        waves.append(wave)
        state = after(state, {host: becomes(host) for host in wave.hosts})
    return state, waves


@st.composite
def rollouts(draw: Any) -> tuple[list[Group], Policy, dict[str, HostResult]]:
    groups, results = [], {}
    for number in range(draw(st.integers(1, 4))):
        hosts = [f"{number}-{host}" for host in range(draw(st.integers(1, 12)))]
        size = len(hosts) + draw(st.integers(0, 30))
        groups.append(Group(f"class{number}", tuple(hosts), size, draw(st.booleans())))
        for host in hosts:
            state = draw(st.sampled_from(("changed", "changed", "changed", "in-sync", *FAILED, *LEFT)))
            results[host] = result(host, state, draw(st.sampled_from((True, True, True, False))))
    shares = st.builds(Share, st.integers(1, 100), st.just(True)) | st.builds(Share, st.integers(1, 9))
    return groups, Policy(draw(shares), draw(shares), draw(st.integers(1, 3))), results


@settings(max_examples=150, deadline=None)
@given(rollouts())
def test_whatever_becomes_of_the_hosts(drawn: tuple[list[Group], Policy, dict[str, HostResult]]) -> None:
    groups, policy, results = drawn
    state, waves = ends(groups, policy, results.__getitem__)
    tried = [host for wave in waves for host in wave.hosts]
    assert len(tried) == len(set(tried)), "no host is tried twice"
    everybody = [host for group in groups for host in group.hosts]
    assert set(everybody) == state.results.keys() | not_tried(state).keys()
    assert not state.results.keys() & not_tried(state).keys()
    for group in groups:
        mine = [host for host in tried if host in group.hosts]
        assert mine == list(group.hosts[: len(mine)]), "in their order"
    assert state.failures == sum(results[host].state in FAILED for host in tried)
    assert ends(groups, policy, results.__getitem__)[1] == waves, "the same again"
    if not any(one.state in FAILED for one in results.values()):
        assert not not_tried(state), "with no failure everybody has a turn"


def test_a_rollout_that_goes_well() -> None:
    groups = [Group("a", tuple(f"a{n}" for n in range(21)), 21), Group("b", ("b0", "b1"), 50, proven=True)]
    state, waves = ends(groups, Policy(), lambda host: result(host, "changed"))
    assert waves[0].by_class == {"a": ("a0",), "b": ("b0", "b1")}
    assert waves[0].canaries == ("a0",)
    assert [len(wave.hosts) for wave in waves] == [3, *[2] * 10]
    assert next_wave(state) is None and not not_tried(state)


def test_a_canary_that_fails_stops_its_class_alone() -> None:
    groups = [Group("a", ("a0", "a1"), 2), Group("b", ("b0", "b1"), 2)]
    bad = {"a0": "verify-failed"}
    state, _ = ends(groups, Policy(), lambda host: result(host, bad.get(host, "changed")))
    assert set(state.results) == {"a0", "b0", "b1"}
    assert not_tried(state) == {"a1": "the canary of its class failed: a0"}


def test_the_next_is_the_canary_where_one_was_left_or_ran_no_kernels_or_is_of_another_class() -> None:
    becomes = {"a0": result("a0", "in-use"), "a1": result("a1", "changed", verified=False)}
    becomes["a2"] = result("a2", "no-combination")
    _, waves = ends(
        [Group("a", tuple(f"a{n}" for n in range(6)), 6)],
        Policy(Share(100, True), Share(5)),
        lambda host: becomes.get(host, result(host, "changed")),
    )
    assert [wave.hosts for wave in waves] == [("a0",), ("a1",), ("a2",), ("a3",), ("a4", "a5")]


def test_more_failures_than_are_allowed_end_it() -> None:
    group = Group("a", tuple(f"a{n}" for n in range(30)), 30, proven=True)
    state, waves = ends([group], Policy(Share(2), Share(10, True)), lambda host: result(host, "failed"))
    assert next_wave(state) == Stop(failures=4, allowed=3)
    assert len(waves) == 2
    assert set(not_tried(state).values()) == {"the rollout ended: 4 hosts failed, 3 may fail"}
    state, waves = ends([group], Policy(Share(2), Share(0)), lambda host: result(host, "failed"))
    assert len(waves) == 1


@pytest.mark.parametrize("state", ["verify-failed", "failed", "unreachable"])
def test_what_halts_a_class_and_counts_as_a_failure(state: str) -> None:
    """A connection that was lost as well: nobody knows what the new packages did there."""
    group = Group("a", ("a0", "a1", "a2"), 3)
    ended, waves = ends([group], Policy(max_failures=Share(0)), lambda host: result(host, state))
    assert (ended.failures, ended.progress["a"].halted_by, len(waves)) == (1, "a0", 1)


def test_how_many_may_fail_is_of_the_hosts_to_be_changed_and_not_of_those_that_are_done() -> None:
    assert start([Group("a", tuple(f"a{n}" for n in range(20)), 500)], Policy()).allowed == 2


def test_all_kernels_of_a_canary_have_to_have_run() -> None:
    def done(*verified: bool) -> HostResult:
        envs = tuple(HostEnv(f"env{n}", True, 1, "a" * 64, one) for n, one in enumerate(verified))
        return HostResult("a", "changed", applied=Applied("changed", environments=envs))

    assert proves(done(True, True))
    assert not any(map(proves, (done(True, False), done(), HostResult("a", "changed"), result("a", "failed"))))


def test_a_host_of_which_nothing_was_heard_has_failed() -> None:
    state = after(start([Group("a", ("a0", "a1"), 2)], Policy()), {"stranger": result("stranger", "changed")})
    assert state.results["a0"].state == "failed" and "stranger" not in state.results


@pytest.mark.parametrize(("text", "of_40"), [("10%", 4), ("5", 5), ("1%", 1), ("100%", 40)])
def test_shares(text: str, of_40: int) -> None:
    share = read_share(text, "--batch")
    assert (share.of(40), str(share)) == (of_40, text)


@pytest.mark.parametrize("text", ["", "0", "0%", "101%", "-1", "ten", "10 %%", "1.5", "9" * 40, "٣"])
def test_what_is_no_share(text: str) -> None:
    with pytest.raises(InputError, match="--batch: expected a number from 1 on"):
        read_share(text, "--batch")
