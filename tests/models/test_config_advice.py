"""``bnbenv config``: what is chosen for a machine, a model and a release of transformers, and the code that says it."""

from __future__ import annotations

import ast
import itertools
import json
from typing import Any

import pytest

from bnbenv.errors import UsageError
from bnbenv.models.cautions import Installed
from bnbenv.models.config import read_config
from bnbenv.models.devices import Devices
from bnbenv.models.loading import Wanted, document
from bnbenv.models.model import QUANTIZATIONS, Checkpoint, Device, Parameter, Skeleton, Tensor

GIB = 1 << 30
CPU = Device(None, "main memory", 64 * GIB, 32 * GIB)
NO_GPU = Devices((), CPU, "no NVIDIA driver is here")
HERE = Installed("environment bnb", "0.50.2", "1.15.0", "0.21.2")
LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "bfloat16"}
# Sizes that the KV cache is counted by.
SIZES = {"hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}


def gpus(*capabilities: str | None, free: int = 24 * GIB) -> Devices:
    found = (Device(at, f"GPU of {one}", free, free, f"GPU-{at}", one) for at, one in enumerate(capabilities))
    return Devices(tuple(found), CPU)


def checkpoint(fields: dict[str, Any] | None = None, **changes: Any) -> Checkpoint:
    text = json.dumps({**LLAMA, **SIZES, **(fields or {}), **changes})
    config = read_config(text, "config.json")
    return Checkpoint("model", config, (Tensor("x", config.dtype or "F32", (4, 4), "model.safetensors", 0, 32),))


def asked(
    devices: Devices = NO_GPU,
    model: Checkpoint | None = None,
    transformers: str | None = "5.23.0",
    skeleton: Skeleton | None = None,
    **wanted: Any,
) -> dict[str, Any]:
    chosen = Wanted(**{"source": "/models/llama", **wanted})
    return document(model or checkpoint(), skeleton, devices, chosen, transformers, HERE)


def notes(found: dict[str, Any]) -> str:
    return "\n".join(note["because"] for note in found["notes"])


@pytest.mark.parametrize(
    ("devices", "changes", "dtype", "says"),
    [
        (gpus("9.0"), {}, "bfloat16", "this GPU has bfloat16"),
        (gpus("8.0", "12.0"), {}, "bfloat16", "every GPU here has bfloat16"),
        (gpus("7.5"), {"dtype": "float16"}, "float16", "has no bfloat16"),
        (gpus("7.0"), {"model_type": "gemma3_text"}, "float32", "overflow in float16"),
        (gpus("9.0"), {"model_type": "gemma3_text"}, "bfloat16", "nothing overflows"),
        (gpus("8.6", "6.1"), {}, "float16", "GPU of 6.1 (compute capability 6.1)"),
        (gpus("8.6", None), {}, "float16", "is not known"),
        (NO_GPU, {}, "float32", "no instructions for 16-bit numbers"),
    ],
)
def test_the_type_follows_from_the_oldest_gpu_and_the_family(
    devices: Devices, changes: dict[str, Any], dtype: str, says: str
) -> None:
    found = asked(devices, checkpoint(changes))
    assert (found["settings"]["dtype"], found["settings"]["compute_dtype"]) == (dtype, dtype)
    (reason,) = (one for one in found["reasons"] if one["line"] == f"bnb_4bit_compute_dtype=torch.{dtype}")
    assert says in reason["because"] and reason["source"]


def test_a_cpu_that_multiplies_bfloat16_gets_it() -> None:
    assert asked(cpu_bf16=True)["settings"]["dtype"] == "bfloat16"
    assert asked(gpus("7.5"), cpu_bf16=True)["settings"]["dtype"] == "float16"


def test_float16_for_a_model_of_bfloat16_comes_with_a_warning() -> None:
    found = asked(gpus("7.5"), checkpoint(model_type="qwen2"))
    assert "trained in bfloat16" in notes(found) and "others saw it with qwen2" in notes(found)
    assert "trained in bfloat16" not in notes(asked(gpus("7.5"), checkpoint(dtype="float16")))
    assert "CUDA_VISIBLE_DEVICES=1" in notes(asked(gpus("7.5", "8.9")))


@pytest.mark.parametrize(
    ("release", "line"),
    [
        ("4.30.0", "torch_dtype=torch.bfloat16"),
        ("4.55.4", "torch_dtype=torch.bfloat16"),
        ("4.56.0", "dtype=torch.bfloat16"),
        ("5.23.0", "dtype=torch.bfloat16"),
        (None, "dtype=torch.bfloat16"),
    ],
)
def test_names_are_those_of_the_release(release: str | None, line: str) -> None:
    found = asked(gpus("9.0"), transformers=release)
    assert f"    {line},\n" in found["code"]
    assert ("no environment with transformers" in notes(found)) == (release is None)


def test_what_a_release_lacks_is_not_printed_or_refused() -> None:
    assert "gradient_checkpointing_kwargs" not in asked(gpus("9.0"), transformers="4.34.0", train=True)["code"]
    assert "gradient_checkpointing_kwargs" in asked(gpus("9.0"), transformers="4.35.0", train=True)["code"]
    with pytest.raises(UsageError, match="quantizes on a GPU only"):
        asked(transformers="4.50.3")
    with pytest.raises(UsageError, match="no bnb_4bit_quant_storage"):
        asked(gpus("9.0"), transformers="4.38.2", train=True, fsdp=True)


def test_fsdp_stores_what_it_can_shard_and_places_nothing() -> None:
    found = asked(gpus("8.0", "8.0"), train=True, fsdp=True)
    assert found["settings"]["quant_storage"] == found["settings"]["dtype"] == "bfloat16"
    assert found["settings"]["device_map"] is None and "prepare_model_for_kbit_training(" not in found["code"]
    assert found["settings"]["optimizer"] == "adamw_torch", "what is paged cannot be sharded"
    own = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_storage": "bfloat16"}
    there = asked(gpus("8.0", "8.0"), checkpoint(quantization_config=own), train=True, fsdp=True)
    assert there["settings"]["quant_storage"] is None and "BitsAndBytesConfig(" not in there["code"]
    for wanted, because in (({"quantization": "int8"}, "are integers"), ({}, "no GPU can be used here")):
        with pytest.raises(UsageError, match=because):
            asked(gpus("8.0") if wanted else NO_GPU, train=True, fsdp=True, **wanted)


def test_gpus_get_what_is_free_less_headroom_and_one_that_is_enough_is_taken_alone() -> None:
    small = Skeleton((Parameter("a.weight", (256, 256), "linear", True, count=1000),), "5.23.0", "test")
    large = Skeleton((Parameter("a.weight", (4096, 4096), "linear", True, count=4500),), "5.23.0", "test")
    both = asked(gpus("8.9", "8.9"))["settings"]
    assert set(both["max_memory"]) == {"0", "1"} and all(size < 23 * GIB for size in both["max_memory"].values())
    assert set(asked(gpus("8.9", "8.9"), skeleton=small)["settings"]["max_memory"]) == {"0"}
    spread = asked(gpus("8.9", "8.9"), skeleton=large)["settings"]
    assert set(spread["max_memory"]) == {"0", "1"} and spread["device_map"] == '"auto"'
    # 70 billion parameters on 40 GiB beside two slices, which that process does not see
    huge = Skeleton((Parameter("a.weight", (8192, 8192), "linear", True, count=1020),), "5.23.0", "test")
    beside = tuple(Device(1, "slice", 20 * GIB, 20 * GIB, f"MIG-{at}", "8.0") for at in range(2))
    assert "more than there is room for" in notes(
        asked(Devices((*gpus("8.0", free=33 * GIB).gpus, *beside), CPU), skeleton=huge)
    )
    assert "more than there is room for" not in notes(asked(gpus("8.0", free=48 * GIB), skeleton=huge))
    slices = Devices(tuple(Device(0, "slice", GIB, GIB, f"MIG-{at}", "9.0") for at in range(2)), CPU)
    assert set(asked(slices)["settings"]["max_memory"]) == {"0"}, "a process can use one slice"
    sizes = [Device(0, "slice", size * GIB, size * GIB, f"MIG-{size}", "9.0") for size in (3, 20)]
    large = Skeleton((Parameter("model.layers.0.x.weight", (1 << 20, 4 << 10), "linear", True),), "5.23.0", "measured")
    for kind in ("none", "nf4"):  # both need more than the smaller one has
        found = asked(Devices(tuple(sizes), CPU), skeleton=large, quantization=kind)
        assert "CUDA_VISIBLE_DEVICES=MIG-20" in notes(found) and '{"": 1}' not in found["code"]
        assert [(gpu["index"], gpu["free"]) for gpu in found["gpus"]] == [(0, 20 * GIB)], "torch calls it 0"


def test_training_is_data_parallel_and_says_why() -> None:
    found = asked(gpus("8.0", "8.0"), train=True)
    assert 'os.environ.get("LOCAL_RANK", 0)' in found["settings"]["device_map"]
    assert "naive model parallelism" in found["code"].replace("\n    # ", " ")
    assert found["settings"]["optimizer"] == "paged_adamw_8bit"
    assert asked(train=True)["settings"]["optimizer"] == "adamw_torch"
    assert "train before you evaluate" in notes(asked(train=True, cpu_bf16=True))


def test_a_list_of_ones_own_names_the_output_layer_too() -> None:
    head = Skeleton((Parameter("score.weight", (9, 256), "output"),), "5.23.0", "test")
    assert asked(skip=("mlp.gate",))["settings"]["skip_modules"] == ["lm_head", "mlp.gate"]
    found = asked(skip=("mlp.gate",), skeleton=head)
    assert "llm_int8_skip_modules=['score', 'mlp.gate']," in found["code"]


def test_experts_that_stay_and_rows_that_this_cpu_cannot_compute_are_told() -> None:
    experts = Parameter("experts.gate_up_proj", (4, 512, 256), "expert", kept="no linear layer")
    ragged = Parameter("model.down_proj.weight", (256, 416), "linear", True)
    found = asked(skeleton=Skeleton((experts, ragged), "5.23.0", "test"), cpu_bf16=True)
    assert "1.0 MB of" in notes(found) and "are not quantized" in notes(found)
    assert "--skip-modules down_proj" in notes(found)


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq"])
def test_what_is_quantized_already_gets_no_second_configuration(method: str) -> None:
    four = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": "bfloat16"}
    model = checkpoint(quantization_config={"quant_method": method, **(four if method == "bitsandbytes" else {})})
    found = asked(gpus("7.5"), model)
    assert "BitsAndBytesConfig(" not in found["code"] and "dtype=torch.bfloat16," in found["code"]
    told = "computes in bfloat16" if method == "bitsandbytes" else "bnbenv add gptq"
    assert told in notes(found)
    with pytest.raises(UsageError, match="quantized already"):
        asked(gpus("7.5"), model, quantization="int8")


def test_code_of_the_checkpoint_runs_only_where_it_was_asked_for() -> None:
    model = checkpoint(auto_map={"AutoModelForCausalLM": "modeling.Own"}, architectures=["Own"])
    assert "trust_remote_code" not in asked(model=model)["code"].replace("--trust-remote-code", "")
    assert "which is not run" in notes(asked(model=model))
    assert "    trust_remote_code=True,\n" in asked(model=model, remote_code=True)["code"]


@pytest.mark.parametrize("release", ["4.34.0", "4.57.6", "5.23.0"])
def test_every_code_is_python_with_a_reason_for_each_line(release: str) -> None:
    for kind, train, fsdp in itertools.product(QUANTIZATIONS, (False, True), (False, True)):
        if fsdp and (not train or kind == "int8" or release == "4.34.0"):
            continue
        found = asked(gpus("7.5", "8.0"), transformers=release, quantization=kind, train=train, fsdp=fsdp)
        tree = ast.parse(found["code"])
        used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        names = {
            alias.name for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names
        }
        made = {target.id for node in tree.body if isinstance(node, ast.Assign) for target in node.targets}
        assert used <= names | made | {"int"}, "nothing in it is undefined"
        assert names <= used, "nothing is imported in vain"
        for reason in found["reasons"]:
            assert reason["line"] in found["code"] and reason["because"] and reason["source"]


@pytest.mark.parametrize(
    "name",
    [
        '/models/it\'s "quoted"',
        "C:\\new\\table",
        "/a\nimport os; os._exit(3)\n",
        "/\x1b[31m/\udcff/\u2028print(1)",
        "coding: utf-7",
        "'''\"\"\"",
    ],
)
def test_names_of_others_are_literals_and_never_code(name: str) -> None:
    hostile = f"{name}\nraise SystemExit(3)"
    devices = Devices((Device(0, hostile, GIB, GIB, "GPU-0", "7.0"),), CPU)
    model = checkpoint(architectures=[name], model_type=hostile)
    where = Installed(hostile, "0.50.2", "1.15.0", None)
    wanted = Wanted(source=name, train=True, skip=(name,), revision=name)
    text = document(model, None, devices, wanted, "5.23.0", where)["code"]
    raw = text.encode("ascii", "backslashreplace")  # an encoding that a comment chose would show here
    tree = ast.parse(raw)
    (given,) = (
        one.value for one in tree.body if isinstance(one, ast.Assign) and ast.unparse(one.targets[0]) == "model_id"
    )
    assert ast.literal_eval(given) == name
    assert [type(one).__name__ for one in tree.body] == ["Import", "Import", "ImportFrom", "ImportFrom"] + [
        "Assign"
    ] * 6
    assert "AutoModelForCausalLM.from_pretrained(" in text
