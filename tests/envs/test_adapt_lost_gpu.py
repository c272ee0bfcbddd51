"""A driver that takes a GPU away is named: ahead, after the fact, and before anything is touched."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HOSTS = Path(__file__).parent.parent / "hosts"
MIXED = "linux-x86_64__570.133.20__rtx3090-sm86+v100-sm70"
DROPPED = "linux-x86_64__error__nogpu__v100-dropped-by-590"
CONTAINER = "linux-x86_64__error__nogpu__docker-without-gpus"
OLDER = "sm_50 sm_60 sm_70 sm_75 sm_80 sm_86 sm_90"
VOLTA = "no longer supports Volta (compute capability 7.0); 580 is the last branch"
Facts = dict[str, Any]


def recorded(host: str) -> Facts:
    facts: Facts = json.loads((HOSTS / host / "facts.json").read_text())
    return facts


def put(project: Any, change: Callable[[Facts], object]) -> None:
    """Change the recorded facts that BNBENV_FACTS names."""
    path = project.root / "facts.json"
    facts = json.loads(path.read_text())
    change(facts)
    path.write_text(json.dumps(facts))


def driver(version: str) -> Facts:
    return {"state": "ok", "version": version, "kernel_module": version, "userland": version, "cuda": None}


def without_v100(facts: Facts) -> None:
    facts["driver"] = driver("590.48.01")
    facts["gpus"] = [gpu for gpu in facts["gpus"] if "V100" not in gpu["name"]]


@pytest.fixture
def mixed(gpu_box: Callable[..., Any], torch_wheel: Callable[..., str]) -> Any:
    """``mixed(gpus="all")``: an environment in use for an RTX 3090 and a V100, under driver 570."""

    def make(gpus: str = "all", host: str = MIXED) -> Any:
        project = gpu_box(host, cuda="12.6", gpus=gpus)
        torch_wheel(project.root / "wheels", "12.6", archs=OLDER)
        assert project.done("sync")["generations"][0]["generation"] == 1
        return project

    return make


def stopped(project: Any, *words: str, **changes: str | None) -> dict[str, str]:
    """The error of a command that stops with ``gpu-lost`` and leaves everything as it was."""
    before = project.listing()
    ended = project(*words, "--json", **changes)
    assert ended.code == 4, ended.stdout
    error: dict[str, str] = ended.document["error"]
    assert error["code"] == "gpu-lost", error
    assert project.listing() == before
    return error


def pasted(error: dict[str, str]) -> list[str]:
    """The command in the next step, as words after ``bnbenv``."""
    return shlex.split(error["next_step"].partition("bnbenv ")[2])


def test_before_the_upgrade(mixed: Any) -> None:
    project = mixed()
    error = stopped(project, "plan", "--driver", "590.44")
    assert error["message"] == f"GPU 1 (Tesla V100-SXM2-32GB) would be lost: driver 590.44.01 {VOLTA}"
    assert error["next_step"] == (
        "Keep the driver that is there (570.133.20), or after it go on without: bnbenv sync --gpus all"
    )
    assert stopped(project, "plan", "--driver", "590")["message"] == error["message"]

    # The last branch for both: the environment stays, and is looked at again.
    ended = project("plan", "--driver", "580", "--json")
    assert ended.code == 3
    assert [reason["code"] for reason in ended.document["reasons"]] == ["driver-asked"]
    assert [action["action"] for action in ended.document["actions"]] == ["verify"]
    assert "next: bnbenv sync, once driver 580 is installed" in project("plan", "--driver", "580").stdout
    assert project("plan", "--driver", "570.133.20").code == 0
    # Too old for what is wished for.
    ended = project("plan", "--driver", "470.256.02", "--json")
    assert (ended.code, ended.document["error"]["code"]) == (4, "no-combination")
    assert project("plan", "--driver", "newest").code == 2
    assert project.drift() == {}


def test_after_the_upgrade_nothing_goes_on_without_a_word(mixed: Any) -> None:
    project = mixed()
    put(project, without_v100)
    found = project.drift()
    assert next(iter(found)) == "gpu-lost"
    assert found["gpu-lost"] == f"GPU 1 (Tesla V100-SXM2-32GB) is lost: driver 590.48.01 {VOLTA}"
    for words in (["plan"], ["sync"], ["sync", "--fresh"], ["sync", "--locked"], ["lock"]):
        error = stopped(project, *words)
        assert error["message"] == found["gpu-lost"]
        assert error["next_step"] == ("Go back to a driver of branch 580, or go on without: bnbenv sync --gpus all")
    # Another wish is no word about GPUs.
    stopped(project, "sync", "--bitsandbytes", ">=0.50")
    config = project.root / "bnbenv.toml"
    text = config.read_text()
    config.write_text(text + '[envs.other]\nbackend = "cpu"\n')
    assert stopped(project, "sync")["next_step"].endswith("bnbenv sync --env bnb --gpus all")
    config.write_text(text)
    # Ahead of going back: all is as it was.
    ended = project("plan", "--driver", "580.95.05", "--json")
    assert (ended.code, [one["action"] for one in ended.document["actions"]]) == (3, ["verify"])
    assert project("plan", "--driver", "570.133.20").code == 0

    done = project.done(*pasted(error))
    (row,) = done["generations"]
    assert row["generation"] == 1  # what was made for both runs on one
    assert any("V100" in note and "going on without it" in note for note in row["notes"])
    assert project.drift() == {}


def test_where_the_last_gpu_is_lost_the_cpu_is_never_taken_by_itself(mixed: Any) -> None:
    project = mixed(host="linux-x86_64__580.65.06__v100-sm70")
    dropped, container = recorded(DROPPED), recorded(CONTAINER)
    cases = [
        (dropped, f"driver 590.48.01 {VOLTA}", "Go back to a driver of branch 580, or"),
        (container, "libnvidia-ml.so.1 is not here", "Start the container with its GPUs (docker run --gpus all), or"),
        ({"driver": {"state": "absent"}, "unknown": []}, "there is no NVIDIA driver", "Bring back the NVIDIA driver ("),
        ({"driver": driver("580.65.06"), "unknown": []}, "it is not there any more", "Put it back, or"),
    ]
    for host, because, step in cases:
        new = {key: host[key] for key in ("driver", "unknown")}
        new["gpus"] = []
        put(project, lambda facts, new=new: facts.update(new))
        if "platform" in host:
            put(project, lambda facts, host=host: facts["platform"].update(container=host["platform"]["container"]))
        assert "gpu-lost" in project.drift()
        for words in (["plan"], ["sync"]):
            error = stopped(project, *words)
            assert because in error["message"]
            assert error["next_step"].startswith(step)
            assert error["next_step"].endswith("go on without: bnbenv sync --backend cpu")
        put(project, lambda facts: facts["platform"].update(container=None))
    error = stopped(project, "sync", BNBENV_FACTS=None)
    assert error["next_step"].startswith("Start it where they are (a container: docker run --gpus all)")

    # A damaged record is no way to the CPU either.
    (project.root / ".bnbenv/generations/bnb/1.json").write_text("{}")
    assert stopped(project, "sync", BNBENV_FACTS=None)["message"].startswith("the environment in use was made for GPUs")

    done = project.done(*pasted(error), "--no-verify")
    assert done["generations"][0]["backend"] == "cpu"
    assert project.drift() == {}


def test_gpus_that_were_named(mixed: Any) -> None:
    project = mixed(gpus="[0, 1]")
    put(project, without_v100)
    error = stopped(project, "sync")
    uuid = recorded(MIXED)["gpus"][0]["uuid"]
    assert pasted(error) == ["sync", "--gpus", uuid]
    # Whoever takes it out of the wishes needs no word more.
    config = project.root / "bnbenv.toml"
    config.write_text(config.read_text().replace("[0, 1]", "[0]"))
    assert project("plan").code == 3
    (row,) = project.done("sync")["generations"]
    assert [note for note in row["notes"] if "lost" in note] == []
    assert project.drift() == {}


def test_a_gpu_that_was_taken_out_is_told_and_the_rest_goes_on(mixed: Any) -> None:
    project = mixed()
    put(project, lambda facts: facts["gpus"].pop())
    found = project.drift()
    assert set(found) == {"host-changed"}
    assert "gone (was Tesla V100" in found["host-changed"]
    ended = project("plan", "--json")
    assert ended.code == 3
    assert any("it is not there any more" in note for note in ended.document["notes"])
    (row,) = project.done("sync")["generations"]
    assert (row["generation"], row["changed"]) == (1, False)
    assert any("GPU 1 (Tesla V100-SXM2-32GB) is lost: it is not there any more" in note for note in row["notes"])
    assert project.drift() == {}


def test_on_another_machine_its_own_gpus_count(mixed: Any) -> None:
    """The same project, with none of its GPUs and another driver: nothing was lost, it is elsewhere."""
    project = mixed()
    h200 = recorded("linux-x86_64__535.183.01__t4-sm75")
    put(project, lambda facts: facts.update(driver=driver("575.57.08"), gpus=h200["gpus"]))
    assert set(project.drift()) == {"host-changed"}
    (row,) = project.done("sync")["generations"]
    assert (row["generation"], row["backend"]) == (1, "cuda")


def test_a_downgrade_below_the_first_driver_of_a_gpu(gpu_box: Callable[..., Any]) -> None:
    project = gpu_box("linux-x86_64__590.48.01__rtx5090-sm120", cuda="12.8")
    project.done("sync")
    error = stopped(project, "plan", "--driver", "565.57.01")
    assert error["message"].endswith(
        "would be lost: driver 565.57.01 does not support Blackwell (compute capability 12.0) yet; "
        "570.26 is the first that does"
    )
    assert project("plan", "--driver", "570").code == 3
    put(project, lambda facts: facts.update(driver=driver("565.57.01"), gpus=[]))
    error = stopped(project, "sync")
    assert error["next_step"].startswith("Install driver 570.26 or newer, or")


def test_ahead_of_an_environment_unknown_gpus_stay_unknown(gpu_box: Callable[..., Any]) -> None:
    """Nothing is recorded yet and the present driver tells nothing: another one is no reason to take the CPU."""
    project = gpu_box(DROPPED)
    put(project, lambda facts: facts.update(unknown=recorded(DROPPED)["unknown"]))
    ended = project("plan", "--driver", "580", "--json")
    assert (ended.code, ended.document["error"]["code"]) == (4, "no-combination")
    assert "its GPUs are unknown" in ended.document["error"]["detail"]


def test_a_downgrade_below_what_torch_needs_is_named(gpu_box: Callable[..., Any]) -> None:
    project = gpu_box("linux-x86_64__580.65.06__h200-sm90")
    project.done("sync")
    put(project, lambda facts: facts.update(driver=driver("570.133.20")))
    found = project.drift()
    assert found["driver-too-old"] == (
        "driver 570.133.20 is too old for torch 2.13.0+cu130: its CUDA 13.0 needs 580 or newer"
    )
    ended = project("sync", "--json")
    assert (ended.code, ended.document["error"]["code"]) == (4, "no-combination")  # that torch was asked for


V100 = "uuid=GPU-2 cc=7.0 memory=34359738368 name=Tesla V100-SXM2-32GB"
RTX = "uuid=GPU-1 cc=8.6 memory=25769803776 name=NVIDIA GeForce RTX 3090"


@pytest.fixture
def probed(gpu_box: Callable[..., Any], torch_wheel: Callable[..., str], host: Any) -> Any:
    """An environment in use on a host whose driver, GPUs and PCI bus are looked at, not recorded."""
    for bus, name, uuid in (("01", "NVIDIA GeForce RTX 3090", "GPU-1"), ("02", "Tesla V100-SXM2-32GB", "GPU-2")):
        host.gpu(f"0000:{bus}:00.0", name, uuid)
        host.write(f"/sys/bus/pci/devices/0000:{bus}:00.0/vendor", "0x10de\n")
        host.write(f"/sys/bus/pci/devices/0000:{bus}:00.0/class", "0x030200\n")
    project = gpu_box(MIXED, cuda="12.6")
    torch_wheel(project.root / "wheels", "12.6", archs=OLDER)
    environ = {**project.environ, **host.driver("580.65.06", gpus=(RTX, V100))}
    del environ["BNBENV_FACTS"]
    there = type(project)(project.root, environ)
    done = there.done("sync", "--no-verify")
    assert len(done["generations"][0]["choice"]["torch"]["version"]) > 0
    return there


def test_the_driver_of_a_real_host_is_upgraded(probed: Any, host: Any) -> None:
    # The package is upgraded, the module is still the former: what the reboot would cost is said before it.
    host.driver("580.65.06", library="590.48.01", gpus=(RTX, V100))
    for words in (["check"], ["plan"], ["sync"]):
        ended = probed(*words, "--json")
        assert ended.code == 6
        error = ended.document["error"]
        assert error["detail"] == (
            f"after the reboot GPU 1 (Tesla V100-SXM2-32GB) would be lost: driver 590.48.01 {VOLTA}"
        )
        assert error["next_step"] == "To keep it, go back to a driver of branch 580 instead of rebooting."
    assert stopped(probed, "plan", "--driver", "590.48.01")["message"].startswith("GPU 1 (Tesla V100")

    # And after it.
    host.driver("590.48.01", gpus=(RTX,))
    (host.root / "proc/driver/nvidia/gpus/0000:02:00.0/information").unlink()
    assert VOLTA in probed.drift()["gpu-lost"]
    error = stopped(probed, "sync", "--no-verify")
    assert VOLTA in error["message"]
    (row,) = probed.done(*pasted(error), "--no-verify")["generations"]
    assert row["generation"] == 1
    assert set(probed.drift()) == {"unverified"}


def test_a_driver_that_answers_for_some_of_its_gpus_only(probed: Any, host: Any) -> None:
    """Both are supported, one does not come up under the new driver."""
    host.driver("575.57.08", gpus=(V100,))
    (host.root / "proc/driver/nvidia/gpus/0000:01:00.0/information").unlink()
    because = "driver 575.57.08 does not answer for it, and 580.65.06 did"
    assert because in probed.drift()["gpu-lost"]
    error = stopped(probed, "sync")
    assert because in error["message"]
    assert error["next_step"] == "Go back to driver 580.65.06, or go on without: bnbenv sync --gpus all"
