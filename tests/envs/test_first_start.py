"""An environment that was made from recorded facts, as in an image, and then started on a machine."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bnbenv.envs.adapt import missing, settled
from bnbenv.envs.lost import find_loss, seen_in_facts
from bnbenv.envs.record import Record, read_record
from bnbenv.facts.model import HostFacts
from bnbenv.matrix.load import load_hardware

H200 = "linux-x86_64__580.65.06__h200-sm90"
OTHER_H200 = "uuid=GPU-ffff cc=9.0 memory=150754820096 name=NVIDIA H200"
V100 = "uuid=GPU-ffff cc=7.0 memory=34359738368 name=Tesla V100-SXM2-32GB"


@pytest.fixture
def image(gpu_box: Callable[..., Any]) -> Any:
    """What an image build leaves: made for an H200 where there is none."""
    made = gpu_box(H200)
    ended = made("sync")
    assert ended.code == 0, ended.stderr
    assert "not verified, the facts are recorded: run bnbenv sync again on the machine itself" in ended.stderr
    assert "the first bnbenv sync on the machine itself runs the kernels" in " ".join(ended.stdout.split())
    assert made.drift() == {}
    again = made("sync")
    assert "runs the kernels" in again.stdout, "nothing to do, and still not verified"
    return made


def machine(host: Any, driver: str, gpu: str) -> dict[str, str | None]:
    """The environment on a machine with that driver and GPU, without the recorded facts."""
    name = gpu.partition("name=")[2]
    host.gpu("0000:01:00.0", name, "GPU-ffff")
    return {**host.driver(driver, gpus=(gpu,)), "BNBENV_FACTS": None}


def test_on_a_machine_of_that_kind_only_the_kernels_are_run(image: Any, host: Any) -> None:
    """No two machines have a GPU with the same UUID. The kernels of this stand-in for torch fail: there is no GPU."""
    here = machine(host, "580.95.05", OTHER_H200)
    found = image.drift(**here)
    assert set(found) == {"host-changed", "unverified"}
    assert found["host-changed"].endswith(
        "from a recorded file (BNBENV_FACTS) when it was made, for NVIDIA H200, driver 580.65.06"
    )

    planned = image("plan", "--json", **here).document
    assert [one["action"] for one in planned["actions"]] == ["verify"]
    assert not planned["notes"], "that GPU is not lost"

    ended = image("sync", "--locked", BNBENV_OFFLINE="1", **here)
    assert ended.code == 5
    assert "first start of what was made from recorded facts, for NVIDIA H200, driver 580.65.06: its" in ended.stderr
    assert "running kernels on GPU-ffff (NVIDIA H200)" in ended.stderr
    assert image.generation() == 1


def test_on_another_machine_it_says_so_and_changes_nothing(image: Any, host: Any) -> None:
    before = image.listing()
    none = {"BNBENV_SYSROOT": str(host.root / "empty"), "BNBENV_FACTS": None}
    ended = image("sync", "--locked", **none)
    assert ended.code == 4
    assert (
        "made from recorded facts (BNBENV_FACTS) for NVIDIA H200, and there is none here: no NVIDIA driver"
        in ended.stderr
    )
    assert "docker run --gpus all" in ended.stderr
    assert ended.stderr.rstrip().endswith("or go on without: bnbenv sync --backend cpu")

    ended = image("sync", "--locked", **machine(host, "580.65.06", V100))
    assert ended.code == 4
    assert "has no code for GPU 0 (Tesla V100-SXM2-32GB, sm_70)" in ended.stderr
    assert image.listing() == before


def test_facts_of_another_kind_of_machine_make_nothing_here(empty: Any) -> None:
    """What would be installed could not run here; ``solve`` still says what would fit there."""
    facts = Path(__file__).parent.parent / "hosts/windows-x86_64__581.57__rtx4090-sm89/facts.json"
    ended = empty("sync", "--json", BNBENV_FACTS=str(facts), BNBENV_OFFLINE="1")
    assert ended.code == 2
    assert ended.document["error"]["code"] == "facts-of-another-platform"
    assert "BNBENV_FACTS is of a machine with windows x86_64, and" in ended.document["error"]["message"]


def facts_with(*gpus: dict[str, Any]) -> HostFacts:
    import msgspec

    recorded = json.loads((Path(__file__).parent.parent / "hosts" / H200 / "facts.json").read_text())
    return msgspec.convert({**recorded, "gpus": list(gpus)}, HostFacts)


def test_recorded_gpus_are_any_of_their_kind(image: Any) -> None:
    record = read_record(image.root / ".bnbenv/generations/bnb/1.json")
    assert isinstance(record, Record)
    (gpu,) = record.facts["gpus"]
    pair = record._replace(facts={**record.facts, "gpus": [gpu, {**gpu, "index": 1, "uuid": "GPU-second"}]})
    pair.decision["covers"] = []
    other = {**gpu, "uuid": "GPU-other"}
    a100 = {**gpu, "uuid": "GPU-a100", "name": "NVIDIA A100", "compute_capability": "8.0"}
    cases: list[tuple[Record, tuple[dict[str, Any], ...], str | None]] = [
        (record, (a100, other), None),
        (pair, (other, {**other, "uuid": "GPU-more"}), None),
        (pair, (other,), "this machine has fewer of them"),
        (record, (a100,), "this machine has NVIDIA A100"),
    ]
    for made, gpus, said in cases:
        facts = facts_with(*gpus)
        loss = find_loss(settled(made, facts), seen_in_facts(facts), load_hardware()[1])
        assert (loss is None) == (said is None)
        if loss is not None and said is not None:
            assert not loss.stops
            (sentence,) = missing(loss, facts)
            assert sentence.endswith(said)


def test_an_image_layer_keeps_whole_seconds(project: Any) -> None:
    """A pushed and pulled image has its files as they were, but for the fractions of a second of their times."""
    site = next(project.root.glob(".bnbenv/generations/bnb/1/lib/*/site-packages"))
    library = site / "torch/lib/libtorch_python.so"
    file = project.root / ".bnbenv/generations/bnb/1.json"
    record = json.loads(file.read_text())
    size, at = record["files"]["torch/lib/libtorch_python.so"]
    assert size == library.stat().st_size
    second = at // 10**9 * 10**9
    record["files"]["torch/lib/libtorch_python.so"] = [
        size,
        second + 123,
    ]  # the file is a link into uv's cache: it stays
    file.write_text(json.dumps(record))
    copy = library.with_name("copy")
    copy.write_bytes(library.read_bytes())
    os.utime(copy, ns=(second, second))
    copy.replace(library)
    assert project.drift() == {}

    os.utime(library, ns=(second + 10**9, second + 10**9))
    assert "libtorch_python.so" in project.drift()["files-changed"]
