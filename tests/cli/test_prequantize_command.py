"""``bnbenv prequantize`` refuses before it writes, and says why and what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bnbenv.cli.errors import from_exception

PACKAGES = ("torch-2.13.0+cpu", "transformers-5.23.0", "accelerate-1.15.0", "bitsandbytes-0.50.2", "safetensors-0.8.0")
LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16"}


@pytest.fixture
def python(tmp_path: Path) -> str:
    """An environment with all that is needed, as its folders tell; its Python is none."""
    site = tmp_path / "env" / "lib" / "python3.12" / "site-packages"
    for name in PACKAGES:
        (site / f"{name}.dist-info").mkdir(parents=True)
    (tmp_path / "env" / "bin").mkdir()
    (tmp_path / "env" / "bin" / "python").touch()
    (tmp_path / "env" / "pyvenv.cfg").touch()
    return str(tmp_path / "env")


def model(folder: Path, cut: int = 0, **config: Any) -> str:
    """A checkpoint of one tensor; ``cut`` bytes of its file are missing."""
    folder.mkdir()
    header = json.dumps({"a.weight": {"dtype": "BF16", "shape": [8, 8], "data_offsets": [0, 128]}}).encode()
    data = len(header).to_bytes(8, "little") + header + bytes(128)
    (folder / "model.safetensors").write_bytes(data[: len(data) - cut])
    (folder / "config.json").write_text(json.dumps({**LLAMA, **config}))
    return str(folder)


@pytest.mark.parametrize(
    ("words", "because"),
    [
        (
            ["--shard-size", "5 apples"],
            '--shard-size: expected a size of 100KB or more such as "5GB", found "5 apples"',
        ),
        (["--shard-size", "0GB"], "--shard-size"),
        (["--device", "cuda:x"], "--device: expected auto, cpu or cuda:N"),
        (["--skip-modules", "a b,c"], "--skip-modules"),
        (["--quant", "int8", "--no-double-quant"], "int8 has no such statistics"),
        (["--quant", "gptq"], "--quant"),
        (["--limit", "soon"], "--limit"),
        (["--env", "bnb", "--python", "x"], "--python"),
    ],
)
def test_options_that_make_no_sense(
    words: list[str], because: str, refused: Callable[..., str], tmp_path: Path
) -> None:
    assert because in refused("prequantize", model(tmp_path / "model"), "out", *words)
    assert not (tmp_path / "project" / "out").exists()


def test_checkpoints_of_which_nothing_can_be_made(
    refused: Callable[..., str], tmp_path: Path, python: str, place: Path
) -> None:
    before = sorted(place.iterdir())

    def of(source: str, *words: str, **more: Any) -> str:
        said = refused("prequantize", source, "out", "--python", python, *words, **{"code": 1, **more})
        assert sorted(place.iterdir()) == before, "something was left"
        return said

    assert "truncated" in of(model(tmp_path / "short", cut=1))
    quantized = {"quant_method": "gptq", "bits": 4}
    assert "is quantized already (gptq)" in of(model(tmp_path / "gptq", quantization_config=quantized), step="original")
    own = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    assert "(bitsandbytes)" in of(model(tmp_path / "own", quantization_config=own), step="Load it as it is")
    code = {"architectures": ["OwnForCausalLM"], "auto_map": {"AutoModelForCausalLM": "modeling.OwnForCausalLM"}}
    assert "code of its own" in of(model(tmp_path / "code", model_type="own", **code), step="--trust-remote-code")
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_text(json.dumps(LLAMA))
    assert "no weights" in of(str(bare), step="Download those too")
    (bare / "config.json").write_text(json.dumps({**LLAMA, "quantization_config": quantized}))
    assert "is quantized already (gptq)" in of(str(bare)), "before 30 GB are downloaded for it"
    assert "not on this disk" in of("me/tiny", step="hf download me/tiny")
    assert "not on this disk" in of("me/tiny", "--revision", "v1", step="v1")


def test_environments_that_cannot_do_it(refused: Callable[..., str], tmp_path: Path, python: str) -> None:
    source = model(tmp_path / "model")
    said = refused("prequantize", source, "out", "--python", "nowhere")
    assert "there is no Python" in said
    next(Path(python).glob("lib/*/*/bitsandbytes-*")).rmdir()
    said = refused("prequantize", source, "out", "--python", python, code=1, step="bnbenv sync")
    assert "no bitsandbytes" in said
    assert '"train"' in refused("prequantize", source, "out", "--env", "train")


def test_a_python_that_does_not_start_leaves_nothing(
    refused: Callable[..., str], bnbenv: Callable[..., Any], tmp_path: Path, python: str, place: Path
) -> None:
    before = sorted(place.iterdir())
    given = ("prequantize", model(tmp_path / "model"), "out", "--python", python)
    assert "cannot be started" in refused(*given)
    assert "the model has no layer k_prj to skip" in bnbenv(*given, "--skip-modules", "k_prj").err
    assert sorted(place.iterdir()) == before


def test_what_is_said_of_ctrl_c() -> None:
    said = {name: from_exception(KeyboardInterrupt(), name) for name in ("fit", "config", "prequantize")}
    assert [(said[name].message, said[name].next_step) for name in ("fit", "config")] == [("interrupted", "")] * 2
    assert said["prequantize"].message == "interrupted: what is finished is kept"
    assert "where it stopped" in said["prequantize"].next_step
