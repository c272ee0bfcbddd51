"""``plan`` foretells what ``sync`` does, and where nothing fits it says the step that helps."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

V100 = "linux-x86_64__580.65.06__v100-sm70"
MIXED = "linux-x86_64__570.133.20__rtx3090-sm86+v100-sm70"
# Only what the built-in default index has, whatever this machine is configured for.
PLAIN = {"PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": None, "PIP_EXTRA_INDEX_URL": None, "UV_FIND_LINKS": None}


def error(project: Any, code: int, *words: str, **changes: str | None) -> dict[str, str]:
    ended = project(*words, "--json", **changes)
    assert ended.code == code, ended.stdout
    found: dict[str, str] = ended.document["error"]
    return found


@pytest.mark.parametrize(("host", "present"), [(V100, "580 (580.65.06)"), (MIXED, "570 (570.133.20)")])
def test_before_there_is_an_environment_the_driver_that_is_there_is_kept(
    gpu_box: Callable[..., Any], torch_wheel: Callable[..., str], host: str, present: str
) -> None:
    project = gpu_box(host, cuda="12.6")
    torch_wheel(project.root / "wheels", "12.6", archs="sm_50 sm_60 sm_70 sm_75 sm_80 sm_86 sm_90")
    step = error(project, 4, "plan", "--driver", "590.44")["next_step"]
    assert step.startswith(f"Keep the NVIDIA driver of branch {present}: it gives bitsandbytes ")
    assert "sync" not in step and "owngrade" not in step


def test_a_driver_alone_brings_no_gpu(project: Any) -> None:
    """As ``solve --driver`` has it: a host without a GPU stays one for the CPU, and what is in use serves it."""
    kinds = {action["action"] for action in project("plan", "--driver", "590.44", "--json").document["actions"]}
    assert kinds <= {"verify"}


def test_offline_is_the_reason_that_is_given(empty: Any) -> None:
    index = {"UV_DEFAULT_INDEX": "http://127.0.0.1:9/simple", **PLAIN}
    found = error(empty, 7, "plan", BNBENV_OFFLINE="1", **index)
    assert (found["code"], found["next_step"]) == ("offline", "Unset BNBENV_OFFLINE, then run it again.")
    assert "offline (BNBENV_OFFLINE)" in found["detail"]


def test_the_index_that_does_not_answer_is_named_beside_one_that_does(empty: Any, index: Any, wheel_maker: Any) -> None:
    """The other one has a torch, which is not the wished one."""
    wheel_maker(index.wheels, "torch", "1.0")
    changes = {"UV_DEFAULT_INDEX": "http://127.0.0.1:9/simple", "UV_INDEX": index.url("simple"), **PLAIN}
    detail = error(empty, 7, "plan", **changes)["detail"]
    assert "default-index cannot be reached: " in detail and "does not offer" not in detail


def test_a_generation_that_is_verified_is_switched_to_without_kernels(project: Any) -> None:
    (project.root / ".venv-bnb").unlink()
    planned = project("plan", "--json").document["actions"]
    assert [action["action"] for action in planned] == ["switch"]
    assert [(one["action"], one["what"]) for one in project.done("sync")["actions"]] == [
        (one["action"], one["what"]) for one in planned
    ]


def test_what_only_locking_tells_is_said_to_be_open(project: Any) -> None:
    (project.root / "pylock.bnb.toml").unlink()
    what = {one["action"]: one["what"] for one in project("plan", "--json").document["actions"]}
    assert "unless one holds just these files" in what["stage"]
    assert "unless they ran on this host" in what["verify"]


def test_facts_of_another_machine_are_resolved_with_a_python_of_this_one(empty: Any, tmp_path: Path) -> None:
    facts = empty.done("facts")
    for python in facts["pythons"]:
        python["path"] = str(tmp_path / "elsewhere" / Path(python["path"]).name)
    (empty.root / "facts.json").write_text(json.dumps(facts))
    (empty.root / "bnbenv.toml").write_text("")
    empty.done("lock", BNBENV_FACTS=str(empty.root / "facts.json"))
    assert (empty.root / "pylock.bnb.toml").is_file()
