"""The real script in a real environment on the CPU: right kernels pass, and each kind of wrong kernel is caught."""

from __future__ import annotations

import dataclasses
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from bnbenv.cli.render.verify import render
from bnbenv.process import Command, Finished, SystemRunner
from bnbenv.progress import Quiet
from bnbenv.verify.devices import CPU, Device
from bnbenv.verify.report import DeviceReport, Report, Step, explain_failure, explain_step
from bnbenv.verify.run import verify_environment
from bnbenv.verify.standalone import reference

pytestmark = pytest.mark.real

STEPS = (
    *("import", "device", "native-library", "blockwise-8bit", "blockwise-8bit-nested"),
    *("nf4-64", "nf4-128", "nf4-256", "fp4-64", "fp4-128", "fp4-256", "ragged-rows"),
    *("gemv-4bit", "gemm-4bit", "linear8bit", "adamw8bit", "qlora"),
)
FOUR_BIT = {name for name in STEPS if name.startswith(("nf4-", "fp4-"))}


@dataclasses.dataclass(frozen=True)
class RunnerIn:
    """Runs commands in a folder."""

    folder: Path

    def run(self, command: Command) -> Finished:
        return SystemRunner().run(dataclasses.replace(command, cwd=str(self.folder)))


@dataclasses.dataclass(frozen=True)
class RunnerWithoutPatience:
    """The time limit comes when the process has written a word; no machine is too slow for that."""

    word: str

    def run(self, command: Command) -> Finished:
        def watch(pid: int, stdout: str, stderr: str) -> None:
            if self.word in stderr:
                raise subprocess.TimeoutExpired(command.argv, command.timeout)

        return SystemRunner().run(dataclasses.replace(command, timeout=600, watch=watch))


def steps_of(report: Report) -> dict[str, Step]:
    (device,) = report.devices
    return {step.name: step for step in device.steps}


def failed(report: Report) -> set[str]:
    return {name for name, step in steps_of(report).items() if step.ok is False}


class Said(Quiet):
    """Keeps the lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def test_a_sound_environment_passes_and_says_by_how_much(
    real_python: Path, bytecode: dict[str, str | None], tmp_path: Path
) -> None:
    for name in ("torch", "json", "standalone"):  # modules in the current folder must not be taken
        (tmp_path / f"{name}.py").write_text("raise SystemExit('taken from the current folder')")
    said = Said()
    report = verify_environment(real_python, (CPU,), RunnerIn(tmp_path), environ=bytecode, progress=said)
    assert report.ok, explain_failure(report)
    steps = steps_of(report)
    assert tuple(steps) == STEPS
    assert said.lines == ["running kernels on cpu (CPU)"]
    (device,) = report.devices
    assert device.bitsandbytes == "0.50.2"
    assert device.torch is not None
    assert device.torch_cuda is None
    assert device.library == "libbitsandbytes_cpu.so"
    assert device.library_path is not None
    assert Path(device.library_path).is_file()
    # Nothing but the rows that this version decodes wrongly on some CPUs may be left out.
    assert {name for name, step in steps.items() if step.ok is None} <= {"ragged-rows"}
    for step in steps.values():
        if step.ok and step.name not in ("import", "native-library"):
            assert step.error is not None
            assert step.threshold is not None
            assert step.error <= step.threshold
            assert step.reason


def test_a_cpu_build_of_torch_does_not_pass_for_a_gpu(real_python: Path, bytecode: dict[str, str | None]) -> None:
    gpu = Device("GPU-aaaa1111", "NVIDIA H200")
    report = verify_environment(real_python, (gpu,), SystemRunner(), environ=bytecode)
    assert failed(report) == {"device"}
    assert "is a CPU build, it cannot use the GPU" in explain_failure(report)


@dataclasses.dataclass(frozen=True)
class Fault:
    """What kernels do wrongly, and words of what must be found in which step."""

    body: str
    finds: dict[str, str]


def after_kernel(text: str) -> str:
    return f"result = kernel(*arguments, **options)\n{text}\nreturn result"


def before_kernel(text: str) -> str:
    return f"{text}\nreturn kernel(*arguments, **options)"


FAULTS = {
    "zeros": Fault(
        after_kernel("if name == 'dequantize_blockwise':\n    result = result * 0"),
        {"blockwise-8bit": "decoded", "blockwise-8bit-nested": "decoded", "adamw8bit": "step"},
    ),
    "one value is not a number": Fault(
        after_kernel("if name == 'dequantize_4bit':\n    result.view(-1)[77 % result.numel()] = float('nan')"),
        dict.fromkeys((*FOUR_BIT, "gemv-4bit", "gemm-4bit", "qlora"), "not a finite number"),
    ),
    "scales are 1% too large": Fault(
        after_kernel("if name == 'quantize_4bit':\n    result = (result[0], result[1] * 1.01)"),
        dict.fromkeys(FOUR_BIT, "scales"),
    ),
    "one code is flipped in quantizing": Fault(
        after_kernel("if name == 'quantize_4bit':\n    result[0].view(-1)[1234 % result[0].numel()] ^= 1"),
        dict.fromkeys(FOUR_BIT, "codes"),
    ),
    "one code is read wrongly in dequantizing": Fault(
        before_kernel(
            "if name == 'dequantize_4bit':\n    packed = arguments[0].clone()\n"
            "    packed.view(-1)[100 % packed.numel()] ^= 16\n"
            "    arguments = (packed, *arguments[1:])"
        ),
        dict.fromkeys((*FOUR_BIT, "gemv-4bit", "gemm-4bit"), "error"),
    ),
    "neighbouring blocks of 64 exchange their scales": Fault(
        before_kernel(
            "if name == 'dequantize_4bit' and arguments[2] == 64:\n"
            "    arguments = (arguments[0], arguments[1].roll(1), *arguments[2:])"
        ),
        dict.fromkeys(("nf4-64", "fp4-64", "gemm-4bit"), "error"),
    ),
    "bfloat16 is cut off instead of rounded": Fault(
        after_kernel(
            "import torch\n"
            "if name == 'dequantize_4bit' and result.dtype == torch.bfloat16:\n    result = result * 0.992"
        ),
        dict.fromkeys(FOUR_BIT, "bfloat16"),
    ),
    "a product leaves out the last weight of its first row": Fault(
        after_kernel(
            # With nested scales the fourth argument is the scales' own, and too short for what is decoded here.
            "if name == 'gemm_4bit' and not any(one is not None for one in (*arguments[6:8], *options.values())):\n"
            "    import torch\n"
            "    from bitsandbytes.functional import QuantState, dequantize_4bit\n"
            "    x, packed, shape, absmax, blocksize, kind = arguments[:6]\n"
            "    state = QuantState(absmax, torch.Size(shape), None, blocksize, kind, x.dtype)\n"
            "    result[:, 0] -= x[:, -1] * dequantize_4bit(packed, state)[0, -1]"
        ),
        {"gemv-4bit": "each weight", "gemm-4bit": "each weight"},
    ),
    "int8 codes of the activations are off by one": Fault(
        after_kernel("if name == 'int8_vectorwise_quant' and arguments[0].shape[0] == 48:\n    result[0][0] += 1"),
        {"linear8bit": "algorithm"},
    ),
    "outliers are not kept apart": Fault(
        before_kernel("if name == 'int8_vectorwise_quant':\n    arguments, options = (arguments[0],), {}"),
        {"linear8bit": "algorithm"},
    ),
    "the 8-bit optimizer halves the second moment": Fault(
        after_kernel("if name == 'optimizer_update_8bit_blockwise':\n    arguments[15].mul_(0.5)"),
        {"adamw8bit": "state 2"},
    ),
    "the 8-bit optimizer steps 1% too far": Fault(
        before_kernel(
            "if name == 'optimizer_update_8bit_blockwise':\n"
            "    arguments = (*arguments[:11], arguments[11] * 1.01, *arguments[12:])"
        ),
        {"adamw8bit": "step"},
    ),
}

# Faults that do not reach each other's steps share a run; the steps that none of them reaches must pass.
RUNS: list[tuple[tuple[str, ...], set[str]]] = [
    (("zeros",), FOUR_BIT | {"linear8bit"}),
    (("one value is not a number",), {"blockwise-8bit", "linear8bit", "adamw8bit"}),
    (
        (
            "scales are 1% too large",
            "int8 codes of the activations are off by one",
            "the 8-bit optimizer steps 1% too far",
        ),
        {"blockwise-8bit", "blockwise-8bit-nested"},
    ),
    (
        (
            "one code is flipped in quantizing",
            "outliers are not kept apart",
            "the 8-bit optimizer halves the second moment",
        ),
        {"blockwise-8bit", "blockwise-8bit-nested"},
    ),
    (("one code is read wrongly in dequantizing",), {"blockwise-8bit", "linear8bit", "adamw8bit"}),
    (
        ("neighbouring blocks of 64 exchange their scales",),
        {"nf4-128", "nf4-256", "fp4-128", "fp4-256", "linear8bit", "adamw8bit"},
    ),
    (("bfloat16 is cut off instead of rounded",), {"blockwise-8bit", "linear8bit", "adamw8bit"}),
    (
        ("a product leaves out the last weight of its first row",),
        FOUR_BIT | {"linear8bit", "adamw8bit"},
    ),
]


@pytest.mark.parametrize(("names", "sound"), RUNS, ids=[", ".join(names) for names, _ in RUNS])
def test_wrong_kernels_are_caught_and_named(
    names: tuple[str, ...], sound: set[str], broken: Callable[..., Report]
) -> None:
    report = broken(*(FAULTS[name].body for name in names))
    assert not report.ok
    steps = steps_of(report)
    for name in names:
        for step, words in FAULTS[name].finds.items():
            assert steps[step].ok is False, f"{step} missed it: {name}"
            assert words in explain_step(steps[step])
    assert not sound & failed(report)
    assert explain_failure(report).split(" on cpu: ")[0] in failed(report)


def test_wrong_gradients_and_a_state_that_is_not_8_bit_are_caught(broken: Callable[..., Report]) -> None:
    after = """
from . import optim
from .autograd import _functions

optim.AdamW8bit = optim.AdamW32bit
_backward = _functions.MatMul4Bit.backward

def _wrong(ctx, grad):
    first, *rest = _backward(ctx, grad)
    return (first * 1.05, *rest)

_functions.MatMul4Bit.backward = staticmethod(_wrong)
"""
    report = broken(after=after)
    assert failed(report) == {"qlora", "adamw8bit"}
    assert "gradient of" in explain_step(steps_of(report)["qlora"])
    assert "float32, not 8-bit" in explain_step(steps_of(report)["adamw8bit"])


def missing(folder: Path) -> None:
    (folder / "libbitsandbytes_cpu.so").unlink()


def no_library(folder: Path) -> None:
    library = folder / "libbitsandbytes_cpu.so"
    library.unlink()
    library.write_text("this is no library")


@pytest.mark.parametrize("spoil", [missing, no_library], ids=["missing", "no library"])
def test_the_stub_instead_of_the_native_library_is_caught(
    spoil: Callable[[Path], None], broken: Callable[..., Report]
) -> None:
    report = broken(spoil=spoil)
    assert failed(report) == {"native-library"}
    assert tuple(steps_of(report))[-1] == "native-library"
    assert "bitsandbytes loaded no native library" in explain_failure(report)


# Where bitsandbytes makes the 256 values of 8 bits that it hands to its kernels.
FLIPPED_MAP = """
from . import functional
_map = functional.create_dynamic_map
def _flipped(*arguments, **options):
    values = _map(*arguments, **options)
    values.view(functional.torch.int32)[201] ^= 1 << 16
    return values
functional.create_dynamic_map = _flipped
"""


@pytest.mark.parametrize("which", [0, 1])
def test_a_bit_flipped_in_a_table_of_codes_is_caught(
    which: int, real_python: Path, broken: Callable[..., Report]
) -> None:
    (library,) = real_python.parent.parent.glob("[Ll]ib/**/site-packages/bitsandbytes/libbitsandbytes_cpu.so")
    data, table = bytearray(library.read_bytes()), struct.pack("<16f", *reference.NF4)
    # One for vector instructions, one for what is left over; a library for other processors may have fewer.
    tables = [at for at in range(0, len(data), 4) if data[at : at + len(table)] == table]
    if which >= len(tables):
        pytest.skip(f"this library holds {len(tables)} tables of NF4 in float32")
    data[tables[which] + 4 * 14 + 2] ^= 8  # 0.723 becomes 0.692

    def flip(folder: Path) -> None:
        (folder / library.name).unlink()
        (folder / library.name).write_bytes(data)

    report = broken(spoil=flip, after=FLIPPED_MAP)
    assert {"blockwise-8bit", "nf4-64", "nf4-128", "nf4-256"} <= failed(report)
    assert not {"fp4-64", "fp4-128", "fp4-256", "linear8bit"} & failed(report)
    shown = render(msgspec.to_builtins(report)).splitlines()
    assert shown[0].startswith("FAILED on cpu: blockwise-8bit, ")
    assert "models loaded in 4 bits (QLoRA) would have wrong weights" in " ".join(shown)


def test_a_kernel_that_hangs_is_ended_and_named(
    real_python: Path, bytecode: dict[str, str | None], broken_packages: Callable[..., str]
) -> None:
    hang = before_kernel(
        "if name == 'quantize_4bit':\n    import os, time\n    os.write(2, b'it hangs')\n    time.sleep(3600)"
    )
    environ = {**bytecode, "PYTHONPATH": broken_packages(hang)}
    report = verify_environment(real_python, (CPU,), RunnerWithoutPatience("it hangs"), environ=environ)
    device = died(report)
    assert device.died is not None
    assert (device.died.timed_out, device.died.step) == (True, "nf4-64")
    assert "in _fault" in device.died.stderr
    assert render(msgspec.to_builtins(report)).splitlines()[0] == (
        "FAILED on cpu: no end within the time limit in nf4-64"
    )


def died(report: Report) -> DeviceReport:
    (device,) = report.devices
    assert not report.ok
    assert device.died is not None
    return device


def test_a_crash_is_reported_with_signal_step_and_stack(broken: Callable[..., Report]) -> None:
    fault = before_kernel("if name == 'dequantize_4bit':\n    import ctypes\n    ctypes.string_at(0)")
    # What libraries print, also past Python, must not get between the lines of the protocol.
    noise = "import os\nprint('{\"event\": \"done\"}')\nos.write(1, b'no new line at the end')"
    report = broken(fault, after=noise)
    device = died(report)
    assert device.died is not None
    assert (device.died.signal, device.died.step, device.died.timed_out) == ("SIGSEGV", "nf4-64", False)
    assert "Segmentation fault" in device.died.stderr
    assert "string_at" in device.died.stderr
    assert [step.name for step in device.steps][-1] == "blockwise-8bit-nested"
    assert explain_failure(report) == "the process was killed by SIGSEGV in step nf4-64 on cpu"
