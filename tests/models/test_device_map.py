"""A device map of ``bnbenv fit`` names all of the real model: layers whole, tied weights together."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bnbenv.models.local import read_local
from bnbenv.models.placing import blocks, place
from bnbenv.models.skeleton import skeleton

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("models-5")]

CHECK = """\
import json, sys
import torch
from accelerate import init_empty_weights
from accelerate.utils import check_device_map
from transformers import AutoConfig, AutoModelForCausalLM
for folder, placed in json.load(sys.stdin).items():
    with init_empty_weights():
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    model.tie_weights()
    check_device_map(model, placed)
    one = lambda module: next(v for k, v in placed.items() if k == module or module.startswith(k + "."))
    for name, module in model.named_modules():
        if type(module).__name__ in (model._no_split_modules or ()):
            assert name in placed, (folder, name)
    if model.get_output_embeddings().weight is model.get_input_embeddings().weight:
        names = {id(module): name for name, module in model.named_modules()}
        ends = [one(names[id(m)]) for m in (model.get_input_embeddings(), model.get_output_embeddings())]
        assert ends[0] == ends[1], (folder, ends)
print("all are placed")
"""


def test_accelerate_takes_it_for_every_model_of_the_zoo(models_5: Any) -> None:
    maps = {}
    for folder in sorted(models_5.zoo.iterdir()):
        parts = blocks(skeleton(read_local(folder), "5.23.0"), "nf4-double", "BF16")
        half = sum(part.bytes for part in parts) * 8 // 10
        placed = place(parts, (half, half))
        assert placed is not None and set(placed.values()) == {0, 1}, folder.name
        maps[str(folder)] = placed
    assert models_5.run("-c", CHECK, stdin=json.dumps(maps)).strip() == "all are placed"
