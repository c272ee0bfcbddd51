"""Environments of other families: GPTQ and AWQ layers made and multiplied by their packages, and torch alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bnbenv.cli.render.verify import render
from bnbenv.matrix.load import load_families
from bnbenv.process import Command, Finished, SystemRunner
from bnbenv.verify.devices import CPU
from bnbenv.verify.families import PROBE, family_decided, installed_families
from bnbenv.verify.report import Report, Step, explain_failure
from bnbenv.verify.run import LIMITS, SCRIPT, verify_environment

Environ = dict[str, "str | None"]


def verified(python: Path, family: Any, environ: Environ) -> Report:
    return verify_environment(python, (CPU,), SystemRunner(), family=family, environ=environ)


def steps(report: Report) -> dict[str, Step]:
    return {step.name: step for step in report.devices[0].steps}


@pytest.mark.real
def test_gptq_quantizes_packs_and_multiplies_rightly(families_python: Path, bytecode: Environ, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    packages = families_python.parent.parent / "lib"
    before = {path for path in packages.rglob("*") if "__pycache__" not in path.parts}
    report = verified(families_python, "gptq", {**bytecode, "HOME": str(tmp_path / "home")})
    assert report.ok, explain_failure(report)
    assert report.family == "gptq"
    found = steps(report)
    assert list(found)[:5] == ["import", "device", "gptq-quantize", "gptq-pack", "gptq-kernels"]
    assert any(name.startswith("gptq-Torch") for name in found)  # the kernel that it takes on a CPU, by its name
    device = report.devices[0]
    assert next(iter(device.packages)) == "gptqmodel"
    assert device.bitsandbytes is None
    lines = render(msgspec.to_builtins(report)).splitlines()
    assert lines[0] == f"verified on cpu: gptqmodel {device.packages['gptqmodel']} with torch {device.torch}"
    # Nothing is written where users keep their caches, nor into the environment.
    assert not list((tmp_path / "home").iterdir())
    assert {path for path in packages.rglob("*") if "__pycache__" not in path.parts} == before


@pytest.mark.real
def test_every_fault_is_found_in_its_step(families_python: Path, bytecode: Environ, tmp_path: Path) -> None:
    """Each fault is put into the packages' own code, one after the other in one process: importing them takes long."""
    (tmp_path / "faults.py").write_text(FAULTS)
    environ = {name: value for name, value in {**os.environ, **bytecode}.items() if value is not None}
    environ.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(
        [str(families_python), str(tmp_path / "faults.py"), str(SCRIPT.parent)],
        env={**environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=LIMITS["gptq"],
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    failed = json.loads(done.stdout)
    kernel = failed.pop("kernel")
    # What can run of AutoAWQ on a CPU is told, and what not.
    assert "AutoAWQ's own forward fails" in failed.pop("warning")
    # A kernel that would be compiled first is skipped, and the next best one is run.
    assert failed.pop("run beside what is not compiled") == ["gptq-MarlinLinear", kernel]
    assert failed == {
        "none": [],
        "not compiled": [],
        "no compensation": ["gptq-quantize"],
        "wrong scale": ["gptq-quantize"],
        "swapped nibbles": ["gptq-pack"],
        "wrong zero point": ["gptq-pack"],
        "a column is off by 5%": [kernel],
        "one bit of one code": [kernel],
        "bias left out": [kernel],
        "scales of two groups exchanged": [kernel],
        "awq: none": [],
        "awq: wrong zero point": ["awq-quantize"],
        "awq: columns in another order": ["awq-quantize"],
        "awq: scale of one group": ["awq-gemm-torch"],
        "awq: bias left out": ["awq-gemm-torch"],
    }


@pytest.mark.real
def test_torch_alone(real_python: Path, bytecode: Environ) -> None:
    report = verified(real_python, "none", bytecode)
    assert report.ok, explain_failure(report)
    assert list(steps(report)) == ["import", "device", "torch-products", "torch-gradients"]
    assert render(msgspec.to_builtins(report)).startswith(f"verified on cpu: torch {report.devices[0].torch}\n")
    report = verified(real_python, "awq", bytecode)
    assert not report.ok
    assert explain_failure(report) == "import on cpu: autoawq is not installed in this environment"
    assert installed_families(real_python, SystemRunner()) == ("bitsandbytes",)


class Printed:
    """A Python that prints what it is told to."""

    def __init__(self, text: str) -> None:
        self.text = text

    def run(self, command: Command) -> Finished:
        return Finished(command.argv, 0, self.text, "", timed_out=False, seconds=0.1)


def test_the_family_is_told_by_what_is_installed_or_recorded() -> None:
    python = Path("/env/bin/python")
    # What a sitecustomize prints is none of it.
    assert installed_families(python, Printed("bitsandbytes\nhere: auto_gptq awq\n")) == ("gptq", "awq")
    assert installed_families(python, Printed("")) == ()
    families = load_families()
    torch = {"version": "2.13.0", "cuda": None, "source": "local", "index": None}
    package = {"name": "autoawq-kernels", "version": "0.0.9"}
    assert family_decided({"torch": torch, "bitsandbytes": None, "packages": [package]}, families) == "awq"
    assert family_decided({"torch": torch, "bitsandbytes": {"version": "0.50.2"}}, families) == "bitsandbytes"
    assert family_decided({"torch": torch, "bitsandbytes": None, "packages": []}, families) == "none"
    assert family_decided({}, families) is None


def test_what_lies_in_the_current_folder_is_not_installed(tmp_path: Path) -> None:
    for folder in (tmp_path / "here", tmp_path / "there"):
        folder.mkdir()
        (folder / "awq.py").touch()
        (folder / "gptqmodel").mkdir()  # of models, such as people keep them
    command = [sys.executable, "-c", PROBE, "awq", "gptqmodel"]
    for place, found in (("", "here:"), (str(tmp_path / "there"), "here: awq")):
        environ = {**os.environ, "PYTHONPATH": place}
        done = subprocess.run(
            command, cwd=tmp_path / "here", env=environ, capture_output=True, text=True, check=True, timeout=60
        )
        assert done.stdout.strip() == found


FAULTS = """
import contextlib, io, json, sys
from torch.utils import cpp_extension

out, sys.stdout = sys.stdout, sys.stderr
sys.path.insert(0, sys.argv[1])
from standalone import awq, families, gptq, packed
from standalone.offline import offline
from standalone.protocol import Reporter
from standalone.target import Target

target = Target("cpu", None, ())
found = {}


def run(name, prove):
    stream = io.StringIO()
    prove(Reporter(stream))
    ended = [event for event in map(json.loads, stream.getvalue().splitlines()) if event["event"] == "end"]
    found[name] = [event["name"] for event in ended if event["ok"] is False]
    for event in map(json.loads, stream.getvalue().splitlines()):
        if event["event"] == "warning":
            found["warning"] = event["text"]
    return [event["name"] for event in ended]


@contextlib.contextmanager
def instead(owner, name, change):
    before = getattr(owner, name)
    setattr(owner, name, change(before))
    yield
    setattr(owner, name, before)


with offline("cpu", "gptq"):
    families.load("gptq", {"gptqmodel": "gptqmodel"})
    from gptqmodel.quantization import GPTQ
    package = families.package_of("gptqmodel")
    gptq.VARIANTS = gptq.VARIANTS[1:2]  # asymmetric: each of its zero points is another one
    package.dtypes = lambda kernel, target: (gptq.torch.float16,)
    kernel = package.kernels(target, gptq.VARIANTS[0])[0]
    prove = lambda reporter: gptq.prove(package, target, reporter)
    found["kernel"] = run("none", prove)[-1]

    def uncompensated(quantize):
        def run(self, *args, **options):
            self.hessian_inverse = self.mock_hessian_inverse
            return quantize(self, *args, **options)
        return run

    def rescaled(quantize):
        def run(self, *args, **options):
            weight, scale, *rest = quantize(self, *args, **options)
            return (weight, scale * 1.01, *rest)
        return run

    with instead(GPTQ, "quantize", uncompensated):
        run("no compensation", prove)
    with instead(GPTQ, "quantize", rescaled):
        run("wrong scale", prove)

    def afterwards(change):
        def wrap(method):
            def run(self, *args, **options):
                result = method(self, *args, **options)
                change(self)
                return result
            return run
        return wrap

    def swap(layer):
        layer.qweight = ((layer.qweight >> 4) & 0x0F0F0F0F) | ((layer.qweight & 0x0F0F0F0F) << 4)

    def shift(layer):
        layer.qzeros = layer.qzeros - 1

    with instead(package.plain, "pack", afterwards(swap)):
        run("swapped nibbles", prove)
    with instead(package.plain, "pack", afterwards(shift)):
        run("wrong zero point", prove)

    def column(forward):
        def run(self, x):
            result = forward(self, x)
            result[..., 7] *= 1.05
            return result
        return run

    def bit(post_init):
        def run(self):
            self.qweight[0, 0] ^= 1
            post_init(self)
        return run

    with instead(kernel, "forward", column):
        run("a column is off by 5%", prove)
    with instead(kernel, "post_init", bit):
        run("one bit of one code", prove)

    def before(change):
        def wrap(post_init):
            def run(self):
                change(self)
                post_init(self)
            return run
        return wrap

    def exchange(layer):
        layer.scales = layer.scales.flip(0)

    with instead(kernel, "post_init", before(lambda layer: layer.bias.zero_())):
        run("bias left out", prove)
    with instead(kernel, "post_init", before(exchange)):
        run("scales of two groups exchanged", prove)

    class MarlinLinear:
        def __init__(self, **options):
            cpp_extension.load(name="gptqmodel_marlin_fp16_ops", sources=["marlin.cu"])

    def with_marlin(kernels):
        return lambda target, variant: [MarlinLinear, *kernels(target, variant)]

    with instead(package, "kernels", with_marlin):
        found["run beside what is not compiled"] = run("not compiled", prove)[-2:]

    families.load("awq", {"autoawq": "awq"})
    from awq.modules.linear.gemm import WQLinear_GEMM
    from awq.quantize.quantizer import AwqQuantizer
    import awq.modules.linear.gemm as gemm

    prove = lambda reporter: awq.prove(target, reporter)
    run("awq: none", prove)

    def rezeroed(method):
        def run(self, w):
            weight, scales, zeros = method(self, w)
            return weight, scales, (zeros + 1).clamp(0, 15)
        return run

    with instead(AwqQuantizer, "pseudo_quantize_tensor", rezeroed):
        run("awq: wrong zero point", prove)

    def reordered(packing):
        def run(*args, **options):
            layer = packing(*args, **options)
            layer.qweight = ((layer.qweight >> 4) & 0x0F0F0F0F) | ((layer.qweight & 0x0F0F0F0F) << 4)
            return layer
        return run

    with instead(WQLinear_GEMM, "from_linear", reordered):
        run("awq: columns in another order", prove)

    def regrouped(decode):
        def run(qweight, qzeros, scales, *args):
            scales = scales.clone()
            scales[0] *= 1.05
            return decode(qweight, qzeros, scales, *args)
        return run

    with instead(gemm, "dequantize_gemm", regrouped):
        run("awq: scale of one group", prove)

    def unbiased(forward):
        return lambda self, x: forward(self, x) - self.bias

    with instead(WQLinear_GEMM, "forward", unbiased):
        run("awq: bias left out", prove)
out.write(json.dumps(found))
"""
