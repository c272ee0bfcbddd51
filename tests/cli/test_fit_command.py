"""``bnbenv fit``: the answer, what it rests on, and that what it offers is so."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from bnbenv.cli import parser_of
from bnbenv.cli.render import fit, fitpicture

GIB = 1 << 30
LLAMA = {
    **{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "bfloat16", "vocab_size": 128256},
    **{"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32},
    **{"num_key_value_heads": 8, "max_position_embeddings": 131072, "tie_word_embeddings": False},
}
HOSTS = Path(__file__).parent.parent / "hosts"


@pytest.fixture
def model(tmp_path: Path) -> Any:
    """``model(hidden_size=8192)``: a folder with a config.json alone."""

    def make(name: str = "model", **changes: Any) -> str:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps({**LLAMA, **changes}))
        return str(folder)

    return make


def setting(document: dict[str, Any], name: str = "nf4-double") -> dict[str, Any]:
    found: dict[str, Any] = next(one for one in document["settings"] if one["quantization"] == name)
    return found


def test_the_answer_for_recorded_gpus(bnbenv: Any, model: Any, faults: Any) -> None:
    host = str(HOSTS / "linux-x86_64__580.65.06__h200-sm90" / "facts.json")
    ran = bnbenv("fit", model(), "--facts", host, "--json")
    assert (ran.code, faults(ran.document)) == (0, [])
    document = ran.document
    assert document["answer"] == "fits"
    assert [(gpu["index"], gpu["free"], gpu["total"]) for gpu in document["gpus"]] == [(0, None, 150754820096)]
    # 6,979,321,856 elements in linear layers: half a byte each and a byte for 64; 1,050,939,392 others of two bytes.
    weights = setting(document)["weight_bytes"]
    assert abs(weights - (6979321856 * (0.5 + 1 / 64 + 4 / 16384) + 2 * 1050939392)) < 0.001 * weights
    assert setting(document, "none")["weight_bytes"] > 3.9 * setting(document, "nf4")["weight_bytes"] - 7.5e9
    assert setting(document)["kv_cache_bytes"] == 4096 * 32 * 2 * 8 * 128 * 2
    for one in document["settings"]:
        assert one["weight_bytes"] == sum(one["parts"].values()) <= one["load_peak_bytes"]
    text = bnbenv("fit", model(), "--facts", host).out
    assert text.startswith("fits on GPU 0: nf4-double, for 4096 tokens\n")
    assert text.splitlines()[-1].startswith("next: bnbenv config ")
    drawn = fit.render({**document, "notes": []}, blocks=True)
    signs = [line.split(", ") for line in drawn.splitlines() if any(sign in line[:3] for sign in fitpicture.BLOCKS)]
    used = [part.split()[0] for line in signs for part in line]
    assert len(used) == len(set(used)) == 6, "told apart without colour"
    heard = bnbenv("fit", model(), "--facts", host, BNBENV_PROGRESS="lines").out
    assert "[pW" in text and "[pW" not in heard


def test_what_families_call_otherwise_and_what_stays_as_it_is(bnbenv: Any, model: Any, tmp_path: Path) -> None:
    names = {**dict.fromkeys(("hidden_size", "max_position_embeddings", "num_hidden_layers"), None), "n_embd": 768}
    counts = {"n_layer": 12, "n_head": 12, "vocab_size": 50257, "tie_word_embeddings": True}
    gpt2 = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_positions": 1024, **names, **counts}
    assert bnbenv("fit", model("gpt2", **gpt2), "--free", "20GB").out.startswith(
        "fits on the CPU: nf4-double, for 1024"
    )
    assert (
        "for 1024 tokens at most; 2048"
        in bnbenv("fit", model("gpt2", **gpt2), "--free", "20GB", "--context", "2048").out
    )
    # Falcon's layers are of a class of its own, which transformers 5 does not hand over.
    folder = Path(model("falcon", architectures=["FalconForCausalLM"], model_type="falcon", hidden_size=256,
                        num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=None))  # fmt: skip
    layer = {"self_attention.query_key_value": (384, 256), "self_attention.dense": (256, 256),
             "mlp.dense_h_to_4h": (1024, 256), "mlp.dense_4h_to_h": (256, 1024)}  # fmt: skip
    at, header = 0, {}
    for name, (rows, columns) in {
        "word_embeddings": (1000, 256),
        **{f"h.0.{one}": of for one, of in layer.items()},
    }.items():
        header[f"transformer.{name}.weight"] = {
            **{"dtype": "BF16", "shape": [rows, columns], "data_offsets": [at, at + 2 * rows * columns]}
        }
        at += 2 * rows * columns
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(at))
    said = " ".join(bnbenv("fit", str(folder), "--free", "20GB").out.split())
    assert "note: nothing of it is quantized: transformers 5" in said and "transformers<5 quantizes its layers" in said
    assert "Note: nothing of this model is quantized" in bnbenv("config", str(folder)).out
    screen = bnbenv("fit", model(), "--free", "10.4GB").out  # no room for words to the right of the mark
    assert "at the peak of loading 6.5 GB ^\n" in screen
    assert all(len(line) <= 80 for line in screen.splitlines() if str(folder.parent) not in line)  # paths are long


@pytest.mark.skipif(sys.platform != "linux", reason="Linux is missing: NVML's stand-in is built for it")
def test_what_is_free_now_decides(bnbenv: Any, model: Any, nvml_stub: Any) -> None:
    large = model(num_hidden_layers=80, hidden_size=8192, intermediate_size=28672, num_attention_heads=64)

    def fit(*used: int, **more: str) -> Any:
        lines = [f"gpu uuid=GPU-{n} cc=9.0 memory={80 * GIB} used={size * GIB} name=H" for n, size in enumerate(used)]
        ran = bnbenv("fit", large, "--json", **nvml_stub.environment("\n".join([*lines, ""])), **more)
        document = ran.document
        return ran.code, document["answer"], [one["index"] for one in (document["use"] or {})["devices"]], document

    assert fit(60, 10)[:3] == (0, "fits", [1])
    assert fit(60, 10, CUDA_VISIBLE_DEVICES="0")[:2] == (4, "does-not-fit")
    slices = "\n".join(f"slice uuid=MIG-{n} memory={30 * GIB * n} name=S" for n in (1, 2))
    mig = nvml_stub.environment(f"gpu uuid=GPU-0 cc=9.0 memory={120 * GIB} mig=1 name=H\n{slices}\n")
    text = bnbenv("fit", large, **mig).out
    assert text.startswith("fits on the slice MIG-2 of GPU 0: ") and "CUDA_VISIBLE_DEVICES=MIG-2" in text
    code, answer, indices, document = fit(50, 52)
    assert (code, answer, indices) == (0, "fits-with-device-map", [0, 1])
    placed = document["use"]["device_map"]
    layers = [placed[f"model.layers.{n}"] for n in range(80)]
    assert (
        layers == sorted(layers)
        and set(layers) == {0, 1}
        and (placed["model.embed_tokens"], placed["lm_head"]) == (0, 1)
    )
    held = sum(one["weight_bytes"] for one in document["use"]["devices"])
    assert held == setting(document)["weight_bytes"]
    assert all(
        one["weight_bytes"] < gpu["free"] for one, gpu in zip(document["use"]["devices"], document["gpus"], strict=True)
    )


def test_what_it_offers_is_so(bnbenv: Any, model: Any) -> None:
    """The command of the next step is run as it stands, in a shell's words; each of them ends with a fit."""
    for words in (
        ("--quant", "int8", "--free", "9GB"),
        ("--free", "10GB", "--context", "65536"),
        ("--train", "--batch", "8", "--no-checkpointing", "--free", "16GB"),
        ("--train", "--quant", "none", "--batch", "2", "--free", "24GB"),
    ):
        ran = bnbenv("fit", model(), *words)
        assert ran.code == 4 and ran.out.startswith("does not fit into main memory: "), (words, ran.out)
        step = ran.out.splitlines()[-1].removeprefix("next: ")
        assert shlex.split(step)[:2] == ["bnbenv", "fit"], step
        again = bnbenv(*shlex.split(step)[1:])
        assert again.code == 0, (step, again.out)


def test_the_other_commands_take_what_it_says(bnbenv: Any, model: Any) -> None:
    small = ("--quant", "nf4", "--context", "512", "--dtype", "bfloat16")
    before = bnbenv("fit", model(), *small, "--free", "6.9GB")
    assert before.out.startswith("fits on the CPU when pre-quantized, and not otherwise: nf4, for 512 tokens")
    step = before.out.splitlines()[-1].removeprefix("next: ")
    assert step == f"bnbenv prequantize {model()} OUT --quant nf4 --no-double-quant --dtype bfloat16"
    at_once = bnbenv("fit", model(), *small, "--free", "99GB", "--train").out.splitlines()[-1].removeprefix("next: ")
    assert at_once == f"bnbenv config {model()} --quant nf4 --train --context 512"
    for line in (step, at_once):
        _, name, *words = shlex.split(line)
        parser_of(name).parse_args(words)


def test_quantized_already(bnbenv: Any, model: Any, faults: Any) -> None:
    gptq = model(quantization_config={"quant_method": "gptq", "bits": 4})
    ran = bnbenv("fit", gptq, "--json")
    assert (ran.code, ran.document["answer"], faults(ran.document)) == (0, "quantized-already", [])
    assert bnbenv("fit", gptq).out.splitlines()[-1] == "next: bnbenv add gptq"
    four = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
    own = bnbenv(
        "fit", model(quantization_config={"quant_method": "bitsandbytes", **four}), "--free", "99GB", "--json"
    ).document
    (only,) = own["settings"]
    plain = setting(bnbenv("fit", model(), "--free", "99GB", "--json").document)
    assert only["quantization"] == "nf4-double" and only["weight_bytes"] == plain["weight_bytes"]
    assert only["load_peak_bytes"] == plain["prequantized_peak_bytes"] < plain["load_peak_bytes"]
    assert "is quantized already (nf4-double" in own["notes"][0]


def test_the_release_of_transformers_that_loads_it(bnbenv: Any, model: Any, tmp_path: Path) -> None:
    """4 loads in float16 by itself, 5 as config.json says; nothing of that environment is run."""
    site = tmp_path / "env/lib/python3.11/site-packages"
    (site / "transformers-4.57.6.dist-info").mkdir(parents=True)
    (tmp_path / "env/bin").mkdir()
    (tmp_path / "env/bin/python").write_text("#!/bin/false\n")
    shutil.copytree(tmp_path / "env", tmp_path / "bare", ignore=shutil.ignore_patterns("transformers*"))
    ran = bnbenv("fit", model(), "--python", str(tmp_path / "env"), "--free", "99GB", "--json").document
    assert (ran["asked"]["dtype"], ran["basis"]["transformers"][:5]) == ("float16", "4.57.")
    ran = bnbenv("fit", model(), "--free", "99GB", "--json").document
    assert (ran["asked"]["dtype"], ran["basis"]["transformers"][:2]) == ("bfloat16", "5.")
    single = bnbenv("fit", model(dtype="float32"), "--free", "99GB", "--json").document
    assert any("dtype=bfloat16" in note for note in single["notes"])
    mac = str(HOSTS / "macos-aarch64__absent__nogpu" / "facts.json")
    said = bnbenv("fit", model(), "--python", str(tmp_path / "bare"), "--facts", mac, "--free", "99GB").out
    bare = " ".join(said.split())
    assert "judged for this machine's main memory" in bare and "newest release that is known, since " in bare
    assert "is missing in" not in bnbenv("config", model(), "--python", str(tmp_path / "bare")).out
    assert single["settings"][0]["weight_bytes"] > 1.99 * ran["settings"][0]["weight_bytes"]


def test_what_cannot_be_answered(refused: Any, model: Any, tmp_path: Path) -> None:
    refused("fit", "org/name", code=7)
    refused("fit", model(), code=1, step="--free 24GB")  # no GPU, and no /proc/meminfo
    refused("fit", str(tmp_path / "nothing"), code=1)
    refused("fit", model("strange", architectures=["StrangeForCausalLM"], model_type="strange"), code=1, step="--exact")
    assert "names no class" in refused("fit", model("bare", architectures=[], model_type=None), code=1, step="--exact")
    refused("fit", model(), "--context", "0")
    refused("fit", model(), "--context", str(1 << 26), "--batch", "4")
    refused("fit", model(), "--free", "much")
    refused("fit", model(), "--target-modules", "q_proj,,v_proj")
    refused("fit", model(), "--target-modules", "c_attn", step="Name some")
    refused("fit", model(), "--exact", step="bnbenv sync")
    refused("fit", model(), "--python", str(tmp_path / "none"))
    refused("fit", model(), "--env", "other", code=2)
    refused("fit", model(), "--facts", str(tmp_path / "none.json"))


def test_what_device_map_auto_refuses_is_said(bnbenv: Any, model: Any) -> None:
    """It fills 0.9 * 0.9 of what CUDA has free beside its context: for 5.6 GB that is 6.9 GB and 0.5 more."""
    host = str(HOSTS / "linux-x86_64__580.65.06__h200-sm90" / "facts.json")
    said = {free: bnbenv("fit", model(), "--facts", host, "--free", free).out for free in ("7.3GB", "7.6GB")}
    assert all(out.startswith("fits on GPU 0: nf4-double") for out in said.values())
    assert [free for free, out in said.items() if 'device_map="auto" refuses it' in " ".join(out.split())] == ["7.3GB"]
