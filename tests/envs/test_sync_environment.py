"""What the solution says must be set is set for every way into the environment, with nothing activated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

H200S = "linux-x86_64__580.65.06__h200-sm90+h200-sm90+h200-sm90+h200-sm90"
SHOW = "import os; print(os.environ.get('BNB_CUDA_VERSION'), os.environ.get('CUDA_VISIBLE_DEVICES'))"
PTH = ".venv-bnb/lib/python3*/site-packages/bnbenv-environment.pth"

Box = Callable[..., Any]


@pytest.fixture
def box(gpu_box: Box) -> Any:
    """bitsandbytes 0.49.2 holds no library for CUDA 12.7 and looks for no other: one has to be named."""
    project = gpu_box(H200S, cuda="12.7", bitsandbytes="==0.49.2", gpus="[1]")
    document = project.done("sync")
    assert document["generations"][0]["choice"]["environment"] == {"BNB_CUDA_VERSION": "126"}
    return project


def test_what_must_be_set_is_set_for_every_way_in(box: Any) -> None:
    second = box.done("facts")["gpus"][1]["uuid"]
    assert box.python(SHOW) == f"126 {second}"
    assert box.python(SHOW, "-I") == f"126 {second}"
    script = box.root / "train.py"
    script.write_text(f"#!{box.root}/.venv-bnb/bin/python\n{SHOW}\n")
    run = f"import subprocess, sys; print(subprocess.run([sys.executable, {str(script)!r}], env={{}}).returncode)"
    assert box.python(run) == f"126 {second}\n0"
    # Only with site left out, which leaves out the packages too, it is not.
    assert box.python(SHOW, "-S") == "None None"
    # What is set already stands.
    assert box.python(SHOW, BNB_CUDA_VERSION="128", CUDA_VISIBLE_DEVICES="0") == "128 0"
    assert box.drift() == {}

    # The file is part of what is watched.
    box.replace(PTH, lambda data: data.replace(b"126", b"128"))
    assert box.drift() == {"files-changed": "changed behind bnbenv's back: bnbenv-environment.pth"}
    box.done("sync")
    assert box.python(SHOW) == f"126 {second}"
    assert box.drift() == {}


def test_with_all_gpus_none_is_hidden(box: Any) -> None:
    box.replace("bnbenv.toml", lambda text: text.replace(b"gpus = [1]", b'gpus = "all"'))
    assert set(box.drift()) == {"wishes-changed"}
    box.done("sync")
    assert box.python(SHOW) == "126 None"
    box.done("rollback")
    assert box.python(SHOW).startswith("126 GPU-")


@pytest.mark.real
def test_where_nothing_must_be_set_nothing_is(project: Any) -> None:
    assert list(project.root.glob(PTH)) == []
    assert project.python(SHOW) == "None None"
