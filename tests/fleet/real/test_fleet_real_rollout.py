"""A rollout over real ssh, with everything that goes wrong in one, and the runs after it.

The tests are in the order of a story, and each stands on the hosts as the ones before left them.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("fleet-real")]

CPU = ("cpu1", "cpu2", "bad", "lost")
GPU = ("old", "gpu1", "gpu2")
SOUND = "all:!dead:!reboot"


@pytest.fixture(scope="module")
def shared(desk: Any) -> str:
    """How bundles travel: a folder that all hosts see. Copying 260 MB to each would take longer than all the rest."""
    return f"shared:{desk.root.parent / 'shared'}"


def states(ended: Any) -> dict[str, str]:
    """By host how it went."""
    return {row["host"]: row["state"] for row in ended.document["hosts"]}


def row(ended: Any, host: str) -> dict[str, Any]:
    found: dict[str, Any] = next(one for one in ended.document["hosts"] if one["host"] == host)
    return found


def waited(until: Callable[[], Any], what: str, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def idle(host: Any) -> None:
    """Until no bnbenv is at work there."""
    waited(lambda: "bnbenv" not in host("ps", "-eo", "args"), "a bnbenv that does not end")


@pytest.fixture(scope="module")
def first(desk: Any, shared: str) -> Any:
    """One host alone, as people begin. Its uv cache is then lent to the others of its kind: unpacking torch takes each
    of them seconds."""
    ended = desk("sync", "--limit", "cpu1", "--content", shared)
    assert ended.code == 0, ended.out + ended.err
    for name in ("cpu2", "bad", "lost"):
        subprocess.run(["cp", "-al", desk.hosts["cpu1"].home / ".cache", desk.hosts[name].home], check=True)
    return ended


def test_a_limit_changes_one_host_and_touches_no_other(desk: Any, first: Any, generation: Any) -> None:
    assert first.code == 0, first.out + first.err
    assert states(first) == {"cpu1": "changed"}
    (environment,) = row(first, "cpu1")["environments"]
    assert environment["verified"] and environment["in_sync"] and environment["generation"] == 1
    assert generation(desk.hosts["cpu1"]) == 1
    for name in set(desk.hosts) - {"cpu1"}:
        assert not (desk.hosts[name].home / "bnbenv").exists()


@pytest.fixture(scope="module")
def rolled(desk: Any, first: Any, shared: str, in_use: Any) -> Any:
    """Everything at once: sound hosts, a slow one, one without sshd, one whose kernels fail, one that is lost while it
    is at work, and one that needs a reboot."""
    before = in_use(desk.hosts["cpu1"])
    slow = "mv /usr/local/bin/bnbenv /usr/local/bin/fast && printf '#!/bin/sh\\nsleep 2\\nexec fast \"$@\"\\n'"
    desk.hosts["cpu2"]("sh", "-c", f"{slow} >/usr/local/bin/bnbenv && chmod 755 /usr/local/bin/bnbenv")
    process = desk.start("sync", "--batch", "100%", "--max-failures", "9", "--content", shared)
    lost = desk.hosts["lost"]
    waited(lambda: any((lost.home / "bnbenv/.bnbenv/generations/bnb").glob("1/*")), "lost never began")
    lost.hang_up()
    out, err = process.communicate(timeout=240)
    assert "Traceback" not in err, err
    assert in_use(desk.hosts["cpu1"]) == before, "what was in sync is not touched"
    idle(lost)
    return desk.ended(process.returncode, out, err)


def test_each_host_has_what_its_class_should_have_or_what_it_had(
    desk: Any, rolled: Any, in_use: Any, generation: Any
) -> None:
    assert rolled.code == 5, rolled.out + rolled.err
    assert states(rolled) == {
        **dict.fromkeys(("cpu2", "old", "gpu1", "gpu2"), "changed"),
        **{"cpu1": "in-sync", "bad": "verify-failed", "lost": "unreachable", "dead": "unreachable", "reboot": "reboot"},
    }
    locks = {one["id"]: one["gets"][0]["lock"] for one in rolled.document["classes"]}
    assert len(set(locks.values())) == 3, "one for the CPUs, one for each driver"
    for name in ("cpu1", "cpu2", *GPU):
        (environment,) = row(rolled, name)["environments"]
        assert environment["lock"] == locks[row(rolled, name)["class"]]
        assert environment["in_sync"] and environment["verified"] == (name in CPU)
        assert generation(desk.hosts[name]) == 1
    for name in ("bad", "dead", "reboot"):
        assert generation(desk.hosts[name]) is None
        assert in_use(desk.hosts[name]) == {"bnbenv.toml": None}
    if generation(desk.hosts["lost"]) is not None:  # what had begun there may go on to its end, and is then whole
        assert in_use(desk.hosts["lost"]).keys() == in_use(desk.hosts["cpu2"]).keys()


def test_hosts_of_a_class_have_the_same_bytes(desk: Any, rolled: Any) -> None:
    for names in (("cpu1", "cpu2"), ("gpu1", "gpu2")):
        one, other = (desk.hosts[name].home / "bnbenv" / "pylock.bnb.toml" for name in names)
        assert one.read_bytes() == other.read_bytes()


def test_trouble_is_said_by_host_with_its_reason(rolled: Any) -> None:
    assert "nf4" in row(rolled, "bad")["because"] or "4bit" in row(rolled, "bad")["because"]
    assert "Connection refused" in row(rolled, "dead")["because"]
    assert rolled.document["reboot"] == ["reboot"]
    for one in rolled.document["hosts"]:
        if one["state"] not in ("changed", "in-sync"):
            assert one["because"], one


@pytest.fixture(scope="module")
def again(desk: Any, rolled: Any, shared: str, in_use: Any) -> Any:
    """The same again, after somebody mended the host with the wrong kernels."""
    before = {name: in_use(desk.hosts[name]) for name in ("cpu1", "cpu2", *GPU)}
    shutil.rmtree(desk.hosts["bad"].home / "theirs")
    ended = desk("sync", "--batch", "100%", "--content", shared, "--limit", SOUND)
    for name, was in before.items():
        assert in_use(desk.hosts[name]) == was, f"{name} was in sync"
    return ended


def test_running_it_again_goes_on_where_it_ended(again: Any) -> None:
    assert again.code == 0, again.out + again.err
    found = states(again)
    assert found.pop("bad") == "changed"
    assert found.pop("lost") in ("changed", "in-sync")
    assert set(found.values()) == {"in-sync"}
    for name in ("bad", "lost"):
        (environment,) = row(again, name)["environments"]
        assert environment["verified"] and environment["in_sync"]
        assert environment["lock"] == row(again, "cpu1")["environments"][0]["lock"]


def test_a_run_with_nothing_to_do_changes_nothing(desk: Any, again: Any, shared: str, in_use: Any) -> None:
    before = {name: in_use(desk.hosts[name]) for name in (*CPU, *GPU)}
    ended = desk("sync", "--content", shared, "--limit", SOUND)
    assert ended.code == 0, ended.err
    assert set(states(ended).values()) == {"in-sync"} and ended.document["waves"] == []
    assert {name: in_use(desk.hosts[name]) for name in (*CPU, *GPU)} == before


def test_afterwards_all_hosts_are_looked_at_and_each_is_accounted_for(desk: Any, again: Any) -> None:
    checked = desk("check")
    assert checked.code == 1, "one is dead"
    assert set(checked.document["hosts_in_sync"]) == {*CPU, *GPU} and checked.document["not_in_sync"] == []
    assert [one["host"] for one in checked.document["reboot"]] == ["reboot"]
    assert [one["host"] for one in checked.document["no_answer"]] == ["dead"]

    recorded = desk.root / "recorded.jsonl"
    assert desk("facts", "--out", str(recorded)).code == 1
    planned = desk("plan", "--facts", str(recorded))
    assert planned.code == 1, planned.out + planned.err
    kinds = [sorted(host["host"] for host in one["hosts"]) for one in planned.document["classes"]]
    assert sorted(kinds) == [["bad", "cpu1", "cpu2", "lost"], ["gpu1", "gpu2"], ["old"]]
    assert {host["state"] for one in planned.document["classes"] for host in one["hosts"]} == {"in-sync"}
    assert {one["host"] for one in planned.document["left_out"]} == {"dead", "reboot"}
