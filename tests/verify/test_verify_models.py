"""What users of transformers and peft do, in a real environment on the CPU, and each way in which it can be wrong."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bnbenv.cli.render.verify import render
from bnbenv.process import Command, Finished, SystemRunner
from bnbenv.verify.devices import CPU
from bnbenv.verify.report import Report, Step, explain_failure, explain_step
from bnbenv.verify.run import verify_environment

pytestmark = pytest.mark.real

LOADED = ("transformers", "transformers-4bit", "transformers-8bit", "generate")
STEPS = (*LOADED, "peft", "lora-4bit", "lora-8bit")
MODEL_PACKAGES = ["transformers==5.23.0", "accelerate==1.15.0", "peft==0.21.2"]


def model_steps(report: Report) -> dict[str, Step]:
    """The steps after those of the kernels."""
    (device,) = report.devices
    names = [step.name for step in device.steps]
    return {step.name: step for step in device.steps[names.index("transformers") :]}


def failed(report: Report) -> set[str]:
    return {step.name for step in report.devices[0].steps if step.ok is False}


def screen(report: Report) -> str:
    """What people see."""
    return render(msgspec.to_builtins(report))


# What would go to the network is written down, and stopped.
NO_NETWORK = """
import os, sys

def stop(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        with open(os.environ["NETWORK_LOG"], "a") as log:
            log.write(f"{event} {arguments}\\n")
        raise OSError("no network here")

sys.addaudithook(stop)
"""


@pytest.fixture
def verify_here(
    real_python: Path, bytecode: dict[str, str | None], tmp_path: Path
) -> Callable[..., tuple[int, dict[str, Any]]]:
    """Run ``bnbenv verify --json`` with folders of its own for temporary files and for Hugging Face's cache."""

    def run(path: str) -> tuple[int, dict[str, Any]]:
        (tmp_path / "tmp").mkdir()
        environ = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        environ |= {name: value for name, value in bytecode.items() if value}
        environ |= {"PYTHONPATH": path, "TMPDIR": str(tmp_path / "tmp"), "HF_HOME": str(tmp_path / "hub")}
        environ |= {"NETWORK_LOG": str(tmp_path / "network.log"), "HF_HUB_CACHE": str(tmp_path / "hub" / "cache")}
        words = ["--python", str(real_python), "--device", "cpu", "--json"]
        command = [sys.executable, "-m", "bnbenv", "verify", *words]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=300, check=False)
        assert "Traceback" not in done.stderr, done.stderr
        assert list((tmp_path / "tmp").iterdir()) == []
        assert not (tmp_path / "hub").exists()
        return done.returncode, json.loads(done.stdout)

    return run


def test_models_are_loaded_run_and_trained_without_network_and_nothing_is_left_behind(
    model_packages: Path, verify_here: Callable[..., tuple[int, dict[str, Any]]], tmp_path: Path
) -> None:
    (tmp_path / "guard").mkdir()
    (tmp_path / "guard" / "sitecustomize.py").write_text(NO_NETWORK)
    code, document = verify_here(os.pathsep.join((str(tmp_path / "guard"), str(model_packages))))
    assert code == 0, document
    report = msgspec.convert(document, Report)
    steps = model_steps(report)
    assert tuple(steps) == STEPS
    for name in (*LOADED[1:], "lora-4bit", "lora-8bit"):
        error, threshold = steps[name].error, steps[name].threshold
        assert error is not None and threshold is not None and error <= threshold
        assert steps[name].reason
    assert report.devices[0].packages == {"transformers": "5.23.0", "accelerate": "1.15.0", "peft": "0.21.2"}
    assert "  with transformers 5.23.0, accelerate 1.15.0, peft 0.21.2" in screen(report).splitlines()
    assert not (tmp_path / "network.log").exists()


def test_kernels_that_are_wrong_for_a_models_shapes_alone_and_a_peft_that_does_not_import(
    broken: Callable[..., Report], model_packages: Path
) -> None:
    # 512 is the width of a layer of the model, and of no product that is run before.
    fault = """
result = kernel(*arguments, **options)
if name in ("gemm_4bit", "gemv_4bit") and arguments[0].shape[-1] == 512:
    result = result * 0
if name == "int8_vectorwise_quant" and arguments[0].shape[-1] == 512:
    result[0][:, 0] = 7
return result
"""
    patches = {"peft": "raise ImportError(\"cannot import name 'HybridCache' from 'transformers'\")"}
    report = broken(fault, patches=patches, packages=model_packages)
    assert failed(report) == {"transformers-4bit", "transformers-8bit", "generate", "peft"}
    steps = model_steps(report)
    for name in ("transformers-4bit", "transformers-8bit"):
        assert "mlp.down_proj" in explain_step(steps[name])
    assert explain_step(steps["peft"]) == (
        "peft 0.21.2 cannot be imported: ImportError: cannot import name 'HybridCache' from 'transformers'"
    )
    lines = screen(report).splitlines()
    assert lines[0] == "FAILED on cpu: transformers-4bit, transformers-8bit, generate, peft"
    assert lines[-1].startswith("next: Try other versions of transformers")


def test_a_model_that_was_not_quantized_and_weights_that_training_changes(
    broken: Callable[..., Report], model_packages: Path
) -> None:
    leaves_four_bits_out = """
_right = replace_with_bnb_linear
def replace_with_bnb_linear(model, **options):
    return model if options["quantization_config"].load_in_4bit else _right(model, **options)
"""
    trains_too_much = """
_get = get_peft_model
def get_peft_model(model, config):
    def change(layer, arguments):
        layer.weight.data += 1e-6
    model.lm_head.register_forward_pre_hook(change)
    return _get(model, config)
"""
    patches = {"transformers.integrations.bitsandbytes": leaves_four_bits_out, "peft": trains_too_much}
    report = broken(patches=patches, packages=model_packages)
    steps = model_steps(report)
    assert tuple(steps) == (*LOADED, "peft", "lora-8bit")
    assert failed(report) == {"transformers-4bit", "lora-8bit"}
    assert explain_failure(report) == (
        "transformers-4bit on cpu: asked for 4 bits, transformers left 14 of 14 layers unquantized, such as "
        "model.layers.0.self_attn.q_proj (torch.bfloat16)"
    )
    assert explain_step(steps["lora-8bit"]).startswith("training changed what is frozen: ")
    assert "lm_head" in explain_step(steps["lora-8bit"])


def test_a_cache_of_keys_that_mixes_heads_and_gradients_that_are_5_percent_too_large(
    broken: Callable[..., Report], model_packages: Path
) -> None:
    mixes = """
_update = DynamicLayer.update
def _mixed(self, key_states, value_states, *rest, **options):
    keys, values = _update(self, key_states, value_states, *rest, **options)
    return keys, values.flip(1) if key_states.shape[-2] == 1 else values
DynamicLayer.update = _mixed
"""
    too_large = """
from .autograd import _functions
_backward = _functions.MatMul4Bit.backward
def _wrong(ctx, grad):
    first, *rest = _backward(ctx, grad)
    return (first * 1.05, *rest)
_functions.MatMul4Bit.backward = staticmethod(_wrong)
"""
    report = broken(after=too_large, patches={"transformers.cache_utils": mixes}, packages=model_packages)
    assert failed(report) == {"qlora", "generate", "lora-4bit"}
    steps = model_steps(report)
    assert "logits of the new tokens" in explain_step(steps["generate"])
    assert "gradient of" in explain_step(steps["lora-4bit"])


def test_a_crash_in_training_is_named_and_leaves_nothing_behind(
    broken_packages: Callable[..., str], model_packages: Path, verify_here: Callable[..., tuple[int, dict[str, Any]]]
) -> None:
    fault = """
import sys
if name == "dequantize_4bit" and "peft" in sys.modules:
    import ctypes
    ctypes.string_at(0)
return kernel(*arguments, **options)
"""
    code, document = verify_here(broken_packages(fault, packages=model_packages))
    assert code == 5
    died = document["devices"][0]["died"]
    assert (died["signal"], died["step"]) == ("SIGSEGV", "lora-4bit")
    assert render(document).splitlines()[0] == "FAILED on cpu: killed by SIGSEGV in lora-4bit"


def test_without_accelerate_models_are_not_run_and_that_is_said(
    real_python: Path, bytecode: dict[str, str | None], model_packages: Path, tmp_path: Path
) -> None:
    for entry in model_packages.iterdir():
        if not entry.name.startswith("accelerate"):
            (tmp_path / entry.name).symlink_to(entry)
    environ = {**bytecode, "PYTHONPATH": str(tmp_path)}
    report = verify_environment(real_python, (CPU,), SystemRunner(), environ=environ)
    assert report.ok
    assert tuple(model_steps(report)) == ("transformers",)
    assert report.warnings[-1] == (
        "cpu: transformers skipped: accelerate is not installed, and without it transformers loads no model in 4 or 8 "
        "bits"
    )


def test_a_torch_that_is_too_old_for_transformers_is_named(broken: Callable[..., Report], model_packages: Path) -> None:
    def older(folder: Path) -> None:
        info = folder.parent / "torch-2.5.1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 2.5.1\n")

    report = broken(spoil=older, packages=model_packages)
    assert failed(report) == {"transformers"}
    assert tuple(model_steps(report)) == ("transformers",)
    assert "PyTorch >= 2.6 is required but found 2.5.1" in explain_failure(report)


@dataclasses.dataclass(frozen=True)
class RunnerOnFullDisk:
    """No file may become larger than ``size`` bytes."""

    size: int

    def run(self, command: Command) -> Finished:
        argv = ("prlimit", f"--fsize={self.size}", *command.argv)
        return SystemRunner().run(dataclasses.replace(command, argv=argv))


@pytest.mark.skipif(shutil.which("prlimit") is None, reason="prlimit is missing")
def test_where_no_model_can_be_saved_the_kernels_count_and_it_is_said(
    real_python: Path, bytecode: dict[str, str | None], model_packages: Path
) -> None:
    environ = {**bytecode, "PYTHONPATH": str(model_packages)}
    report = verify_environment(real_python, (CPU,), RunnerOnFullDisk(100_000), environ=environ)
    assert report.ok, explain_failure(report)
    assert tuple(model_steps(report)) == ("transformers",)
    assert "a model cannot be saved in" in report.warnings[-1]
    assert "(file too large): set TMPDIR to another folder" in report.warnings[-1]


def test_sync_with_such_requirements_verifies_them(project: Any) -> None:
    (project.root / "bnbenv.toml").write_text(f"[envs.bnb]\nrequirements = {json.dumps(MODEL_PACKAGES)}\n")
    done = project.done("sync")
    (made,) = done["generations"]
    (device,) = made["verification"]["devices"]
    assert set(STEPS) <= {step["name"] for step in device["steps"] if step["ok"]}
    assert set(device["packages"]) == {"transformers", "accelerate", "peft"}
