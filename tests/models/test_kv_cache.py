"""The bytes of the KV cache, against what transformers held."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bnbenv.models.cache import kv_cache
from bnbenv.models.config import read_config
from bnbenv.models.model import CheckpointError, Workload

ROOT = Path(__file__).parents[2]
EVIDENCE = sorted((ROOT / "matrices" / "evidence").glob("kv-cache-*.jsonl"))

# Types whose caches are of a kind of their own: they are counted as keys and values of all heads, or not at all.
OTHERS = {
    *("dots3_note_text", "inkling_text", "mllama", "zamba2", "zaya", "recurrent_gemma", "cpmant", "deepseek_v4"),
    *("bigbird_pegasus", "hy_v4", "inkling2_text", "mimo_v2_flash", "mvp", "openai-gpt", "prophetnet"),
    # Encoders keep nothing unless they are told to be decoders.
    *("bert", "bert-generation", "camembert", "data2vec-text", "electra", "ernie", "roberta", "roberta-prelayernorm"),
    *("roc_bert", "xlm-roberta", "xlm-roberta-xl"),
}


def predicted(row: dict[str, Any], tokens: int, written: bool = False) -> int:
    config = read_config(json.dumps(row["config"]), "config.json")
    workload = Workload(context=tokens, batch=row["batch"])
    return kv_cache(config, workload, row["dtype"], row["transformers"], written)


def rows(path: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return [row for row in found if "bytes" in row]


@pytest.mark.parametrize("path", EVIDENCE, ids=lambda path: path.stem)
def test_every_class_that_was_measured_is_foretold_to_the_byte(path: Path) -> None:
    found = [row for row in rows(path) if row["model"] not in OTHERS]
    wrong = {row["model"]: row["bytes"] for row in found if predicted(row, row["context"]) != row["bytes"]}
    assert wrong == {}
    after = [row for row in found if "written" in row]
    wrong = {
        row["model"]: row["written"] for row in after if predicted(row, row["context"] + 1, True) != row["written"]
    }
    assert wrong == {}
    assert after


@pytest.mark.real
@pytest.mark.xdist_group("models-5")
def test_real_models_hold_what_is_foretold(models_5: Any) -> None:
    names = ("llama", "qwen2", "mistral", "gemma", "opt", "mixtral")  # mistral has a window of 64
    words = ["--context", "200", *(models_5.zoo / name for name in names)]
    printed = models_5.run(ROOT / "scripts" / "measure_cache.py", *words)
    found = [json.loads(line) for line in printed.splitlines()]
    assert [row["model"] for row in found] == list(names)
    for row in found:
        assert (row["model"], row.get("bytes")) == (row["model"], predicted(row, 200)), row
        assert row["written"] == predicted(row, 201, written=True)
        assert (row["written"] < row["bytes"]) == (row["model"] == "mistral")


def test_a_latent_is_cached_since_transformers_5() -> None:
    latent = {"kv_lora_rank": 512, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128}
    fields = {"model_type": "deepseek_v3", "num_hidden_layers": 61, "num_attention_heads": 128, **latent}
    config, workload = read_config(json.dumps(fields), "config.json"), Workload(context=1000, batch=1)
    assert kv_cache(config, workload, "BF16", "5.23.0") == 61 * 1000 * 576 * 2
    assert kv_cache(config, workload, "BF16", "4.57.6") == 61 * 1000 * 128 * (192 + 128) * 2


def test_a_config_without_heads_is_refused_by_name() -> None:
    with pytest.raises(CheckpointError, match="attention heads"):
        kv_cache(read_config('{"num_hidden_layers": 2}', "config.json"), Workload(), "BF16")


@pytest.mark.parametrize(
    "odd",
    [
        {"per_layer_config": {"9" * 5000: {"head_dim": 8}, "²": {"head_dim": 8}}},
        {"per_layer_config": {"0": {"kv_lora_rank": 4, "qk_rope_head_dim": "x"}}},
        {"global_head_dim": 64, "num_global_key_value_heads": "x" * 1000},
    ],
)
def test_what_is_no_number_counts_as_left_out(odd: dict[str, Any]) -> None:
    fields = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 256, **odd}
    found = kv_cache(read_config(json.dumps(fields), "config.json"), Workload(context=10, batch=1), "BF16")
    assert 0 < found <= 2 * 10 * 2 * 256 * 2


def test_more_layers_than_a_model_has_are_refused_before_they_are_made() -> None:
    fields = {"num_hidden_layers": 10**11, "num_attention_heads": 4, "hidden_size": 256}
    with pytest.raises(CheckpointError, match="number of layers"):
        kv_cache(read_config(json.dumps(fields), "config.json"), Workload(), "BF16")
