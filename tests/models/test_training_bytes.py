"""What training adapters takes, against a step of training on the CPU with real peft."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bnbenv.models.config import read_config
from bnbenv.models.model import Parameter, Skeleton, Training, Workload
from bnbenv.models.training import training

ROOT = Path(__file__).parents[2]
EVIDENCE = sorted((ROOT / "matrices" / "evidence").glob("training-cpu-*.jsonl"))


def predicted(row: dict[str, Any]) -> Training:
    parameters = tuple(
        Parameter(name, tuple(shape), kind, converted=converted, parts=2 if kind == "expert" else 1)
        for name, shape, kind, converted in row["parameters"]
    )
    workload = Workload(
        context=row["context"],
        batch=row["batch"],
        rank=row["rank"],
        optimizer=row["optimizer"],
        checkpointing=row["checkpointing"],
    )
    skeleton = Skeleton(parameters, row["versions"]["transformers"], "measured")
    config = read_config(json.dumps(row["config"]), "config.json")
    return training(skeleton, config, row["quantization"], "BF16", workload)


def check(row: dict[str, Any]) -> None:
    found = predicted(row)
    counted = (found.trained, found.adapters, found.gradients, found.optimizer, found.casts)
    measured = (row["trained"], row["adapters"], row["gradients"], row["optimizer_bytes"], row["prepared"])
    assert counted == measured
    fixed = row["weights"] + found.total - found.activations
    assert fixed + found.activations == pytest.approx(fixed + row["activations"], rel=0.1)
    assert found.activations == pytest.approx(row["activations"], rel=0.1)


@pytest.mark.parametrize("path", EVIDENCE, ids=lambda path: path.stem)
def test_what_was_measured_is_foretold_within_a_tenth(path: Path) -> None:
    found = [json.loads(line) for line in path.read_text().splitlines()]
    wrong = []
    for row in found:
        try:
            check(row)
        except AssertionError as error:
            wrong.append((row["model"], row["quantization"], row["checkpointing"], str(error)))
    assert wrong == []
    assert len(found) > 12


@pytest.mark.real
@pytest.mark.xdist_group("models-5")
def test_a_real_step_takes_what_is_foretold(models_5: Any) -> None:
    words = [models_5.zoo / "llama", "--context", "256", "--optimizer", "adamw-8bit"]
    printed = models_5.run(ROOT / "scripts" / "measure_training.py", *words)
    found = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    assert [row["checkpointing"] for row in found] == [True, False]
    for row in found:
        check(row)


LINEARS = {"q_proj": (64, 64), "k_proj": (32, 64), "v_proj": (32, 64), "o_proj": (64, 64)}
SKELETON = Skeleton(
    (
        Parameter("model.embed_tokens.weight", (1000, 64), "embedding"),
        *(Parameter(f"model.layers.0.self_attn.{n}.weight", s, "linear", True) for n, s in LINEARS.items()),
        Parameter("model.norm.weight", (64,), "norm"),
        Parameter("lm_head.weight", (1000, 64), "output"),
    ),
    "5.23.0",
    "a test",
)


def test_targets_choose_what_is_trained() -> None:
    config = read_config('{"model_type": "llama"}', "config.json")

    def trained(**changes: Any) -> int:
        return training(SKELETON, config, "nf4", "BF16", Workload(context=8, rank=4, **changes)).trained

    assert trained() == 4 * (128 + 96 + 96 + 128)
    assert trained(targets=("q_proj", "v_proj")) == 4 * (128 + 96)
    assert trained(targets=("lm_head",)) == 4 * 1064


def test_what_is_not_quantized_becomes_float32_unless_nothing_is() -> None:
    config = read_config('{"model_type": "llama"}', "config.json")
    casts = {
        kind: training(SKELETON, config, kind, dtype, Workload(context=8)).casts
        for kind, dtype in (("nf4", "BF16"), ("int8", "F32"), ("none", "BF16"))
    }
    assert casts == {"nf4": 2 * (2 * 64_000 + 64), "int8": 0, "none": 0}


def test_a_cap_on_the_logits_is_one_more_copy_and_nested_statistics_are_decoded_too() -> None:
    def activations(skeleton: Skeleton, kind: Any = "nf4", **fields: Any) -> int:
        config = read_config(json.dumps({"model_type": "llama", **fields}), "config.json")
        return training(skeleton, config, kind, "BF16", Workload(context=8, rank=4)).activations

    assert activations(SKELETON, final_logit_softcapping=30.0) - activations(SKELETON) == 8 * 1000 * 4
    layers = tuple(one for one in SKELETON.parameters if one.kind == "linear")
    alone = Skeleton(layers, "5.23.0", "a test")
    assert activations(alone, "nf4-double") - activations(alone) == 64 * 64 // 16


def test_experts_of_classes_that_peft_knows_are_trained_in_place_of_what_has_their_names() -> None:
    """peft 0.21.2, all-linear, transformers 5.23.0: DeepSeek-V3's shared experts get no adapters, Qwen2-MoE's do."""
    mlp = "model.layers.0.mlp"
    parameters = (
        Parameter(f"{mlp}.experts.down_proj", (4, 64, 32), "expert", parts=4),
        Parameter(f"{mlp}.gate.weight", (4, 64), "other"),
        Parameter(f"{mlp}.shared_experts.down_proj.weight", (64, 32), "linear", True),
    )
    trained = {"deepseek_v3": 2 * 4 * 96 + 2 * 68, "qwen2_moe": 2 * 96}
    for kind, wanted in trained.items():
        config = read_config(json.dumps({"model_type": kind}), "config.json")
        skeleton = Skeleton(parameters, "5.23.0", "a test")
        assert training(skeleton, config, "nf4", "BF16", Workload(context=8, rank=2)).trained == wanted
