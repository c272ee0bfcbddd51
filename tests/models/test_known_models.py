"""Well-known models by their config.json alone: the numbers of parameters that their cards say, and their caches.

Only the fields that count are kept, by the names that each family gives them.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from bnbenv.models.cache import kv_cache
from bnbenv.models.config import read_config
from bnbenv.models.model import Checkpoint, Workload
from bnbenv.models.skeleton import skeleton

SIDES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")


def sides(*numbers: int, **more: Any) -> dict[str, Any]:
    return {**dict(zip(SIDES, numbers, strict=False)), "torch_dtype": "bfloat16", **more}


KNOWN: dict[str, tuple[str, dict[str, Any], int, int]] = {
    # class, config.json, parameters, elements of the cache for a token
    "Llama-3.1-8B": (
        "LlamaForCausalLM",
        sides(4096, 14336, 32, 32, num_key_value_heads=8, vocab_size=128256, tie_word_embeddings=False),
        *(8_030_261_248, 2 * 32 * 8 * 128),
    ),
    "Qwen2.5-7B": (
        "Qwen2ForCausalLM",
        sides(3584, 18944, 28, 28, num_key_value_heads=4, vocab_size=152064, tie_word_embeddings=False),
        *(7_615_616_512, 2 * 28 * 4 * 128),
    ),
    "Mistral-7B": (
        "MistralForCausalLM",
        sides(4096, 14336, 32, 32, num_key_value_heads=8, vocab_size=32000, tie_word_embeddings=False),
        *(7_241_732_096, 2 * 32 * 8 * 128),
    ),
    "Gemma-2-9B": (
        "Gemma2ForCausalLM",
        sides(3584, 14336, 42, 16, num_key_value_heads=8, head_dim=256, vocab_size=256000),
        *(9_241_705_984, 2 * 42 * 8 * 256),
    ),
    "Phi-3-mini": (
        "Phi3ForCausalLM",
        sides(3072, 8192, 32, 32, num_key_value_heads=32, vocab_size=32064, tie_word_embeddings=False),
        *(3_821_079_552, 2 * 32 * 3072),
    ),
    "GPT-2": (
        "GPT2LMHeadModel",
        {"n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 1024, "vocab_size": 50257},
        *(124_439_808, 2 * 12 * 768),
    ),
    "OPT-6.7B": (
        "OPTForCausalLM",
        {
            **{"hidden_size": 4096, "ffn_dim": 16384, "num_hidden_layers": 32, "num_attention_heads": 32},
            **{"max_position_embeddings": 2048, "vocab_size": 50272, "word_embed_proj_dim": 4096},
        },
        *(6_658_473_984, 2 * 32 * 4096),
    ),
    "GPT-NeoX-20B": (
        "GPTNeoXForCausalLM",
        sides(6144, 24576, 44, 64, vocab_size=50432, tie_word_embeddings=False),
        *(20_554_567_680, 2 * 44 * 6144),
    ),
    "BLOOM-7B1": (  # its width is n_embed, which no map of transformers' classes names
        "BloomForCausalLM",
        {"n_embed": 4096, "n_layer": 30, "num_attention_heads": 32, "vocab_size": 250880},
        *(7_069_016_064, 2 * 30 * 4096),
    ),
    "MPT-7B": (
        "MptForCausalLM",
        {"d_model": 4096, "n_heads": 32, "n_layers": 32, "expansion_ratio": 4, "vocab_size": 50432},
        *(6_649_286_656, 2 * 32 * 4096),
    ),
}
TYPES = {"GPT2LMHeadModel": "gpt2", "GPTNeoXForCausalLM": "gpt_neox"}


@pytest.mark.parametrize("name", KNOWN)
def test_a_well_known_model_has_the_size_that_its_card_says(name: str) -> None:
    architecture, fields, parameters, cached = KNOWN[name]
    model_type = TYPES.get(architecture, architecture.removesuffix("ForCausalLM").lower())
    document = {"architectures": [architecture], "model_type": model_type, **fields}
    config = read_config(json.dumps(document), "config.json")
    found = skeleton(Checkpoint("model", config, None), None)
    assert sum(one.count * one.elements for one in found.parameters if one.kind != "buffer") == parameters
    assert kv_cache(config, Workload(context=1000), "BF16") == 1000 * cached * 2
