"""The script that quantizes a checkpoint in its environment: bit for bit what loading on the fly gives."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import bnbenv.models.prequantize as package

pytestmark = pytest.mark.real

HERE = Path(__file__).parent
STANDALONE = Path(package.__file__).parent / "standalone"

# Each model and each kind of quantization at least once with each major release.
CASES_5 = (
    *("llama-sharded:nf4:double", "qwen2:nf4", "gemma:fp4", "opt:int8", "gpt2:nf4:double", "mixtral:nf4:double"),
    "llama-biases:nf4:bfloat16:skip=lm_head+down_proj:compute=float16",
)
CASES_4 = (
    *("llama-f32:nf4:double", "llama-biases:nf4", "qwen2:int8", "gpt2:int8", "mixtral:fp4"),
    *("mistral:nf4:double:bfloat16", "opt:int8:skip=lm_head+fc1"),
)
# Of a quantized checkpoint transformers expects its experts one by one, and save_pretrained writes them as one tensor.
LLAMA_4 = {"architectures": ["Llama4ForCausalLM"], "model_type": "llama4_text", "num_local_experts": 2}


def bits(release: Any, folder: Path, cases: tuple[str, ...]) -> list[dict[str, Any]]:
    printed = release.run(HERE / "bits.py", STANDALONE, release.zoo, folder, *cases)
    return [json.loads(line) for line in printed.splitlines() if line.startswith("{")]


@pytest.mark.xdist_group("models-5")
def test_transformers_5_loads_the_very_bits(models_5: Any, tmp_path: Path) -> None:
    found = bits(models_5, tmp_path, CASES_5)
    for case in found:
        same = {"loaded": [], "logits": True, "files": [], "config": True}
        assert {name: case.get(name) for name in same} == same, case
        assert case["quantized"] == case["converted"] > 0
    mixtral = next(case for case in found if case["case"] == "mixtral:nf4:double")
    assert (mixtral["converted"], mixtral["warned"]) == (8, ["experts-not-converted"])


@pytest.mark.xdist_group("models-4")
def test_transformers_4_loads_the_very_bits(models_4: Any, tmp_path: Path) -> None:
    found = bits(models_4, tmp_path, CASES_4)
    for case in found:
        same = {"loaded": [], "logits": True, "files": [], "config": True}
        assert {name: case.get(name) for name in same} == same, case
        assert case["dtype"] == ("bfloat16" if case["case"].endswith("bfloat16") else "float16")
    mixtral = next(case for case in found if case["case"] == "mixtral:fp4")
    assert (mixtral["converted"], mixtral["warned"]) == (34, ["experts-converted"])  # and the routers


def changed(model: Path, folder: Path, config: dict[str, Any] | None = None) -> Path:
    shutil.copytree(model, folder)
    if config is not None:
        text = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**text, **config}))
    return folder


def patched(model: Path, folder: Path, name: str, *, drop: bool = False, value: bytes = b"") -> Path:
    """A checkpoint without a tensor, or with other first bytes of it."""
    file = changed(model, folder) / "model.safetensors"
    data = bytearray(file.read_bytes())
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    begin = 8 + length + header[name]["data_offsets"][0]
    data[begin : begin + len(value)] = value
    if drop:
        header["unknown." + name] = header.pop(name)
        text = json.dumps(header).encode()
        data[: 8 + length] = struct.pack("<Q", len(text)) + text
    file.write_bytes(data)
    return folder


@pytest.mark.xdist_group("models-5")
def test_goes_on_after_a_cut_and_refuses_what_would_be_nonsense(models_5: Any, tmp_path: Path) -> None:
    model_zoo = models_5.zoo
    llama, projection = model_zoo / "llama", "model.layers.1.mlp.up_proj.weight"
    cut = changed(llama, tmp_path / "cut")
    (cut / "model.safetensors").write_bytes((llama / "model.safetensors").read_bytes()[:-1000])
    whole = {"model": str(model_zoo / "llama-sharded"), "shard_bytes": 300_000}
    shards = [str(tmp_path / "whole" / f"model-0000{index}-of-00005.safetensors") for index in (1, 2, 4)]
    jobs: dict[str, dict[str, Any]] = {
        "whole": whole,
        "resumed": {**whole, "keep": shards},
        "other-plan": {**whole, "keep": shards, "shard_bytes": 10**9},
        "unreadable-checkpoint": {"model": str(cut)},
        "quantized-already": {
            "model": str(changed(llama, tmp_path / "q", {"quantization_config": {"quant_method": "gptq"}}))
        },
        "unknown-architecture": {"model": str(changed(llama, tmp_path / "u", {"architectures": ["NoSuchModel"]}))},
        "remote-code": {
            "model": str(
                changed(
                    llama,
                    tmp_path / "r",
                    {"architectures": ["MyModel"], "auto_map": {"AutoModelForCausalLM": "mine.MyModel"}},
                )
            )
        },
        "wrong-shape": {"model": str(changed(llama, tmp_path / "s", {"intermediate_size": 448}))},
        "missing-tensors": {"model": str(patched(llama, tmp_path / "m", projection, drop=True))},
        "not-finite": {"model": str(patched(llama, tmp_path / "n", projection, value=b"\x00\x00\xc0\x7f"))},
        "not-loadable": {"model": str(changed(llama, tmp_path / "l", LLAMA_4))},
        "no-device": {"model": str(llama), "device": "cuda:7"},
    }
    for name, job in jobs.items():
        job["out"] = str(tmp_path / ("whole" if name == "whole" else f"out-{name}"))
    printed = models_5.run(HERE / "jobs.py", STANDALONE, stdin=json.dumps(list(jobs.values())))
    events = dict(zip(jobs, json.loads(printed.splitlines()[-1]), strict=True))

    first, again = events.pop("whole"), events.pop("resumed")
    assert first[-1]["event"] == again[-1]["event"] == "done", again[-1]
    assert [event["name"] for event in first if event["event"] == "shard"] == first[-1]["files"][:5]
    assert [event["name"][:11] for event in again if event["event"] == "shard"] == ["model-00003", "model-00005"]
    for name in first[-1]["files"]:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "out-resumed" / name).read_bytes()
    for code, told in events.items():
        assert told[-1]["event"] == "error", told[-1]
        assert told[-1]["code"] == code, told[-1]
        assert not list((tmp_path / f"out-{code}").glob("*.part"))
    assert projection in events["missing-tensors"][-1]["message"]
    assert projection in events["not-finite"][-1]["message"]
    assert "SequentialLlama4TextExperts" in events["not-loadable"][-1]["message"]


def test_a_job_that_cannot_be_read_is_told_without_any_package() -> None:
    script = STANDALONE.with_name("script.py")
    done = subprocess.run([sys.executable, script], input="{", capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, json.loads(done.stdout)["code"]) == (1, "unreadable-job")


@pytest.mark.skipif(sys.platform != "linux", reason="the most memory that a process had is read from Linux' /proc")
@pytest.mark.parametrize("quant", ["nf4", "int8"])
@pytest.mark.xdist_group("models-5")
def test_needs_no_more_memory_than_the_largest_tensor(quant: str, models_5: Any, tmp_path: Path) -> None:
    printed = models_5.run(HERE / "most_memory.py", STANDALONE, models_5.zoo / "llama", tmp_path, quant)
    found = json.loads(printed.splitlines()[-1])
    assert found["event"] == "done"
    assert found["job"] < 1.2 * found["alone"], found
