"""What a config.json says, and what is said of one that cannot be read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bnbenv.errors import InputError
from bnbenv.models.config import LARGEST, read_config

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "torch_dtype": "bfloat16",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
}


def read(**changes: Any) -> Any:
    return read_config(json.dumps({**LLAMA, **changes}), "config.json")


def test_a_plain_configuration() -> None:
    config = read()
    assert (config.architecture, config.model_type, config.dtype) == ("LlamaForCausalLM", "llama", "BF16")
    assert config.text == config.fields == LLAMA
    assert (config.quantization, config.remote_code) == (None, False)


@pytest.mark.parametrize(
    ("changes", "dtype"),
    [
        ({"dtype": "float16"}, "F16"),  # dtype counts before torch_dtype
        ({"dtype": None}, "BF16"),
        ({"torch_dtype": "torch.float32"}, "F32"),
        ({"torch_dtype": "auto"}, None),
        ({"torch_dtype": None, "text_config": {"dtype": "bfloat16"}}, "BF16"),
        ({"torch_dtype": "float16", "text_config": {"dtype": "bfloat16"}}, "F16"),
    ],
)
def test_the_type_that_it_names(changes: dict[str, Any], dtype: str | None) -> None:
    assert read(**changes).dtype == dtype


@pytest.mark.parametrize(
    ("changes", "size"),
    [
        ({"text_config": {"hidden_size": 7}}, 7),
        ({"llm_config": {"hidden_size": 7}}, 7),
        ({"thinker_config": {"model_type": "thinker", "text_config": {"hidden_size": 7}}}, 7),
        ({"decoder": {"hidden_size": 7}, "encoder": {"hidden_size": 8}}, 7),
        ({"vision_config": {"hidden_size": 8}}, 4096),
        ({"text_config": None}, 4096),
        ({"decoder": "some text"}, 4096),
    ],
)
def test_the_part_about_the_language_model(changes: dict[str, Any], size: int) -> None:
    assert read(**changes).text["hidden_size"] == size


@pytest.mark.parametrize(
    ("found", "method"),
    [
        ({"load_in_4bit": True}, "bitsandbytes"),  # as early checkpoints have it
        ({"load_in_8bit": True, "quant_method": "bitsandbytes"}, "bitsandbytes"),
        ({"quant_method": "gptq", "bits": 4}, "gptq"),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8"),
        ({"quant_method": "mxfp4"}, "mxfp4"),
        ({"quant_method": "compressed-tensors", "config_groups": {}}, "compressed-tensors"),
    ],
)
def test_a_checkpoint_that_is_quantized_already(found: dict[str, Any], method: str) -> None:
    config = read(quantization_config=found)
    assert config.quantization is not None and config.quantization["quant_method"] == method
    assert read(text_config={"quantization_config": found}).quantization == config.quantization


def test_code_of_its_own() -> None:
    assert read(auto_map={"AutoModelForCausalLM": "modeling_x.XForCausalLM"}).remote_code
    assert not read(auto_map={"AutoConfig": "configuration_x.XConfig"}).remote_code
    assert not read(auto_map=None).remote_code


def test_positions_without_a_limit_and_a_size_for_each_layer() -> None:
    text = read(max_position_embeddings=-1, num_key_value_heads=[8, 4, None], head_dim=None).text
    assert (text["max_position_embeddings"], text["num_key_value_heads"]) == (-1, [8, 4, None])
    assert read(n_positions=1200.0).text["n_positions"] == 1200  # transformers' own default for one model


def test_several_architectures_or_none() -> None:
    assert read(architectures=["First", "Second"]).architecture == "First"
    assert read(architectures=None).architecture is None
    assert read(architectures=[]).architecture is None
    assert read_config(b"{}", "config.json").model_type is None


def test_infinity_as_state_space_models_write_it() -> None:
    assert read_config(b'{"time_step_limit": [0.0, Infinity]}', "config.json").fields["time_step_limit"][1] > 1e308


@pytest.mark.parametrize(
    ("data", "where", "said"),
    [
        (b"", "", "this is empty"),
        (b"[1]", "", "expected an object, found a list"),
        (b'{"hidden_size": "4096"}', "hidden_size", "expected a whole number, found text"),
        (b'{"hidden_size": 4096.0}', "hidden_size", "found a fraction"),
        (b'{"hidden_size": NaN}', "hidden_size", "found a fraction"),
        (b'{"hidden_size": true}', "hidden_size", "found true or false"),
        (b'{"hidden_size": -1}', "hidden_size", "no size"),
        (b'{"hidden_size": 1' + b"0" * 30 + b"}", "hidden_size", "no size"),
        (b'{"hidden_size": 1' + b"0" * 5000 + b"}", "", "too many digits"),
        (b'{"text_config": {"intermediate_size": [1, -2]}}', "text_config.intermediate_size[1]", "no size"),
        (b'{"text_config": [1]}', "text_config", "expected an object"),
        (b'{"architectures": "LlamaForCausalLM"}', "architectures", "a list of class names, found text"),
        (b'{"model_type": 1}', "model_type", "expected text"),
        (b'{"auto_map": []}', "auto_map", "expected an object"),
        (b'{"quantization_config": "4bit"}', "quantization_config", "expected an object"),
        (b'{"quantization_config": {"quant_method": 4}}', "quantization_config.quant_method", "expected text"),
        (b'{"dtype": "bf16"}', "dtype", 'expected one of float32, float16, bfloat16, float64, found "bf16"'),
        (b'{"text_config": {"torch_dtype": 16}}', "text_config.torch_dtype", "found a number"),
        (b'{"a": 1, "a": 2}', "a", "stands there twice"),
        (b'\xef\xbb\xbf{"a": 1}', "", "byte order mark"),
        (b'{"a": "\xff"}', "byte 7", "not UTF-8"),
        (b'{"a": 1,}', "line 1", "not JSON"),
        (b'{"a":' * 100_000, "", "nested too deeply"),
        (b'{"a": "' + b"x" * LARGEST + b'"}', "", "larger than 16 MiB"),
        (b"version https://git-lfs", "", "a pointer of Git LFS"),
        (b"<!DOCTYPE html><title>Sign in</title>", "", "a web page"),
    ],
    ids=lambda value: None if isinstance(value, str) else repr(value[:30]),
)
def test_what_cannot_be_read_is_named_where_it_stands(data: bytes, where: str, said: str) -> None:
    with pytest.raises(InputError, match=r"folder/config\.json") as caught:
        read_config(data, "folder/config.json")
    assert caught.value.where.startswith(where) and said in caught.value.expected
