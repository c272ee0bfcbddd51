"""``policy.prefer = "minimal-change"``: what works stays, and where it does not, as little as possible changes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

H200 = "linux-x86_64__580.65.06__h200-sm90"
PYTHON = f"=={sys.version_info.major}.{sys.version_info.minor}.*"
Box = Callable[..., Any]


def wish(project: Any, prefer: str, **wishes: object) -> None:
    """Write bnbenv.toml: what is wished for beside this Python and the folder of wheels."""
    lines = [f"{name} = {json.dumps(value)}" for name, value in {"python": PYTHON, **wishes}.items()]
    text = ["[envs.bnb]", *lines, "[policy]", f'prefer = "{prefer}"', "[sources]", 'find-links = ["wheels"]', ""]
    (project.root / "bnbenv.toml").write_text("\n".join(text))


def change_facts(project: Any, change: Callable[[dict[str, Any]], None]) -> None:
    path = project.root / "facts.json"
    facts = json.loads(path.read_text())
    change(facts)
    path.write_text(json.dumps(facts))


def locked(project: Any) -> dict[str, str]:
    (row,) = project.done("lock")["locks"]
    packages: dict[str, str] = row["packages"]
    return packages


def choice_of(document: dict[str, Any]) -> tuple[str, str]:
    (row,) = document["generations"]
    return row["choice"]["torch"]["version"], row["choice"]["bitsandbytes"]["version"]


@pytest.mark.parametrize("prefer", ["minimal-change", "newest"])
def test_a_requirement_is_added_while_newer_versions_of_everything_exist(
    gpu_box: Box, wheel_maker: Callable[..., Path], torch_wheel: Callable[..., str], prefer: str
) -> None:
    project = gpu_box(H200, cuda="12.8")
    wheels = project.root / "wheels"
    wheel_maker(wheels, "tinypackage", "1.0")
    wish(project, prefer, torch="2.13.0+cu128", bitsandbytes="==0.49.2", requirements=["tinypackage"])
    before = locked(project)
    assert (before["tinypackage"], before["bitsandbytes"]) == ("1.0", "0.49.2")

    for name, version in (("tinypackage", "2.0"), ("otherpackage", "1.0")):
        wheel_maker(wheels, name, version)
    torch_wheel(wheels, "12.8", "2.13.1")
    wish(project, prefer, torch=">=2.13,<2.14", requirements=["tinypackage", "otherpackage"])
    after = locked(project)
    if prefer == "minimal-change":
        assert after == {**before, "otherpackage": "1.0"}
    else:
        assert after["tinypackage"] == "2.0"
        assert after["torch"] == "2.13.1+cu128"
        assert after["bitsandbytes"] > "0.50"


def test_a_requirement_that_needs_a_newer_package_gets_that_one_alone(
    gpu_box: Box, wheel_maker: Callable[..., Path]
) -> None:
    project = gpu_box(H200)
    wheels = project.root / "wheels"
    for name in ("tinypackage", "otherpackage"):
        wheel_maker(wheels, name, "1.0")
    wish(project, "minimal-change", torch="2.13.0+cu130", requirements=["tinypackage", "otherpackage"])
    before = locked(project)
    for name in ("tinypackage", "otherpackage"):
        wheel_maker(wheels, name, "2.0")
    wheel_maker(wheels, "thirdpackage", "1.0", ("tinypackage>=2",))
    wish(project, "minimal-change", torch="2.13.0+cu130", requirements=["tinypackage", "otherpackage", "thirdpackage"])
    assert locked(project) == {**before, "tinypackage": "2.0", "thirdpackage": "1.0"}


@pytest.fixture
def box(gpu_box: Box, torch_wheel: Callable[..., str]) -> Any:
    """An environment for an H200 in use; beside its torch for CUDA 13.0, one for 12.6 and newer ones are offered."""
    project = gpu_box(H200)
    wish(project, "minimal-change", torch="2.13.0+cu130")
    assert choice_of(project.done("sync"))[0] == "2.13.0+cu130"
    wheels = project.root / "wheels"
    older = "sm_50 sm_60 sm_70 sm_75 sm_80 sm_86 sm_90"
    torch_wheel(wheels, "12.6", archs=older)
    torch_wheel(wheels, "13.0", "2.14.1")
    torch_wheel(wheels, "12.6", "2.14.1", archs=older)
    return project


def test_a_newer_driver_changes_nothing(box: Any) -> None:
    change_facts(box, lambda facts: facts["driver"].update(version="595.45.04", kernel_module="595.45.04", cuda="13.2"))
    wish(box, "minimal-change", torch=">=2.13,<2.15")
    before = (box.root / "pylock.bnb.toml").read_bytes()
    plan = box("plan", "--json").document
    assert [action["action"] for action in plan["actions"]] == ["lock", "stage", "verify", "switch"]
    done = box.done("sync")
    assert choice_of(done)[0] == "2.13.0+cu130"
    # The wishes are others, what they lead to is the same: no new generation.
    assert done["generations"][0]["generation"] == 1
    assert before != (box.root / "pylock.bnb.toml").read_bytes()
    assert box.drift() == {}


def add_v100(facts: dict[str, Any]) -> None:
    v100 = {"name": "Tesla V100-SXM2-32GB", "compute_capability": "7.0", "uuid": "GPU-v100", "index": 1}
    facts["gpus"].append({**facts["gpus"][0], **v100})


def older_driver(facts: dict[str, Any]) -> None:
    facts["driver"].update(version="570.133.20", kernel_module="570.133.20", userland="570.133.20", cuda="12.8")


@pytest.mark.parametrize("change", [add_v100, older_driver])
def test_what_does_not_fit_any_more_changes_to_what_is_nearest(box: Any, change: Any) -> None:
    """Another build of the same release of torch, though newer ones would do as well; bitsandbytes stays."""
    wish(box, "minimal-change", torch=">=2.13,<2.15")
    assert choice_of(box.done("sync"))[0] == "2.13.0+cu130"
    change_facts(box, change)
    plan = box("plan", "--json").document
    what = plan["actions"][0]["what"]
    assert "(torch 2.13.0+cu130 -> 2.13.0+cu126)" in what
    assert {"add_v100": "no code for GPU 1 (Tesla V100", "older_driver": "CUDA 13.0 needs driver 580 or newer"}[
        change.__name__
    ] in what
    torch, bitsandbytes = choice_of(box.done("sync"))
    assert (torch, bitsandbytes) == ("2.13.0+cu126", "0.50.2")
    assert box.drift() == {}
    assert box.generation() == 2
