"""What transformers makes of a checkpoint: told from its headers, from config.json alone, and as it really is."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from bnbenv.matrix.architectures import row_for
from bnbenv.models.config import read_config
from bnbenv.models.formulas import Unresolved, evaluate, holds
from bnbenv.models.local import read_local
from bnbenv.models.model import SIZES, Checkpoint, CheckpointError, Skeleton, Tensor
from bnbenv.models.skeleton import natural, skeleton

LOADED = Path(__file__).with_name("loaded.py")
MODELS = ("llama-sharded", "llama-biases", "qwen2", "mistral", "gemma", "opt", "mixtral")
LLAMA_70B = {
    **{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16", "vocab_size": 128256},
    **{"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64},
    **{"num_key_value_heads": 8, "tie_word_embeddings": False},
}
MIXTRAL = {
    **{"architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "torch_dtype": "bfloat16"},
    **{"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32},
    **{"num_attention_heads": 32, "num_key_value_heads": 8, "num_local_experts": 8},
}


def of_config(fields: Mapping[str, Any], tensors: tuple[Tensor, ...] | None = None) -> Checkpoint:
    return Checkpoint("model", read_config(json.dumps(fields), "config.json"), tensors)


def tensor(name: str, *shape: int) -> Tensor:
    size = 2
    for side in shape:
        size *= side
    return Tensor(name, "BF16", shape, "model.safetensors", 0, size)


def rows(found: Skeleton) -> list[list[Any]]:
    return sorted(
        [one.name, one.elements, one.converted, None if one.converted else SIZES[one.dtype or "BF16"]]
        for one in found.parameters
    )


@pytest.mark.real
def test_the_parameters_are_those_that_from_pretrained_gives(release: Any) -> None:
    measured = json.loads(release.run(LOADED, release.zoo, *MODELS).splitlines()[-1])
    version = measured.pop("transformers")
    for name in MODELS:
        checkpoint = read_local(release.zoo / name)
        assert rows(skeleton(checkpoint, version)) == measured[name], name
        assert rows(skeleton(replace(checkpoint, tensors=None), version)) == measured[name], f"{name}, config alone"


def test_config_json_alone_gives_the_parameters_of_a_large_model_at_once() -> None:
    checkpoint = of_config(LLAMA_70B)
    skeleton(checkpoint, "5.23.0")
    began = time.process_time()
    found = skeleton(checkpoint, "5.23.0")
    assert time.process_time() - began < 0.2  # about 10 ms where nothing else runs
    # What the model card says: 70.6 billion parameters.
    assert sum(one.elements for one in found.parameters if one.kind != "buffer") == 70_553_706_496
    assert sum(one.converted for one in found.parameters) == 80 * 7
    assert "config.json alone" in found.basis


def test_experts_are_linear_layers_in_transformers_4_and_stay_in_16_bit_in_5() -> None:
    old, new = (skeleton(of_config(MIXTRAL), release) for release in ("4.57.6", "5.23.0"))
    count = {name: sum(one.elements for one in found.parameters if one.kind != "buffer") for name, found in
             (("old", old), ("new", new))}  # fmt: skip
    assert count["old"] == count["new"] == 46_702_792_704
    assert sum(one.converted for one in old.parameters) == 32 * (4 + 1 + 8 * 3)
    assert sum(one.converted for one in new.parameters) == 32 * 4
    expert = next(one for one in new.parameters if one.kind == "expert")
    assert expert.kept is not None and "3-D" in expert.kept


def test_modules_that_a_user_names_take_the_place_of_the_defaults() -> None:
    found = skeleton(of_config(LLAMA_70B), "5.23.0", skip=("down_proj",))
    converted = {one.name for one in found.parameters if one.converted}
    assert "lm_head.weight" in converted  # as transformers does: the output is kept by default alone
    assert not any("down_proj" in name for name in converted)
    kept = next(one for one in found.parameters if one.name.endswith("down_proj.weight"))
    assert kept.kept == "named in llm_int8_skip_modules"


def test_an_output_that_is_tied_is_counted_once_though_it_is_stored_twice() -> None:
    fields = {**LLAMA_70B, "num_hidden_layers": 0, "hidden_size": 64, "vocab_size": 100, "num_key_value_heads": 64}
    tensors = (tensor("model.embed_tokens.weight", 100, 64), tensor("lm_head.weight", 100, 64))
    for tied, wanted in ((True, 1), (False, 2)):
        found = skeleton(of_config({**fields, "tie_word_embeddings": tied}, tensors), "5.23.0")
        assert sum(one.shape == (100, 64) for one in found.parameters) == wanted


def test_layers_stand_in_the_order_in_which_each_major_loads_them() -> None:
    names = [f"model.layers.{layer}.input_layernorm.weight" for layer in (0, 2, 10)]
    tensors = tuple(tensor(name, 8192) for name in reversed(names))
    for release, order in (("5.23.0", [0, 1, 2]), ("4.57.6", [0, 2, 1])):
        found = skeleton(of_config(LLAMA_70B, tensors), release)
        there = [one.name for one in found.parameters if one.stored]
        assert there == [names[at] for at in order]
    assert sorted(["a.10", "a.9", "a.b"], key=natural) == ["a.9", "a.10", "a.b"]


def test_a_class_that_no_row_is_about_is_judged_by_its_tensors_or_not_at_all() -> None:
    fields = {"architectures": ["NovelForCausalLM"], "model_type": "novel", "hidden_size": 8}
    tensors = (
        *(tensor("net.embed.weight", 10, 8), tensor("net.0.up.weight", 16, 8), tensor("net.0.norm.weight", 8)),
        *(tensor("net.0.up.bias", 16), tensor("lm_head.weight", 10, 8)),
    )
    found = skeleton(of_config(fields, tensors), None)
    assert not found.known and "NovelForCausalLM" in found.basis
    assert {one.name: one.kind for one in found.parameters if one.converted} == {"net.0.up.weight": "linear"}
    with pytest.raises(CheckpointError) as raised:
        skeleton(of_config(fields), None)
    assert raised.value.code == "unknown-architecture" and "--exact" in raised.value.next_step


def test_the_row_of_a_release_that_was_not_measured_is_the_nearest_older_one() -> None:
    def measured(release: str | None) -> tuple[str, ...]:
        row = row_for("MixtralForCausalLM", None, release)
        assert row is not None
        return row.transformers

    assert measured("5.99.0") == measured("5.23.0") == measured(None)
    assert measured("4.99.0") == measured("4.57.6") != measured("5.23.0")
    assert measured("4.30.0") == measured("4.57.6")  # none older
    assert row_for("NovelForCausalLM", None, None) is None
    by_type = row_for(None, "mixtral", None)
    assert by_type is not None and by_type.architecture == "MixtralForCausalLM"


def test_formulas_and_conditions() -> None:
    values: dict[str, Any] = {"a": 6, "b": 4, "part": 0.5, "none": None, "list": [1, 3]}
    assert evaluate("2*a*b+3", values.__getitem__) == 51
    assert evaluate("a/b", values.__getitem__) == 1
    assert evaluate("a*part/2", values.__getitem__) == 1
    assert [holds("in:list", values.__getitem__, layer) for layer in (0, 1)] == [False, True]
    assert holds("!null:a", values.__getitem__, None)
    assert [holds("below:b", values.__getitem__, layer) for layer in (3, 4)] == [True, False]
    with pytest.raises(Unresolved):
        evaluate("none", values.__getitem__)


@pytest.mark.parametrize("end", ["²", "٣", "9" * 5000])
def test_numbers_in_names_that_are_none(end: str) -> None:
    odd = [tensor(f"model.layers.{end}.mlp.up_proj.weight", 4, 4), tensor(f"model.x{end}", 4)]
    for fields in (LLAMA_70B, {"architectures": ["Unknown"]}):
        for release in ("5.23.0", "4.57.6"):
            usual = tensor("model.layers.0.mlp.up_proj.weight", 4, 4)
            assert "model.layers.0.mlp.up_proj.weight" in {
                one.name for one in skeleton(of_config(fields, (*odd, usual)), release).parameters
            }


def test_a_matrix_that_has_no_sides() -> None:
    with pytest.raises(CheckpointError, match=r"lm_head.weight has the shape \[\]"):
        skeleton(of_config(LLAMA_70B, (tensor("lm_head.weight"),)), "5.23.0")


def test_layers_beyond_those_of_the_model_are_left_out() -> None:
    """DeepSeek-V3 and GLM-4.5 hold one more, which predicts further tokens and which transformers does not load."""
    fields = {**LLAMA_70B, "num_hidden_layers": 2}
    tensors = tuple(tensor(f"model.layers.{layer}.mlp.up_proj.weight", 28672, 8192) for layer in (0, 1, 2))
    found = skeleton(of_config(fields, tensors), "5.23.0")
    there = [one.name for one in found.parameters if one.stored]
    assert there == [one.name for one in tensors[:2]]
    assert "left out (model.layers.2.mlp.up_proj.weight)" in found.basis


def test_formulas_that_nothing_was_held_against_add_no_parameters_to_a_checkpoint() -> None:
    row = row_for("Gemma3ForConditionalGeneration", None, "4.57.6")
    assert row is not None and row.formulas is not None
    fields = {"architectures": [row.architecture], "model_type": "gemma3", "torch_dtype": "bfloat16"}
    vision = "vision_tower.vision_model.encoder.layers.26.mlp.fc1.weight"  # SigLIP's 27 layers
    found = skeleton(of_config(fields, (tensor(vision, 4304, 1152),)), "4.57.6")
    assert [one.shape for one in found.parameters if one.kind != "buffer"] == [(4304, 1152)]
    assert found.parameters[0].converted


def test_what_is_known_of_classes_without_a_row() -> None:
    fields = {"architectures": ["NovelForCausalLM"], "model_type": "novel", "num_hidden_layers": 1}
    names = ("model.layers.0.mlp.experts.3.up_proj", "model.layers.0.mlp.up_proj", "mtp.fc", "model.layers.1.mlp.fc")
    tensors = tuple(tensor(f"{name}.weight", 16, 8) for name in names)
    for release, converted in (("5.23.0", names[1:2]), ("4.57.6", names[:2])):
        found = skeleton(of_config(fields, tensors), release)
        assert {one.name for one in found.parameters} == {f"{name}.weight" for name in names[:2]}  # no further tokens
        assert {one.name for one in found.parameters if one.converted} == {f"{name}.weight" for name in converted}
    own = skeleton(of_config({**fields, "auto_map": {"AutoModel": "code.Novel"}}, tensors), "5.23.0")
    assert len(own.parameters) == sum(one.converted for one in own.parameters) == 4
    wo = tensor("encoder.block.0.layer.1.DenseReluDense.wo.weight", 8, 16)
    for release, dtype in (("5.23.0", None), ("4.57.6", "F32")):
        (kept,) = skeleton(of_config({"architectures": ["NovelT5"], "model_type": "mt5"}, (wo,)), release).parameters
        assert not kept.converted and kept.dtype == dtype
