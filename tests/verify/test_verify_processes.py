"""What becomes of a process that hangs, dies or talks too much. Real processes of a Python without torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
import msgspec
import pytest

from bnbenv.errors import UsageError
from bnbenv.process import Command, Finished, SystemRunner
from bnbenv.verify.devices import CPU, Device
from bnbenv.verify.report import DeviceReport, Report, explain_failure
from bnbenv.verify.run import read_device, read_events, verify_environment

GPU = Device("GPU-aaaa1111", "NVIDIA H200")


@pytest.fixture(scope="session")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python without packages."""
    folder = tmp_path_factory.mktemp("bare") / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=60)
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def verify_with_torch(text: str, bare_python: Path, tmp_path: Path, limit: float = 60.0) -> Report:
    """Verify with a module torch that holds just this text."""
    (tmp_path / "torch.py").write_text(text)
    environ = {"PYTHONPATH": str(tmp_path)}
    return verify_environment(bare_python, (CPU,), SystemRunner(), environ=environ, limit_seconds=limit)


def only_device(report: Report) -> DeviceReport:
    (device,) = report.devices
    return device


def test_an_environment_without_torch_fails_with_one_sentence(bare_python: Path) -> None:
    report = verify_environment(bare_python, (CPU,), SystemRunner())
    assert not report.ok
    assert only_device(report).died is None
    assert explain_failure(report) == "import on cpu: torch is not installed in this environment"


def test_a_torch_that_does_not_load_is_named_with_its_reason(bare_python: Path, tmp_path: Path) -> None:
    text = "raise OSError('libcudnn.so.9: cannot open shared object file: No such file or directory')"
    report = verify_with_torch(text, bare_python, tmp_path)
    assert explain_failure(report) == (
        "import on cpu: torch cannot be imported: OSError: libcudnn.so.9: cannot open shared object file: "
        "No such file or directory"
    )


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
def test_a_hang_ends_at_the_time_limit_with_the_step_and_the_place(bare_python: Path, tmp_path: Path) -> None:
    text = "import time\ndef first_kernel():\n    time.sleep(600)\nfirst_kernel()"
    report = verify_with_torch(text, bare_python, tmp_path, limit=4.0)
    died = only_device(report).died
    assert died is not None
    assert (died.timed_out, died.step, died.signal) == (True, "import", "SIGTERM")
    assert "in first_kernel" in died.stderr
    assert explain_failure(report) == "no end within the time limit, in step import on cpu"


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
def test_a_hang_that_ignores_the_first_signal_is_killed_and_its_step_known(bare_python: Path, tmp_path: Path) -> None:
    text = (
        "import faulthandler, signal, time\nfaulthandler.unregister(signal.SIGTERM)\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('deaf', flush=True)\ntime.sleep(600)"
    )
    report = verify_with_torch(text, bare_python, tmp_path, limit=4.0)
    died = only_device(report).died
    assert died is not None
    assert (died.timed_out, died.step, died.signal) == (True, "import", "SIGKILL")
    assert "deaf" in died.stderr


def test_an_exit_in_a_step_is_a_death_of_its_own_kind(bare_python: Path, tmp_path: Path) -> None:
    report = verify_with_torch("import os\nos._exit(7)", bare_python, tmp_path)
    died = only_device(report).died
    assert died is not None
    assert (died.timed_out, died.step, died.signal, died.exit_code) == (False, "import", None, 7)


def test_a_python_that_cannot_start_is_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be started"):
        verify_environment(tmp_path / "python", (CPU,), SystemRunner())


class Recorder:
    """A runner that keeps what it was asked to run, and answers each command with the same result."""

    def __init__(self, stdout: str, returncode: int = 0) -> None:
        self.stdout = stdout
        self.returncode = returncode
        self.commands: list[Command] = []

    def run(self, command: Command) -> Finished:
        self.commands.append(command)
        return Finished(command, self.returncode, self.stdout, "", False, 1.0)


def lines(*events: dict[str, object]) -> str:
    return "".join(json.dumps(event) + "\n" for event in events)


GOOD = lines(
    {"event": "start", "name": "nf4-64"},
    {"event": "end", "name": "nf4-64", "ok": True, "error": 0.5, "threshold": 1.0, "seconds": 0.1, "figures": {}},
    {"event": "done"},
)


def test_each_gpu_is_run_by_its_uuid_and_nothing_is_set_that_the_environment_sets() -> None:
    runner = Recorder(GOOD)
    second = Device("MIG-2222")
    report = verify_environment(Path("python"), (GPU, second, CPU), runner, environ={"EXTRA": "1"})
    assert report.ok
    assert [device.device for device in report.devices] == ["GPU-aaaa1111", "MIG-2222", "cpu"]
    assert [command.env["CUDA_VISIBLE_DEVICES"] for command in runner.commands] == ["GPU-aaaa1111", "MIG-2222", ""]
    assert [command.argv[3] for command in runner.commands] == ["cuda", "cuda", "cpu"]
    for command in runner.commands:
        assert "BNB_CUDA_VERSION" not in command.env
        assert command.env["EXTRA"] == "1"
        assert command.timeout == 180


def test_no_device_at_all_is_no_success() -> None:
    assert not verify_environment(Path("python"), (), Recorder(GOOD)).ok


def finished(stdout: str, returncode: int = 0, stderr: str = "") -> Finished:
    return Finished(Command(("python",), 1.0), returncode, stdout, stderr, False, 1.0)


def test_a_process_that_ends_early_without_a_word_is_no_success() -> None:
    cut = GOOD.rsplit("\n", 2)[0] + '\n{"event": "do'
    report, _ = read_device(GPU, finished(cut, 0))
    assert not report.ok
    assert report.died is not None
    assert report.died.step is None
    assert report.died.exit_code == 0


def test_a_crash_while_ending_is_a_warning() -> None:
    report, warnings = read_device(GPU, finished(GOOD, -11))
    assert report.ok
    assert warnings == ["the process was killed by SIGSEGV while it ended, after all steps"]


def test_skipped_steps_become_one_warning_a_reason() -> None:
    skipped = {"ok": None, "error": None, "threshold": None, "seconds": 0.0, "figures": {}, "skipped": "not there"}
    text = lines({"event": "end", "name": "a", **skipped}, {"event": "end", "name": "b", **skipped}, {"event": "done"})
    report, warnings = read_device(CPU, finished(text))
    assert report.ok
    assert warnings == ["a, b skipped: not there"]


def test_lines_that_are_no_events_are_left_out() -> None:
    noise = 'hello\n{"no": "event"}\n{"event": 3}\n[1]\n{broken\n'
    assert read_events(noise + GOOD + noise) == read_events(GOOD)
    assert len(read_events(GOOD)) == 3


def test_the_document_follows_its_schema() -> None:
    runner = Recorder(GOOD.replace('{"event": "done"}\n', ""), -11)
    report = verify_environment(Path("python"), (GPU,), runner)
    document = json.loads(json.dumps(msgspec.to_builtins(report)))
    jsonschema.validate(document, msgspec.json.schema(Report))
    # What scripts rely on.
    assert document["schema"] == "bnbenv.verify/1"
    assert document["ok"] is False
    (device,) = document["devices"]
    assert {"device", "ok", "steps", "died"} <= set(device)
    assert {"name", "ok", "error", "threshold", "seconds"} <= set(device["steps"][0])
    assert device["died"] == {"signal": "SIGSEGV", "step": None, "timed_out": False, "exit_code": None, "stderr": ""}
    assert next(iter(document)) == "schema"
