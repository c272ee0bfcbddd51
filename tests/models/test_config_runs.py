"""What ``bnbenv config`` prints runs as it is, with the real transformers 4 and 5, and loads what it says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bnbenv.cli import main

NO_GPU = Path(__file__).parents[1] / "hosts" / "linux-x86_64__absent__nogpu__glibc2.36" / "facts.json"
# Runs each file as a program would be, in one process: importing torch takes longer than all of them.
RUN = """
import collections, json, sys, warnings
warnings.simplefilter("ignore")
found = {}
for path in sys.argv[1:]:
    space = {"__name__": "loaded"}
    exec(compile(open(path, "rb").read(), path, "exec"), space)
    modules = list(space["model"].modules())
    own = [one for one in modules if type(one).__module__.startswith(("torch.", "bitsandbytes."))]
    kinds = collections.Counter(type(one).__name__ for one in own)
    linear = [one for one in own if type(one).__name__ == "Linear4bit"]
    found[path] = {
        "linear": {name: kinds[name] for name in ("Linear", "Linear4bit", "Linear8bitLt") if kinds[name]},
        "embeddings": str(space["model"].get_input_embeddings().weight.dtype),
        "compute": sorted({str(one.compute_dtype) for one in linear}),
        "states": sorted({f"{one.weight.quant_state.quant_type} {one.weight.quant_state.nested}" for one in linear}),
        "trained": [name for name, one in space["model"].named_parameters() if one.requires_grad],
    }
print(json.dumps(found))
"""
# name of the file: model, options. What a run gives beside the figures below is asserted for all.
CALLS = {
    "nf4": ("llama-sharded", ()),
    "int8": ("opt", ("--quant", "int8", "--skip-modules", "q_proj")),
    "fp4": ("gemma", ("--quant", "fp4")),
    "none": ("llama-f32", ("--quant", "none")),
    "experts": ("mixtral", ()),
    "train": ("qwen2", ("--train",)),
}


@pytest.mark.real
def test_the_printed_code_loads_the_model_as_it_says(
    release: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / 'it\'s "here"\n'
    folder.symlink_to(release.zoo, target_is_directory=True)
    chosen: dict[str, Any] = {}
    for name, (model, options) in CALLS.items():
        words = ["config", str(folder / model), "--python", str(release.python), *options]
        if name == "nf4":  # as people do it: on this machine, into a file
            environ = {**os.environ, "BNBENV_HOME": str(tmp_path / "user"), "CUDA_VISIBLE_DEVICES": ""}
            command = [sys.executable, "-m", "bnbenv", *words]
            done = subprocess.run(command, env=environ, capture_output=True, check=True, timeout=60)
            (tmp_path / f"{name}.py").write_bytes(done.stdout)
            continue
        assert main([*words, "--json", "--facts", str(NO_GPU)]) == 0
        found = json.loads(capsys.readouterr().out)
        chosen[name] = found["settings"]
        (tmp_path / f"{name}.py").write_text(found["code"], encoding="ascii")
    files = [str(tmp_path / f"{name}.py") for name in CALLS]
    printed = release.run("-c", RUN, *files)
    loaded = {Path(path).stem: one for path, one in json.loads(printed.splitlines()[-1]).items()}
    for name, one in loaded.items():
        if name == "nf4":
            assert one["compute"] == [one["embeddings"]], "float32 or bfloat16, by this CPU"
            continue
        dtype = "torch.float32" if name == "train" else f"torch.{chosen[name]['dtype']}"
        compute = chosen[name]["compute_dtype"]
        assert one["embeddings"] == dtype, name
        assert one["compute"] == ([f"torch.{compute}"] if compute else []), name
    assert loaded["nf4"]["states"] == ["nf4 True"] and loaded["fp4"]["states"] == ["fp4 False"]
    assert loaded["nf4"]["linear"] == {"Linear": 1, "Linear4bit": 14}
    assert loaded["none"]["linear"] == {"Linear": 15}
    # Two layers' q_proj and the output layer stay.
    assert loaded["int8"]["linear"] == {"Linear": 3, "Linear8bitLt": 10}
    # With transformers 5 the experts are no linear layers, and stay as they are.
    assert loaded["experts"]["linear"] == {"Linear": 1, "Linear4bit": 8 if release.major == 5 else 34}
    trained = loaded["train"]["trained"]
    assert trained and all(".lora_" in name for name in trained)
