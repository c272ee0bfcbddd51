"""What ``check`` notices of the host: drivers, GPUs, recorded facts; with a half upgraded driver nothing is touched."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

H200 = "linux-x86_64__580.65.06__h200-sm90"


@pytest.fixture
def box(gpu_box: Callable[..., Any], host: Any) -> Any:
    """A project that was synced on a host with one H200, which NVML and the kernel's files tell."""
    host.gpu("0000:01:00.0", "NVIDIA H200", "GPU-1")
    project = gpu_box(H200)
    environ = {**project.environ, **host.driver("580.65.06")}
    del environ["BNBENV_FACTS"]
    there = type(project)(project.root, environ)
    done = there.done("sync", "--no-verify")  # there is no GPU to run kernels on
    assert done["generations"][0]["backend"] == "cuda"
    assert set(there.drift()) == {"unverified"}
    return there


@pytest.mark.real
def test_a_driver_that_appears_is_named(project: Any, host: Any) -> None:
    host.gpu("0000:01:00.0", "NVIDIA H200", "GPU-1")
    found = project.drift(**host.driver("580.65.06"))
    assert set(found) == {"host-changed"}
    assert "driver module is new (580.65.06)" in found["host-changed"]
    assert "GPU 0000:01:00.0 is new (NVIDIA H200)" in found["host-changed"]


@pytest.mark.real
def test_where_the_cpu_was_wished_for_a_new_driver_only_asks_for_a_new_look(project: Any, host: Any) -> None:
    project.done("sync", "--no-verify", "--backend", "cpu")
    environ = host.driver("580.65.06")
    assert set(project.drift(**environ)) == {"host-changed", "unverified"}
    done = project.done("sync", **environ)
    assert [action["action"] for action in done["actions"]] == ["verify"]
    assert done["generations"][0]["generation"] == 1
    assert project.drift(**environ) == {}


@pytest.mark.real
def test_a_driver_that_does_not_work_is_said_and_the_environment_kept(project: Any, host: Any) -> None:
    host.write("/proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Thu Jan 1\n")
    environ = {"BNBENV_SYSROOT": str(host.root)}
    assert "driver module is new" in project.drift(**environ)["host-changed"]
    before = project.listing()
    ended = project("sync", "--json", **environ)
    assert ended.code == 4
    assert "driver does not work" in ended.document["error"]["detail"]
    assert project.listing() == before
    assert project.drift() == {}


def test_changes_of_driver_and_gpus_are_named_and_a_sync_renews_the_record(box: Any, host: Any) -> None:
    host.driver("590.48.01")
    assert "driver module 580.65.06 -> 590.48.01" in box.drift()["host-changed"]
    done = box.done("sync", "--no-verify")
    # The lock fits the new driver too: the packages stay.
    assert done["generations"][0]["generation"] == 1
    assert set(box.drift()) == {"unverified"}

    host.gpu("0000:01:00.0", "NVIDIA H100 80GB HBM3", "GPU-2")
    found = box.drift()["host-changed"]
    assert "NVIDIA H200 -> NVIDIA H100 80GB HBM3" in found
    assert "GPU-1 -> GPU-2" in found
    box.done("sync", "--no-verify")

    host.gpu("0000:02:00.0", "NVIDIA H200", "GPU-3")
    assert "GPU 0000:02:00.0 is new (NVIDIA H200)" in box.drift()["host-changed"]
    box.done("sync", "--no-verify")

    (host.root / "proc/driver/nvidia/gpus/0000:02:00.0/information").unlink()
    assert "GPU 0000:02:00.0 gone (was NVIDIA H200)" in box.drift()["host-changed"]


def test_a_lock_that_no_longer_fits_the_driver_is_refused_and_the_environment_kept(box: Any, host: Any) -> None:
    host.driver("535.183.01")
    assert "driver module 580.65.06 -> 535.183.01" in box.drift()["host-changed"]
    before = box.listing()
    locked = box("sync", "--locked", "--json")
    assert (locked.code, locked.document["error"]["code"]) == (4, "lock-does-not-fit")
    ended = box("sync", "--json")
    assert ended.code == 4
    assert "580" in ended.document["error"]["detail"]
    assert box.listing() == before


@pytest.mark.parametrize("named", [True, False], ids=["by the file's name", "by NVML error 18"])
def test_with_a_half_upgraded_driver_nothing_is_touched(box: Any, host: Any, named: bool) -> None:
    environ = host.driver("580.65.06", library="590.48.01", named=named)
    (box.root / ".venv-bnb").unlink()  # there would be something to do
    before = box.listing()
    for words in (("check",), ("plan",), ("sync",), ("sync", "--fresh"), ("sync", "--torch", "*"), ("lock",)):
        ended = box(*words, "--json", **environ)
        assert ended.code == 6, (words, ended.stderr)
        assert ended.document["error"]["code"] == "reboot-required"
        assert "580.65.06" in ended.stderr
        assert "Reboot" in ended.stderr
    assert box.listing() == before


def test_recorded_facts_are_watched_as_the_host_is(gpu_box: Callable[..., Any]) -> None:
    project = gpu_box(H200)
    facts = project.root / "facts.json"
    project.done("sync")
    assert project.drift() == {}

    document = json.loads(facts.read_text())
    document["gpus"][0] |= {"uuid": "GPU-swapped", "name": "NVIDIA B200", "compute_capability": "10.0"}
    facts.write_text(json.dumps(document))
    found = project.drift()
    assert set(found) == {"host-changed"}
    assert "NVIDIA B200 (10.0" in found["host-changed"]
    assert project.done("sync")["generations"][0]["generation"] == 1
    assert project.drift() == {}

    document["driver"] |= {"state": "mismatch", "userland": "590.48.01"}
    facts.write_text(json.dumps(document))
    before = project.listing()
    for command in ("check", "plan", "sync"):
        assert project(command).code == 6
    assert project.listing() == before

    facts.write_text("{}")
    ended = project("check", "--json")
    assert ended.code == 2
    assert str(facts) in ended.document["error"]["message"]
    # Without them it is this machine that counts.
    assert "probed" in project.drift(BNBENV_FACTS=None)["host-changed"]
