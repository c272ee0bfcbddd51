"""What a row says of the layers that are unlike the others: stored turned over, kept, in float32, left out."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec.structs import replace

from bnbenv.matrix.architectures import nearest, row_for
from bnbenv.models.config import read_config
from bnbenv.models.dtype import loading_dtype
from bnbenv.models.layout import eight_bit, quantized
from bnbenv.models.model import Checkpoint, CheckpointError, Parameter, Tensor
from bnbenv.models.skeleton import skeleton

LLAMA = {
    **{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 100, "num_hidden_layers": 1},
    **{"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "tie_word_embeddings": False},
}


def tensor(name: str, *shape: int, dtype: str = "BF16") -> Tensor:
    size = 2
    for side in shape:
        size *= side
    return Tensor(name, dtype, shape, "model.safetensors", 0, size)


def parameters(
    release: str, fields: dict[str, Any], *tensors: Tensor, skip: tuple[str, ...] = ()
) -> dict[str, Parameter]:
    checkpoint = Checkpoint("model", read_config(json.dumps(fields), "config.json"), tensors or None)
    return {one.name: one for one in skeleton(checkpoint, release, skip).parameters}


@pytest.mark.parametrize("release", ["4.57.6", "5.23.0"])
def test_gpt_2_stores_its_linear_layers_turned_over(release: str) -> None:
    fields = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_embd": 64, "n_layer": 1, "n_head": 4}
    fields |= {"vocab_size": 100, "n_positions": 32}
    name = "transformer.h.0.attn.c_attn.weight"
    for tensors in ((tensor(name, 64, 192),), ()):
        found = parameters(release, fields, *tensors)[name]
        assert (found.shape, found.converted) == ((192, 64), True)
        assert quantized(found, "int8") == eight_bit((192, 64))


@pytest.mark.parametrize(("given", "rows"), [({"num_key_value_heads": 2}, 32), ({"num_key_value_heads": None}, 64)])
def test_heads_of_keys_that_are_null_are_as_many_as_of_queries(given: dict[str, Any], rows: int) -> None:
    found = parameters("5.23.0", {**LLAMA, **given, "head_dim": None})
    assert found["model.layers.0.self_attn.k_proj.weight"].shape == (rows, 64)


def test_what_is_kept_in_float32_is_not_converted() -> None:
    """T5's ``wo``: transformers 4 has it in float32, 5 in the loading type."""
    fields = {"architectures": ["T5ForConditionalGeneration"], "model_type": "t5", "d_model": 64, "num_layers": 1}
    name = "encoder.block.0.layer.1.DenseReluDense.wo.weight"
    for release, dtype in (("4.57.6", "F32"), ("5.23.0", None)):
        found = parameters(release, fields, tensor(name, 64, 96), tensor(name.replace("wo", "wi"), 96, 64))
        assert (found[name].converted, found[name].dtype) == (False, dtype), release
        assert found[name.replace("wo", "wi")].converted, release
        assert not parameters(release, fields, tensor(name, 64, 96), skip=("wi",))[name].converted, release


@pytest.mark.parametrize(("release", "kept"), [("4.57.6", set()), ("5.23.0", {"q", "k", "v", "o"})])
def test_a_name_is_the_end_of_one_in_transformers_5_and_a_whole_part_before(release: str, kept: set[str]) -> None:
    found = parameters(release, LLAMA, skip=("lm_head", "_proj"))
    attention = {name: found[f"model.layers.0.self_attn.{name}_proj.weight"] for name in ("q", "k", "v", "o")}
    assert {name for name, one in attention.items() if not one.converted} == kept


def test_experts_of_a_major_that_was_not_measured_are_not_guessed_at() -> None:
    """They are what the majors differ in, and OLMoE's row is of 5."""
    fields = {"architectures": ["OlmoeForCausalLM"], "model_type": "olmoe", "num_hidden_layers": 1}
    assert parameters("5.23.0", fields)
    with pytest.raises(CheckpointError, match="its experts were measured with transformers 5"):
        parameters("4.57.6", fields)


def test_what_is_in_float32_whatever_it_is_loaded_in() -> None:
    """The router's corrections of DeepSeek-V3, and the frequencies that no checkpoint holds."""
    fields = {"architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "num_hidden_layers": 1}
    fields |= {"first_k_dense_replace": 0, "n_routed_experts": 8}
    name = "model.layers.0.mlp.gate.e_score_correction_bias"
    found = parameters("5.23.0", fields, tensor(name, 8))
    assert found[name].dtype == "F32"
    frequencies = found["model.rotary_emb.inv_freq"]
    assert (frequencies.dtype, frequencies.kind, frequencies.stored) == ("F32", "buffer", 0)


def test_the_last_layer_is_kept_where_transformers_keeps_it() -> None:
    """What comes last of a model with tied weights and no biases: OPT's last linear layer."""
    fields = {"architectures": ["OPTForCausalLM"], "model_type": "opt", "hidden_size": 64, "ffn_dim": 96}
    fields |= {"vocab_size": 100, "word_embed_proj_dim": 64, "num_attention_heads": 4, "num_hidden_layers": 3}
    fields |= {"enable_bias": False, "layer_norm_elementwise_affine": False}
    found = parameters("5.23.0", fields)
    assert [found[f"model.decoder.layers.{layer}.fc2.weight"].converted for layer in range(3)] == [True, True, False]


def test_of_rows_of_older_releases_the_newest_holds() -> None:
    row = row_for("LlamaForCausalLM", None, "5.23.0")
    assert row is not None
    rows = [replace(row, transformers=(release,)) for release in ("5.2.0", "5.10.1", "5.30.0", "4.57.6")]

    def holds(release: str | None) -> str:
        found = nearest(rows, release)
        assert found is not None
        return found.transformers[0]

    assert [holds(one) for one in ("5.10.1", "5.29.0", "5.1.0", "4.60.0", None)] == [
        *("5.10.1", "5.10.1", "5.2.0", "4.57.6", "5.30.0")
    ]


def test_the_type_that_it_is_loaded_in() -> None:
    """transformers 4 takes float16 for quantized loading alone; a table of integers says nothing of the type."""
    plain = read_config(json.dumps(LLAMA), "config.json")
    named = read_config(json.dumps({**LLAMA, "dtype": "bfloat16"}), "config.json")
    tensors = (tensor("a.g_idx", 4, dtype="I32"), tensor("a.weight", 4, dtype="F16"))
    assert loading_dtype(named, "4.57.6", True) == "F16"
    assert loading_dtype(named, "4.57.6", False) == loading_dtype(named, "5.23.0", True) == "BF16"
    assert loading_dtype(plain, "5.23.0", True, tensors) == "F16"
    assert loading_dtype(plain, "5.23.0", True) == "F32"
