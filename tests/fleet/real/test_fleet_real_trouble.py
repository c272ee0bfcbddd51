"""Over real ssh: tampered bundles, hosts that lie, two desks, kills, hosts in use, cables that are pulled.

Each test has a project folder of its own on the hosts. These hosts have GPUs by their recorded facts alone, so that no
kernels run and a sync takes a second or two.
"""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("fleet-real")]
PAIR = ("--limit", "gpu1,gpu2", "--batch", "100%", "--canary", "2", "--max-failures", "9")


def states(ended: Any) -> dict[str, str]:
    """By host how it went."""
    return {row["host"]: row["state"] for row in ended.document["hosts"]}


def because(ended: Any, host: str) -> str:
    return next(str(row["because"]) for row in ended.document["hosts"] if row["host"] == host)


def waited(until: Callable[[], Any], what: str, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end, what
        time.sleep(0.01)


def idle(host: Any) -> None:
    """Until no bnbenv is at work there."""
    waited(lambda: "bnbenv" not in host("ps", "-eo", "args"), "a bnbenv that does not end")


@pytest.fixture(scope="module")
def bundle(desk: Any) -> Path:
    """The bundle of these hosts' kind, at the desk: made by a first rollout, which copies it."""
    ended = desk("sync", *PAIR, "--at", "~/copied")
    assert ended.code == 0, ended.out + ended.err
    (kind,) = ended.document["classes"]
    found = desk.root / ".bnbenv" / "fleet" / "bundles" / f"{kind['content']['sha256']}.tar"
    assert found.stat().st_size == kind["content"]["size"]
    return found


@pytest.fixture
def cache(desk: Any, bundle: Path) -> Iterator[Callable[[str], Path]]:
    """Where a host's copy of the bundle is."""
    yield lambda name: desk.hosts[name].home / ".cache" / "bnbenv" / "fleet" / name / bundle.name


def test_a_bundle_is_copied_and_deleted_once_it_is_used(cache: Callable[[str], Path]) -> None:
    assert not cache("gpu1").exists() and not cache("gpu2").exists()


def test_a_tampered_copy_is_replaced_before_anything_of_it_is_used(
    desk: Any, bundle: Path, cache: Callable[[str], Path], generation: Any
) -> None:
    data = bytearray(bundle.read_bytes())
    data[len(data) // 2] ^= 1
    cache("gpu1").write_bytes(data)  # of the right size and name
    ended = desk("sync", *PAIR, "--at", "~/tampered")
    assert ended.code == 0, ended.out + ended.err
    assert states(ended) == {"gpu1": "changed", "gpu2": "changed"}
    assert generation(desk.hosts["gpu1"], "tampered") == 1
    assert not cache("gpu1").exists()


def test_a_shared_folder_that_one_host_sees_changed_harms_it_alone(desk: Any, bundle: Path, generation: Any) -> None:
    shared = desk.root.parent / "shared"
    host = desk.hosts["gpu1"]
    (host.home / "evil").mkdir()
    (host.home / "evil" / bundle.name).write_bytes(bundle.read_bytes()[:-1024] + bytes(1023) + b"!")
    host("mount", "--bind", "/home/desk/evil", str(shared))
    try:
        ended = desk("sync", *PAIR, "--at", "~/shared", "--content", f"shared:{shared}")
    finally:
        host("umount", str(shared))
        shutil.rmtree(host.home / "evil")
    assert ended.code == 1, ended.out + ended.err
    assert states(ended) == {"gpu1": "failed", "gpu2": "changed"}
    assert "sha256" in because(ended, "gpu1") and generation(host, "shared") is None
    assert (shared / bundle.name).stat().st_size == bundle.stat().st_size, "it belongs to all: no host deletes it"


def test_bundles_over_http(desk: Any, bundle: Path, cache: Callable[[str], Path]) -> None:
    ended = desk("sync", *PAIR, "--at", "~/http", "--content", f"http:{desk.fleet.address}")
    assert ended.code == 0, ended.out + ended.err
    assert states(ended) == {"gpu1": "changed", "gpu2": "changed"}
    assert not cache("gpu1").exists()


LIES = {
    "gpu1": "echo hello",
    "gpu2": """echo '{"schema": "bnbenv.fleet-host/9"}'""",
    "old": """echo '{"schema": "bnbenv.fleet-host/1", "bnbenv": "0.1.0", "project": "/x", "facts": {}}'""",
    "cpu1": "head -c 17000000 /dev/zero | tr '\\0' '['",
    "cpu2": """printf '{"schema": "bnbenv.fleet-host/1", "error": {"code": "x", "message": "\\\\u001b[2Jx"}}'""",
}


def test_hosts_that_lie_are_named_and_the_others_are_unharmed(desk: Any) -> None:
    program = "/usr/local/bin/bnbenv"
    for name, lie in LIES.items():
        desk.hosts[name]("mv", program, f"{program}.true")
        desk.hosts[name]("sh", "-c", f"cat >{program} <<'END'\n#!/bin/sh\n{lie}\nEND\nchmod 755 {program}")
    out = desk.root / "hosts.jsonl"
    try:
        ended = desk("facts", "--limit", ",".join([*LIES, "bad"]), "--out", str(out))
    finally:
        for name in LIES:
            desk.hosts[name]("mv", f"{program}.true", program)
    assert ended.code == 1, ended.out[:2000] + ended.err[:2000]
    found = {one["host"]: one for one in ended.document["no_answer"]}
    assert found.keys() == LIES.keys(), "bad is honest"
    assert {name: one["state"] for name, one in found.items()} == {
        **dict.fromkeys(LIES, "bad-answer"),
        "cpu2": "failed",  # an error of bnbenv there, as it says
    }
    assert all(one["because"] for one in found.values())
    assert "\x1b" not in ended.out + ended.err and len(ended.out) < 20_000
    assert len(out.read_text().splitlines()) == len(LIES) + 1, "one line a host"


def test_two_desks_at_a_time_end_with_one_of_their_locks_and_no_harm(
    desk: Any, bundle: Path, base: Path, generation: Any
) -> None:
    other = desk.away(base / "other-desk", BNBENV_HOME=str(base / "other-user"))
    words = ("sync", *PAIR, "--at", "~/both")
    processes = [one.start(*words) for one in (desk, desk, other)]  # two of them on the same project
    said = [process.communicate(timeout=240) for process in processes]
    ended = [desk.ended(process.returncode, *texts) for process, texts in zip(processes, said, strict=True)]
    refused = [one for one in ended if one.code == 8]
    assert len(refused) == 1 and refused[0] in ended[:2], [one.code for one in ended]
    assert all("Traceback" not in one.err for one in ended)
    found = [states(one) for one in ended if one.code in (0, 3)]
    assert len(found) == 2, [one.out + one.err for one in ended]
    for name in ("gpu1", "gpu2"):
        assert {one[name] for one in found} <= {"changed", "in-sync", "moved", "busy"}
        assert "changed" in {one[name] for one in found}
        assert generation(desk.hosts[name], "both") is not None
    after = desk(*words)
    assert after.code == 0 and set(states(after).values()) == {"in-sync"}


def test_a_desk_that_is_killed_goes_on_when_it_is_run_again(desk: Any, bundle: Path, generation: Any) -> None:
    words = ("sync", *PAIR, "--at", "~/killed")
    process = desk.start(*words)
    waited(lambda: list(desk.hosts["gpu1"].home.glob("killed/.bnbenv/generations/bnb/*")), "it never began")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    for name in ("gpu1", "gpu2"):
        idle(desk.hosts[name])
    ended = desk(*words)
    assert ended.code == 0, ended.out + ended.err
    assert set(states(ended).values()) <= {"changed", "in-sync"}
    for name in ("gpu1", "gpu2"):
        assert generation(desk.hosts[name], "killed") is not None
        leftovers = [path.name for path in (desk.hosts[name].home / "killed").iterdir() if ".new-" in path.name]
        assert not leftovers


def test_a_host_in_use_is_left_for_later_unless_told_otherwise(
    desk: Any, bundle: Path, computes: Any, generation: Any
) -> None:
    host = desk.hosts["gpu1"]
    computes(host, "pid=1 used=1073741824")
    words = ("sync", *PAIR, "--at", "~/used")
    try:
        ended = desk(*words)
        assert ended.code == 3, ended.out + ended.err
        assert states(ended) == {"gpu1": "in-use", "gpu2": "changed"}
        assert "on its GPUs: " in because(ended, "gpu1") and generation(host, "used") is None
        ended = desk(*words, "--in-use", "anyway")
        assert ended.code == 0 and states(ended) == {"gpu1": "changed", "gpu2": "in-sync"}
    finally:
        computes(host)


def test_a_pulled_cable_ends_as_unreachable_and_the_host_goes_on_later(
    desk: Any, bundle: Path, generation: Any
) -> None:
    host = desk.hosts["gpu1"]
    quick = "-o ControlMaster=no -o ServerAliveInterval=1 -o ServerAliveCountMax=3"
    words = ("sync", *PAIR, "--at", "~/pulled")
    process = desk.start(*words, ANSIBLE_SSH_ARGS=quick)
    waited(lambda: list(host.home.glob("pulled/.bnbenv/generations/bnb/*")), "it never began")
    host.plug(False)
    try:
        out, err = process.communicate(timeout=120)
    finally:
        host.plug(True)
    assert process.returncode == 1, out + err
    assert states(desk.ended(process.returncode, out, err)) == {"gpu1": "unreachable", "gpu2": "changed"}
    idle(host)
    again = desk(*words)
    assert again.code == 0, again.out + again.err
    assert generation(host, "pulled") is not None
