"""The facts as if another driver were installed: the GPUs that a generation was made for are there again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from bnbenv.envs.adapt import as_if
from bnbenv.envs.check import InUse
from bnbenv.envs.project import Project
from bnbenv.envs.record import Record
from bnbenv.envs.resolve import Setting
from bnbenv.envs.wishes import Wishes
from bnbenv.facts.model import HostFacts, decode_facts
from bnbenv.matrix.load import load_matrix
from bnbenv.process import SystemRunner

MIXED = Path(__file__).parent.parent / "hosts" / "linux-x86_64__570.133.20__rtx3090-sm86+v100-sm70" / "facts.json"


def made_for(facts: HostFacts) -> InUse:
    recorded: dict[str, Any] = {key: msgspec.to_builtins(getattr(facts, key)) for key in ("driver", "gpus")}
    return InUse(1, Path("1"), Record(1, "", "", "", None, [], "", {}, recorded, {}, {}, {}, True, {}))


@pytest.mark.parametrize(
    ("left", "added", "expected"),
    [
        ([1], False, [(0, 0), (1, 1)]),  # those of the record, under the indices that they had
        ([], False, [(0, 0), (1, 1)]),
        ([1], True, [(0, 1), (1, 2), (2, 0)]),  # among others: after those that are here
    ],
)
def test_the_gpus_of_the_record(left: list[int], added: bool, expected: list[tuple[int, int]]) -> None:
    """``expected``: index, and which one of the first GPU, the second one and a new one it is."""
    facts = decode_facts(MIXED.read_text(), "facts.json")
    new = msgspec.structs.replace(facts.gpus[0], uuid="GPU-new")
    known = [*facts.gpus, new]
    some = [facts.gpus[place] for place in left] + ([new] if added else [])
    here = tuple(msgspec.structs.replace(gpu, index=index) for index, gpu in enumerate(some))
    driver = msgspec.structs.replace(facts.driver, version="590.48.01", kernel_module="590.48.01")
    now = msgspec.structs.replace(facts, driver=driver, gpus=here)
    project = Project(Path(), Path("bnbenv.toml"))
    setting = Setting(project, Wishes(), now, load_matrix(), {}, SystemRunner())
    found = as_if(setting, "580.65.06", made_for(facts))
    uuids = [gpu.uuid for gpu in known]
    assert [(gpu.index, uuids.index(gpu.uuid)) for gpu in found.gpus] == expected
    assert found.driver.version == "580.65.06"
