"""Rollouts against a fleet of plain objects: whatever hosts do and whenever the desk dies, running again ends well."""

from __future__ import annotations

import contextlib
import copy
import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnbenv.errors import BnbenvError, Failed, SourceUnreachable
from bnbenv.facts.model import Driver, Gpu, HostFacts, Platform
from bnbenv.fleet import journal
from bnbenv.fleet.model import (
    Applied,
    Cause,
    ClassPlan,
    Content,
    Delivery,
    GpuProcess,
    HostAnswer,
    HostClass,
    HostEnv,
    HostReport,
    HostResult,
    Job,
    LeftOut,
)
from bnbenv.fleet.outcome import STATES, Run, document, exit_of
from bnbenv.fleet.rolling import Desk, Options, Rolled, believe, roll
from bnbenv.fleet.rollout import Policy, Share
from bnbenv.progress import Quiet
from bnbenv.solve.model import BitsandbytesChoice, Choice, Conflict, Refusal, Solution, TorchChoice

RUN = Run(
    "0.1.0", "/desk", ("hosts.ini",), "2026-11-22T03:00:00+00:00", "copy", False, "bnbenv fleet sync -i hosts.ini"
)


def lock_of(kind: str) -> str:
    return hashlib.sha256(kind.encode()).hexdigest()


@dataclass
class Machine:
    """A host. ``ways``: what it does instead of what it should."""

    kind: str
    way: str = "good"
    lock: str | None = None
    applied: int = 0

    def environment(self, lock: str | None) -> tuple[HostEnv, ...]:
        reasons = (Cause("packages", "somebody ran pip"),) if self.way == "drifted" else ()
        return () if lock is None else (HostEnv("bnb", not reasons, 1, lock, self.way != "recorded", reasons=reasons),)


@dataclass
class Fleet:
    """Machines behind the port. ``dies_in``: the desk is killed within this application, counted from now."""

    machines: dict[str, Machine]
    dies_in: int | None = None
    bare: dict[str, Machine] = field(default_factory=dict)

    def hosts(self) -> tuple[str, ...]:
        return (*self.machines, *self.bare)

    def ask(self, hosts: Sequence[str], told: Any) -> dict[str, HostReport]:
        return {host: self._report(host) for host in hosts if self.machines.get(host, Machine("")).way != "mute"}

    def _report(self, host: str) -> HostReport:
        if host in self.bare:
            return HostReport(host, "no-bnbenv", because="there is no bnbenv")
        machine = self.machines[host]
        if machine.way == "dead":
            return HostReport(host, "unreachable", because="no route to host")
        if machine.way in ("bad-answer", "reboot-required", "unknown-facts"):
            return HostReport(host, machine.way, because="as the classes say")  # type: ignore[arg-type]
        gpu = Gpu(0, "GPU-1", machine.kind, "9.0", 1)
        facts = HostFacts(Platform("linux", "x86_64"), Driver("ok", version="580.65.06"), (gpu,))
        environments = machine.environment(machine.lock)
        if machine.way == "liar":
            environments = (HostEnv("bnb", True, 1, lock_of(machine.kind), verified=True),)
        used = (GpuProcess(0, "GPU-1", 77, "python3", "ada"),) if machine.way == "used" else ()
        reboot = "the driver was upgraded" if machine.way == "reboot" else ""
        blind = "NVML does not answer" if machine.way == "blind" else ""
        return HostReport(host, "ok", HostAnswer("0.1.0", "/p", facts, environments, used, blind, reboot))

    def bootstrap(self, hosts: Sequence[str], bundle: str, told: Any) -> dict[str, HostResult]:
        found = {}
        for host in hosts:
            good = self.bare[host].way != "dead"
            if good:
                self.machines[host] = self.bare.pop(host)
            found[host] = HostResult(host, "changed" if good else "failed", "" if good else "the disk is full")
        return found

    def apply(self, jobs: Sequence[Job], delivery: Delivery, told: Any) -> dict[str, HostResult]:
        found = {}
        for job in jobs:
            if self.dies_in is not None:
                self.dies_in -= 1
                if self.dies_in < 0:
                    raise KeyboardInterrupt
            found[job.host] = self._apply(job)
        return found

    def _apply(self, job: Job) -> HostResult:
        machine = self.machines[job.host]
        if machine.lock == job.content.locks["bnb"] and machine.way not in ("liar", "drifted"):
            raise AssertionError(f"{job.host} is done, and it was changed again")
        if job.expect != {"bnb": machine.lock} and machine.way != "liar":
            return HostResult(job.host, "moved", "somebody else was there")
        before = machine.environment(machine.lock)
        if machine.way in ("verify-failed", "failed", "no-combination"):
            applied = Applied(machine.way, "it did not work", "Look.", before, before)  # type: ignore[arg-type]
            return HostResult(job.host, applied.state, applied.because, applied.next_step, applied)
        if machine.way == "lost":
            return HostResult(job.host, "unreachable", "the connection was lost")
        if machine.way == "braggart":
            return HostResult(job.host, "changed", applied=Applied("changed"))
        machine.lock, machine.applied = job.content.locks["bnb"], machine.applied + 1
        return HostResult(
            job.host, "changed", applied=Applied("changed", "", "", before, machine.environment(machine.lock))
        )


def solution() -> Solution:
    wheel = BitsandbytesChoice("0.50.2", "wheel", "libbitsandbytes_cuda132.so", "b" * 64, "bnb.whl")
    torch = TorchChoice(version="2.15.0", cuda="13.2", source="default-index")
    return Solution("cuda", Choice("3.12", torch, {}, wheel), (), (), ())


def plan(reports: Sequence[HostReport]) -> tuple[list[ClassPlan], list[LeftOut]]:
    kinds: dict[str, list[HostReport]] = {}
    left = []
    for report in reports:
        if report.answer is None:
            left.append(LeftOut(report.name, report.state, report.because))
        else:
            kinds.setdefault(report.answer.facts.gpus[0].name, []).append(report)
    plans = []
    for kind, found in kinds.items():
        assert found[0].answer is not None
        hosts = tuple(report.name for report in found)
        refusal = Refusal((Conflict("gpu", "nothing has code for it", "the matrix"),), ())
        answers: dict[str, Solution | Refusal] = {"bnb": refusal if kind == "old" else solution()}
        plans.append(ClassPlan(HostClass(kind, f"NVIDIA {kind}", found[0].answer.facts, hosts), answers))
    return plans, left


def contents(plans: Sequence[ClassPlan], bundles: bool) -> dict[str, Content | BnbenvError]:
    ids = [one.kind.id for one in plans]
    paths = {id_: f"/desk/{id_}.tar" if bundles else "" for id_ in ids}
    made = {id_: Content(id_, paths[id_], lock_of("b" + id_), 7, {"bnb": lock_of(id_)}) for id_ in ids}
    silent = SourceUnreachable("source-unreachable", "the index does not answer", "Wait.")
    full = Failed("no-lock", "its lock cannot be made (no space left on device)", "Free some space.")
    return {id_: {"far": silent, "full": full}.get(id_, content) for id_, content in made.items()}


@dataclass
class Room:
    """A desk. ``folder`` is where its journal is."""

    fleet: Fleet
    folder: Path
    runs: int = 0
    kept: list[Rolled] = field(default_factory=list)
    opened: list[list[str]] = field(default_factory=list)
    tool: str | None = None

    def roll(self, policy: Policy = Policy(), **more: Any) -> Rolled:  # noqa: B008 - frozen
        self.runs += 1
        options = Options(policy, later=journal.failures(self.folder), **more)

        def keep(rolled: Rolled) -> None:
            self.kept.append(rolled)
            journal.write(self.folder, f"2026112{self.runs:05}T000000.000000Z.json", document(rolled, RUN, options, 1))

        @contextlib.contextmanager
        def delivery(needed: Sequence[Content], hosts: Sequence[str]) -> Iterator[Delivery]:
            assert all(content.path for content in needed) and hosts
            self.opened.append([content.class_id for content in needed])
            yield Delivery()

        tool = (lambda: str(self.tool)) if self.tool else None
        rolled = roll(Desk(self.fleet, plan, contents, delivery, Quiet(), tool, keep), options)
        keep(rolled)
        return rolled


def states(rolled: Rolled) -> dict[str, str]:
    found = document(rolled, RUN, Options(), 1)
    names = [row["host"] for row in found["hosts"]]
    assert names == list(rolled.hosts), "every host is in it exactly once"
    assert {row["state"] for row in found["hosts"]} <= set(STATES)
    assert sum(row["hosts"] for row in found["states"]) == len(names)
    return {row["host"]: row["state"] for row in found["hosts"]}


def code(rolled: Rolled) -> int:
    return int(exit_of(rolled, document(rolled, RUN, Options(), 1)))


def fleet_of(**ways: str) -> Fleet:
    """``h200_a="good"``: a host of the kind h200."""
    return Fleet({name: Machine(name.split("_")[0], way) for name, way in ways.items()})


WAYS = (
    *("good",) * 5,
    *("recorded", "verify-failed", "failed", "no-combination", "lost", "dead", "mute", "used", "reboot"),
    *("liar", "braggart"),
)


@st.composite
def worlds(draw: Any) -> tuple[Fleet, Policy, list[int]]:
    machines = {}
    for number in range(draw(st.integers(1, 14))):
        kind = draw(st.sampled_from(("h200", "v100", "old", "far")))
        lock = draw(st.sampled_from((None, lock_of("before"), lock_of(kind))))
        machines[f"host{number}"] = Machine(kind, draw(st.sampled_from(WAYS)), lock)
    shares = st.builds(Share, st.integers(1, 100), st.just(True)) | st.builds(Share, st.integers(1, 5))
    policy = Policy(draw(shares), draw(shares), draw(st.integers(1, 2)))
    return Fleet(machines), policy, draw(st.lists(st.integers(0, 6), max_size=4))


def reachable(machine: Machine) -> bool:
    """Whether it should end with what its class should have."""
    return machine.way in ("good", "recorded") and machine.kind in ("h200", "v100")


@settings(max_examples=60, deadline=None)
@given(drawn=worlds())
def test_killed_anywhere_and_run_again(drawn: tuple[Fleet, Policy, list[int]], tmp_path_factory: Any) -> None:
    """Good hosts end with what their class should have, changed once each; all others have what they had."""
    fleet, policy, kills = drawn
    before = copy.deepcopy(fleet.machines)
    room = Room(fleet, tmp_path_factory.mktemp("desk"))
    for moment in kills:
        fleet.dies_in = moment
        rolled = room.roll(policy)
        assert (rolled.ended == "interrupted") == (code(rolled) == 130)
        states(rolled)
        if moment % 2:  # killed before it was written down
            (room.folder / f"2026112{room.runs:05}T000000.000000Z.json").unlink()
    fleet.dies_in = None
    for _ in range(2 * len(before) + 2):
        rolled = room.roll(policy)
        states(rolled)
        if all(machine.lock == lock_of(machine.kind) for machine in fleet.machines.values() if reachable(machine)):
            break
    rolled = room.roll(policy)
    for name, machine in fleet.machines.items():
        had = before[name].lock
        assert machine.lock == (lock_of(machine.kind) if reachable(machine) else had), (name, machine)
        assert machine.applied == (reachable(machine) and had != machine.lock), name
    said = states(rolled)
    for name, machine in fleet.machines.items():
        done = machine.lock == lock_of(machine.kind) and machine.way not in ("dead", "mute")
        done = (done or machine.way == "liar") and machine.kind in ("h200", "v100")
        assert (said[name] == "in-sync") == done, (name, machine, said[name])


def test_the_same_fleet_gives_the_same_document(tmp_path: Path) -> None:
    fleet = fleet_of(h200_a="good", h200_b="failed", v100_c="verify-failed", v100_d="good", old_e="good", h200_f="dead")
    rooms = [Room(copy.deepcopy(fleet), tmp_path / name) for name in "ab"]
    first, second = (document(room.roll(), RUN, Options(), 1) for room in rooms)
    assert first == second


def test_what_becomes_of_each_kind_of_host(tmp_path: Path) -> None:
    ways = {
        "h200_a": "good",
        "h200_b": "used",
        "h200_c": "reboot",
        "h200_d": "dead",
        "h200_e": "mute",
        "old_f": "good",
        "far_g": "good",
        "h200_h": "braggart",
        "h200_i": "good",
        "h200_j": "liar",
    }
    rolled = Room(fleet_of(**ways), tmp_path).roll()
    assert states(rolled) == {
        "h200_a": "changed",
        "h200_b": "in-use",
        "h200_c": "reboot",
        "h200_d": "unreachable",
        "h200_e": "unreachable",
        "old_f": "no-combination",
        "far_g": "no-content",
        "h200_h": "failed",
        "h200_i": "changed",
        "h200_j": "in-sync",
    }
    found = document(rolled, RUN, Options(), 1)
    rows = {row["host"]: row for row in found["hosts"]}
    assert rows["h200_b"]["because"] == "1 process on its GPUs: python3 of ada"
    assert "does not have the lock of its class" in rows["h200_h"]["because"]
    assert "nothing has code for it" in rows["old_f"]["because"]
    assert (rows["far_g"]["because"], rows["far_g"]["next_step"]) == ("the index does not answer", "Wait.")
    assert all(row["because"] for row in found["hosts"] if row["state"] not in ("changed", "in-sync"))
    assert found["reboot"] == ["h200_c"]
    assert found["run_again"] == RUN.again


@pytest.mark.parametrize("way", ["used", "blind"])
def test_a_host_in_use_is_done_if_that_is_asked_for(way: str, tmp_path: Path) -> None:
    """Where nobody can tell who is on its GPUs, it counts as in use."""
    fleet = fleet_of(h200_a=way)
    room = Room(fleet, tmp_path)
    assert code(room.roll()) == 3 and fleet.machines["h200_a"].lock is None
    assert code(room.roll(in_use="anyway")) == 0 and fleet.machines["h200_a"].lock == lock_of("h200")


def test_a_class_needs_no_canary_where_a_host_has_its_lock_and_ran_its_kernels(tmp_path: Path) -> None:
    for way, first in (("good", ["h200_b", "h200_c"]), ("recorded", ["h200_b"])):
        fleet = fleet_of(h200_a=way, h200_b="good", h200_c="good")
        fleet.machines["h200_a"].lock = lock_of("h200")
        rolled = Room(fleet, tmp_path / way).roll(Policy(batch=Share(5)))
        assert list(rolled.state.waves[0].hosts) == first
        assert list(rolled.state.waves[0].canaries) == ([] if way == "good" else first)


def test_a_host_that_drifted_from_the_very_lock_is_brought_back(tmp_path: Path) -> None:
    fleet = fleet_of(h200_a="drifted")
    fleet.machines["h200_a"].lock = lock_of("h200")
    rolled = Room(copy.deepcopy(fleet), tmp_path).roll(dry_run=True)
    assert rolled.settled["h200_a"].because == "somebody ran pip"
    assert states(Room(fleet, tmp_path).roll()) == {"h200_a": "changed"}


def test_a_canary_that_failed_is_the_last_of_its_class_in_the_next_run(tmp_path: Path) -> None:
    fleet = fleet_of(h200_a="failed", h200_b="good", h200_c="good")
    room = Room(fleet, tmp_path)
    first = room.roll()
    assert states(first) == {"h200_a": "failed", "h200_b": "not-tried", "h200_c": "not-tried"}
    assert document(first, RUN, Options(), 1)["classes"][0]["halted_by"] == "h200_a"
    assert states(room.roll()) == {"h200_a": "failed", "h200_b": "changed", "h200_c": "changed"}


def test_two_desks_on_the_same_hosts(tmp_path: Path) -> None:
    """Another desk is quicker at one host: this one leaves it as it is."""
    fleet = fleet_of(h200_a="good", h200_b="good")
    room = Room(fleet, tmp_path)
    other = lock_of("of the other desk")

    class Meddling(Fleet):
        def apply(self, jobs: Sequence[Job], delivery: Delivery, told: Any) -> dict[str, HostResult]:
            self.machines["h200_b"].lock = other
            return super().apply(jobs, delivery, told)

    room.fleet = Meddling(fleet.machines)
    assert states(room.roll()) == {"h200_a": "changed", "h200_b": "moved"}
    assert fleet.machines["h200_b"].lock == other


def test_nothing_to_do_opens_nothing_and_writes_no_wave(tmp_path: Path) -> None:
    room = Room(fleet_of(h200_a="good"), tmp_path)
    assert code(room.roll()) == 0
    rolled = room.roll()
    assert (states(rolled), code(rolled), rolled.ended) == ({"h200_a": "in-sync"}, 0, "done")
    assert room.opened == [["h200"]]
    found = document(rolled, msgspec.structs.replace(RUN, journal="/desk/a.json"), Options(), 1)
    assert (found["run_again"], found["journal"]) == ("", "")


def test_bundles_are_made_for_classes_with_hosts_to_be_changed_alone(tmp_path: Path) -> None:
    lacks, used = Machine("v100"), Machine("a10", "used")
    room = Room(Fleet({"h200_a": Machine("h200", lock=lock_of("h200")), "v100_a": lacks, "a10_a": used}), tmp_path)
    rolled = room.roll()
    assert states(rolled) == {"h200_a": "in-sync", "v100_a": "changed", "a10_a": "in-use"}
    assert {id_ for id_, one in rolled.contents.items() if isinstance(one, Content) and one.path} == {"v100"}


def test_a_dry_run_changes_nothing(tmp_path: Path) -> None:
    fleet = fleet_of(h200_a="good", h200_b="used")
    fleet.dies_in = 0
    rolled = Room(fleet, tmp_path).roll(dry_run=True)
    assert states(rolled) == {"h200_a": "would-change", "h200_b": "in-use"}
    assert code(rolled) == 3 and rolled.settled["h200_a"].because == "bnb is not there yet"


def test_bare_hosts_get_bnbenv_first_where_that_is_asked_for(tmp_path: Path) -> None:
    fleet = fleet_of(h200_a="good")
    fleet.bare = {"v100_b": Machine("v100"), "v100_c": Machine("v100", "dead")}
    room = Room(fleet, tmp_path)
    first = room.roll()
    assert states(first)["v100_b"] == "no-bnbenv" and "--bootstrap" in first.settled["v100_b"].next_step
    room.tool = "/desk/tool.tar"
    rolled = room.roll()
    assert states(rolled) == {"h200_a": "in-sync", "v100_b": "changed", "v100_c": "failed"}
    assert document(rolled, RUN, Options(), 1)["bootstrapped"] == ["v100_b"]
    assert rolled.settled["v100_c"].because == "the disk is full"


def test_an_engine_that_breaks_down_ends_it_and_nothing_is_lost(tmp_path: Path) -> None:
    class Breaking(Fleet):
        def apply(self, jobs: Sequence[Job], delivery: Delivery, told: Any) -> dict[str, HostResult]:
            if len(room.kept) > 1:
                raise Failed("ansible", "ansible-playbook does not start", "Install it.")
            return super().apply(jobs, delivery, told)

    room = Room(Breaking(fleet_of(h200_a="good", h200_b="good", h200_c="good").machines), tmp_path)
    rolled = room.roll()
    assert states(rolled) == {"h200_a": "changed", "h200_b": "interrupted", "h200_c": "not-tried"}
    assert (rolled.ended, code(rolled)) == ("stopped", 1)
    assert document(rolled, RUN, Options(), 1)["because"] == "ansible-playbook does not start"


@pytest.mark.parametrize(
    ("ways", "expected"),
    [
        ({"h200_a": "good"}, 0),
        ({"h200_a": "good", "h200_b": "used", "h200_c": "reboot"}, 3),
        ({"h200_a": "good", "h200_c": "reboot"}, 6),
        ({"h200_c": "reboot", "far_b": "good"}, 7),
        ({"h200_c": "reboot", "far_b": "good", "old_a": "good"}, 4),
        ({"h200_a": "no-combination"}, 4),
        ({"h200_a": "dead", "old_a": "good"}, 1),
        ({"h200_a": "lost"}, 1),
        ({"h200_a": "bad-answer", "old_a": "good"}, 1),
        ({"h200_a": "unknown-facts", "old_a": "good"}, 1),
        ({"full_a": "good", "old_a": "good"}, 1),
        ({"h200_a": "reboot-required"}, 6),
        ({"h200_a": "verify-failed", "v100_a": "dead"}, 5),
    ],
)
def test_exit_codes(ways: dict[str, str], expected: int, tmp_path: Path) -> None:
    assert code(Room(fleet_of(**ways), tmp_path).roll()) == expected


def test_the_journal_of_a_run_is_there_before_its_first_wave_and_tells_who_is_under_way(tmp_path: Path) -> None:
    room = Room(fleet_of(h200_a="good", h200_b="good"), tmp_path)
    room.fleet.dies_in = 1
    states(room.roll())
    assert [Counter(states(rolled).values()) for rolled in room.kept] == [
        {"interrupted": 1, "not-tried": 1},
        {"changed": 1, "interrupted": 1},
        {"changed": 1, "interrupted": 1},
    ]


def test_a_budget_that_is_spent_ends_it_and_says_so(tmp_path: Path) -> None:
    """A percentage of the class makes the batch, of those to be changed the budget."""
    ways = {f"h200_{number:02}": "failed" if number > 14 else "good" for number in range(40)}
    fleet = fleet_of(**ways)
    for number in range(14):
        fleet.machines[f"h200_{number:02}"].lock = lock_of("h200")
    rolled = Room(fleet, tmp_path).roll()
    assert [len(wave.hosts) for wave in rolled.state.waves] == [4]
    found = document(rolled, RUN, Options(), 1)
    assert (found["ended"], code(rolled)) == ("stopped", 1)
    assert found["because"] == "3 hosts failed, and 2 may fail (--max-failures)"
    assert Counter(row["wave"] for row in found["hosts"] if row["state"] in ("changed", "failed")) == {1: 4}
    assert {row["wave"] for row in found["hosts"] if row["state"] in ("in-sync", "not-tried")} == {None}


def test_an_engine_that_begins_with_no_host_of_a_wave_ends_it(tmp_path: Path) -> None:
    class Stuck(Fleet):
        def apply(self, jobs: Sequence[Job], delivery: Delivery, told: Any) -> dict[str, HostResult]:
            return {job.host: HostResult(job.host, "not-tried", "Ansible ended before") for job in jobs}

    rolled = Room(Stuck(fleet_of(h200_a="good", h200_b="good").machines), tmp_path).roll()
    assert (rolled.ended, len(rolled.state.waves), code(rolled)) == ("stopped", 1, 1)
    assert document(rolled, RUN, Options(), 1)["because"] == "the rollout cannot go on: Ansible ended before"


def test_a_host_that_the_planning_forgets_is_not_dropped(tmp_path: Path) -> None:
    fleet = fleet_of(h200_a="good", h200_b="good")

    def forgetful(reports: Sequence[HostReport]) -> tuple[list[ClassPlan], list[LeftOut]]:
        return plan([report for report in reports if report.name != "h200_a"])

    def delivery(needed: Sequence[Content], *_: object) -> contextlib.AbstractContextManager[Delivery]:
        return contextlib.nullcontext(Delivery())

    rolled = roll(Desk(fleet, forgetful, contents, delivery, Quiet()), Options())
    assert states(rolled) == {"h200_a": "failed", "h200_b": "changed"}
    assert code(rolled) == 1


def test_who_is_done_has_every_lock_of_its_content() -> None:
    locks = {env: lock_of(env) for env in ("one", "two")}
    job = Job("h200_a", Content("c" * 12, "/x.tar", "0" * 64, 7, locks))

    def claim(**found: str) -> HostResult:
        environments = tuple(HostEnv(env, True, 1, lock, True) for env, lock in found.items())
        return believe(job, HostResult("h200_a", "in-sync", applied=Applied("in-sync", environments=environments)))

    assert claim(**locks, three=lock_of("three")).state == "in-sync"
    for found in (claim(one=locks["one"]), claim(one=locks["one"], two=locks["one"]), claim()):
        assert found.state == "failed" and found.because.endswith("two")


def test_every_class_of_a_rollout_is_delivered_and_what_was_taken_back_is_told(tmp_path: Path) -> None:
    class Switching(Fleet):
        def apply(self, jobs: Sequence[Job], delivery: Delivery, told: Any) -> dict[str, HostResult]:
            applied = Applied("verify-failed", "NaN", "Look.", rolled_back=("bnb",))
            return {job.host: HostResult(job.host, applied.state, "NaN", "Look.", applied) for job in jobs}

    room = Room(Switching(fleet_of(h200_a="good", v100_b="good").machines), tmp_path)
    rolled = room.roll()
    assert room.opened == [["h200", "v100"]]
    assert [row["rolled_back"] for row in document(rolled, RUN, Options(), 1)["hosts"]] == [["bnb"], ["bnb"]]


def test_who_failed_in_the_newest_runs_is_counted(tmp_path: Path) -> None:
    """A host that the desk left in the midst as well: perhaps it is the one that hangs."""
    for number in range(journal.READ + 2):
        rows = [{"host": "a", "state": "failed"}, {"host": "b", "state": "interrupted" if number > 1 else "failed"}]
        journal.write(tmp_path, f"20261122T{number:06}.000000Z.json", {"hosts": rows[number < 2 :]})
    assert journal.failures(tmp_path) == {"a": journal.READ, "b": journal.READ}
    journal.write(tmp_path, "20261123T000000.000000Z.json", {"hosts": []})
    assert journal.failures(tmp_path) == {"a": journal.READ - 1, "b": journal.READ - 1}


def test_a_run_is_named_by_its_start_in_utc() -> None:
    started = datetime(2026, 11, 22, 1, 0, 0, 7, timezone(timedelta(hours=2)))
    assert journal.name_of(started) == "20261121T230000.000007Z.json"


def test_a_source_that_does_not_answer_is_no_missing_combination(tmp_path: Path) -> None:
    """As ``fleet plan`` has it: 7, and not 4."""
    away = Refusal((Conflict("reachable", "default-index cannot be reached: timed out", "asked just now"),), ())

    def offline(reports: Sequence[HostReport]) -> tuple[list[ClassPlan], list[LeftOut]]:
        plans, left = plan(reports)
        return [msgspec.structs.replace(one, answers={"bnb": away}) for one in plans], left

    def never(*_: object) -> Any:
        raise AssertionError("there is nothing to be made")

    rolled = roll(Desk(fleet_of(h200_a="good"), offline, never, never, Quiet()), Options())
    row = document(rolled, RUN, Options(), 1)["hosts"][0]
    assert (row["state"], code(rolled)) == ("no-content", 7)
    assert row["because"].endswith("default-index cannot be reached: timed out") and "network" in row["next_step"]


def test_a_journal_that_cannot_be_read_tells_nothing(tmp_path: Path) -> None:
    (tmp_path / "20261122T000000.000000Z.json").write_text('{"hosts": [{"host": "a", "state": "failed"}]}')
    (tmp_path / "20261122T000001.000000Z.json").write_text("{" * 5000)
    (tmp_path / "20261122T000002.000000Z.json").write_bytes(b'{"hosts": [\xff')
    (tmp_path / "20261122T000003.000000Z.json").mkdir()
    assert journal.failures(tmp_path) == {"a": 1}
    assert journal.failures(tmp_path / "none") == {}


def test_old_journals_go(tmp_path: Path) -> None:
    for number in range(journal.KEPT + 5):
        journal.write(tmp_path, f"20261122T{number:06}.000000Z.json", {"hosts": []})
    assert len(list(tmp_path.iterdir())) == journal.KEPT
