"""The command with real models, torch, transformers and bitsandbytes: what it writes loads as it is."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from bnbenv.models.local import read_local
from bnbenv.models.prequantize.inputs import sha256
from bnbenv.models.prequantize.note import read_note

pytestmark = pytest.mark.real

# Decoded weights against those of the source: NF4's mean error on normal values is 0.073 of their deviation. Rows that
# are no whole blocks are left out: on some CPUs bitsandbytes 0.50.2 decodes them wrongly.
LOAD = """
import json, sys, torch, transformers, bitsandbytes as bnb
from safetensors.torch import load_file
transformers.utils.logging.set_verbosity_error()
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1])
layers = {name: one for name, one in model.named_modules() if isinstance(one, bnb.nn.Linear4bit)}
source, errors = load_file(sys.argv[2]), []
for name, layer in layers.items():
    if layer.in_features % 64:
        continue
    decoded = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state).float()
    original = source[f"{name}.weight"].float()
    errors.append(((decoded - original).abs().mean() / original.std()).item())
print(json.dumps([model.is_loaded_in_4bit, len(layers), max(errors)]))
"""


@pytest.fixture
def command(tool_environ: Mapping[str, str], models_environ: Mapping[str, str], tmp_path: Path) -> Callable[..., Any]:
    """``command(*words)``: the document of ``bnbenv prequantize``, which has to succeed."""
    own = {"BNBENV_HOME": str(tmp_path / "home"), "HF_HUB_CACHE": str(tmp_path / "hub")}
    environ = {**tool_environ, **models_environ, **own}

    def run(*words: str) -> Any:
        argv = [sys.executable, "-m", "bnbenv", "prequantize", *words, "--json"]
        done = subprocess.run(argv, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def whole(document: Any) -> None:
    """What the document and the note in the folder say is what lies there."""
    out = Path(document["out"])
    note, found = read_note(out), read_local(out)
    assert note is not None and found.tensors is not None
    assert {name: one.sha256 for name, one in note.files.items()} == {name: sha256(out / name) for name in note.files}
    assert {one["name"] for one in document["files"]} == set(found.files)
    assert document["bytes_after"] == found.bytes < document["bytes_before"]
    assert sorted(path.name for path in out.iterdir()) == sorted([*note.files, "bnbenv-prequantize.json"])
    assert sorted(path.name for path in out.parent.iterdir() if ".bnbenv-part" in path.name) == []


@pytest.mark.xdist_group("models-5")
def test_a_snapshot_in_the_cache_of_the_hub(command: Callable[..., Any], models_5: Any, tmp_path: Path) -> None:
    home = tmp_path / "hub" / "models--me--tiny"
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = home / "snapshots" / commit
    for folder in (home / "blobs", home / "refs", snapshot):
        folder.mkdir(parents=True)
    (home / "refs" / "main").write_text(commit)
    for file in (models_5.zoo / "llama").iterdir():
        shutil.copy(file, home / "blobs" / file.name)
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
    made = command("me/tiny", "a b\nc", "--python", str(models_5.python), "--shard-size", "400KB")
    whole(made)
    assert (made["status"], made["quantization"], made["device"]) == ("made", "nf4-double", "cpu")
    assert (made["converted"], made["kept"], len(made["files"]) > 1) == (14, 7, True)
    assert command("me/tiny", "a b\nc", "--python", str(models_5.python), "--shard-size", "400KB")["status"] == "there"
    loaded = models_5.run("-c", LOAD, made["out"], snapshot / "model.safetensors")
    in_4_bit, layers, error = json.loads(loaded.splitlines()[-1])
    assert (in_4_bit, layers) == (True, 14) and 0.05 < error < 0.1


@pytest.mark.xdist_group("models-4")
def test_transformers_4(command: Callable[..., Any], models_4: Any) -> None:
    words = ("--quant", "int8", "--dtype", "float32", "--python", str(models_4.python))
    made = command(str(models_4.zoo / "opt"), "out", *words)
    whole(made)
    assert (made["quantization"], made["dtype"], len(made["files"])) == ("int8", "float32", 1)
    assert {"config.json", "generation_config.json"} <= set(made["others"])
