"""Probing: the real nvidia-ml-py against the stand-in library, the fallbacks, and hosts laid out below a sysroot."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bnbenv.facts.host import HostPort
from bnbenv.facts.model import HostFacts, Mig, MigSlice, Python
from bnbenv.facts.probe import probe_host
from bnbenv.paths import Sysroot
from bnbenv.process import Command, Finished, SystemRunner

LINUX = HostPort("linux", "x86_64", "glibc 2.36")
H200 = "gpu uuid=GPU-1 cc=9.0 memory=150754820096 name=NVIDIA H200"
MODULE = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.133.20  Thu Jan  1 00:00:00 UTC 1970\n"


def probe(
    root: Path, environ: dict[str, str] | None = None, port: HostPort = LINUX, limit: float = 30.0, runner: Any = None
) -> HostFacts:
    return probe_host({"PATH": os.defpath} | (environ or {}), Sysroot(root), runner or SystemRunner(), port, limit)


def write(root: Path, name: str, text: str = "") -> Path:
    path = root / name.lstrip("/")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def reasons(facts: HostFacts, fact: str) -> str:
    return " / ".join(entry.reason for entry in facts.unknown if entry.fact == fact)


class RecordingRunner(SystemRunner):
    """Runs for real, and remembers what it was asked to run."""

    def __init__(self) -> None:
        self.programs: list[str] = []

    def run(self, command: Command) -> Finished:
        self.programs.append(Path(command.argv[0]).name)
        return super().run(command)


class SilentRunner:
    """Every program ends at once with the same output."""

    def __init__(self, stdout: str, code: int = 0) -> None:
        self.stdout, self.code = stdout, code

    def run(self, command: Command) -> Finished:
        return Finished(command, self.code, self.stdout, "", False, 0.0)


def test_this_machine_can_be_probed_without_torch() -> None:
    facts = probe_host(os.environ, Sysroot(), SystemRunner())
    assert facts.platform.machine in ("x86_64", "aarch64")
    assert facts.platform.os == {"linux": "linux", "darwin": "macos", "win32": "windows"}[sys.platform]
    own = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    assert own in [python.path for python in facts.pythons]
    explained = {entry.fact for entry in facts.unknown}
    for name in ("version", "kernel_module", "userland", "cuda"):
        assert (getattr(facts.driver, name) is None) == (f"driver.{name}" in explained)
    assert "torch" not in sys.modules


def test_an_empty_host_has_no_driver_and_says_so(tmp_path: Path) -> None:
    facts = probe(tmp_path)
    assert facts.driver.state == "absent"
    assert facts.gpus == ()
    assert "no NVIDIA driver" in reasons(facts, "gpus")


def test_every_gpu_is_listed_with_its_capability_uuid_and_memory(tmp_path: Path, nvml_stub: Any) -> None:
    config = (
        f"driver 550.54.15\nnvml 12.550.54.15\ncuda 12040\n{H200}\ngpu uuid=GPU-2 cc=7.0 memory=17179869184 name=V100\n"
    )
    facts = probe(tmp_path, nvml_stub.environment(config))
    assert (facts.driver.state, facts.driver.version, facts.driver.cuda) == ("ok", "550.54.15", "12.4")
    assert (facts.driver.userland, facts.driver.source) == ("550.54.15", "nvml")
    assert [(gpu.index, gpu.uuid, gpu.name, gpu.arch, gpu.memory_total) for gpu in facts.gpus] == [
        (0, "GPU-1", "NVIDIA H200", "sm_90", 150754820096),
        (1, "GPU-2", "V100", "sm_70", 17179869184),
    ]
    assert "kernel_module" in " ".join(entry.fact for entry in facts.unknown)


def test_mig_slices_have_their_own_uuids(tmp_path: Path, nvml_stub: Any) -> None:
    slices = "slice uuid=MIG-1 memory=10 name=H200 MIG 1g.18gb\nslice uuid=MIG-2 memory=20 name=H200 MIG 2g.35gb\n"
    config = (
        f"gpu uuid=GPU-1 cc=9.0 memory=30 mig=1 name=H200\n{slices}gpu uuid=GPU-2 cc=9.0 memory=30 mig=0 name=H200\n"
    )
    facts = probe(tmp_path, nvml_stub.environment(config))
    cut = Mig("enabled", (MigSlice("MIG-1", "H200 MIG 1g.18gb", 10), MigSlice("MIG-2", "H200 MIG 2g.35gb", 20)))
    assert [gpu.mig for gpu in facts.gpus] == [cut, None]


def test_error_18_is_a_mismatch_and_nvidia_smi_is_not_asked(tmp_path: Path, nvml_stub: Any) -> None:
    write(tmp_path, "/proc/driver/nvidia/version", MODULE)
    program(tmp_path / "bin" / "nvidia-smi", "#!/bin/sh\nexit 18\n")
    runner = RecordingRunner()
    environ = nvml_stub.environment("init 18\nnvml 12.580.65.06\n") | {"PATH": f"{tmp_path / 'bin'}:{os.defpath}"}
    facts = probe(tmp_path, environ, runner=runner)
    assert facts.driver.state == "mismatch"
    assert (facts.driver.kernel_module, facts.driver.userland) == ("570.133.20", "580.65.06")
    assert "reboot" in reasons(facts, "driver")
    assert "nvidia-smi" not in runner.programs


def test_a_library_of_another_version_is_a_mismatch_though_nvml_does_not_start(tmp_path: Path) -> None:
    write(tmp_path, "/proc/driver/nvidia/version", MODULE)
    library = write(tmp_path, "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.580.65.06")
    (library.parent / "libnvidia-ml.so.1").symlink_to("libnvidia-ml.so.580.65.06")
    facts = probe(tmp_path)
    assert facts.driver.state == "mismatch"
    assert facts.driver.userland == "580.65.06"


def test_an_nvml_that_answers_for_another_driver_than_the_module_is_a_mismatch(tmp_path: Path, nvml_stub: Any) -> None:
    write(tmp_path, "/proc/driver/nvidia/version", MODULE)
    facts = probe(tmp_path, nvml_stub.environment(f"driver 580.65.06\nnvml 13.580.65.06\n{H200}\n"))
    assert facts.driver.state == "mismatch"
    assert (facts.driver.kernel_module, facts.driver.userland) == ("570.133.20", "580.65.06")


def test_gpus_on_the_bus_that_the_driver_does_not_list_are_told_except_in_a_container(
    tmp_path: Path, nvml_stub: Any
) -> None:
    for slot in ("01", "02"):
        write(tmp_path, f"/sys/bus/pci/devices/0000:{slot}:00.0/vendor", "0x10de\n")
        write(tmp_path, f"/sys/bus/pci/devices/0000:{slot}:00.0/class", "0x030200\n")
    environ = nvml_stub.environment(f"{H200}\n")
    facts = probe(tmp_path, environ)
    assert (facts.driver.state, len(facts.gpus)) == ("ok", 1)
    assert "the PCI bus shows 2 GPUs, the driver answers for 1" in reasons(facts, "gpus")
    write(tmp_path, "/.dockerenv")  # which is given a part of the host's GPUs
    assert reasons(probe(tmp_path, environ), "gpus") == ""


def test_a_newer_libcuda_beside_the_drivers_own_libraries_is_no_mismatch(tmp_path: Path, nvml_stub: Any) -> None:
    write(tmp_path, "/proc/driver/nvidia/version", MODULE)
    environ = nvml_stub.environment(f"driver 570.133.20\nnvml 12.570.133.20\ncuda 13000\n{H200}\n", "570.133.20")
    compat = write(tmp_path, "/usr/local/cuda-13.0/compat/libcuda.so.580.65.06").parent
    environ["LD_LIBRARY_PATH"] = f"{compat}:{environ['LD_LIBRARY_PATH']}"
    facts = probe(tmp_path, environ)
    assert (facts.driver.state, facts.driver.version, facts.driver.cuda) == ("ok", "570.133.20", "13.0")


@pytest.mark.parametrize("call", ["nvmlInitWithFlags", "nvmlDeviceGetCount_v2", "nvmlDeviceGetName"])
def test_a_hung_driver_ends_at_the_limit_and_proc_is_read_all_the_same(
    tmp_path: Path, nvml_stub: Any, call: str
) -> None:
    write(tmp_path, "/proc/driver/nvidia/version", MODULE)
    write(tmp_path, "/proc/driver/nvidia/gpus/0000:01:00.0/information", "Model: \t NVIDIA A100\nGPU UUID: \t GPU-9\n")
    started = time.monotonic()
    facts = probe(tmp_path, nvml_stub.environment(f"{H200}\nhang {call}\n"), limit=1.0)
    assert time.monotonic() - started < 20
    assert (facts.driver.state, facts.driver.kernel_module) == ("error", "570.133.20")
    assert facts.gpus == ()
    assert "did not answer within 1 s" in reasons(facts, "driver")
    assert "one GPU" in reasons(facts, "gpus") and "NVIDIA A100 at 0000:01:00.0" in reasons(facts, "gpus")


def test_a_crash_inside_the_driver_is_an_error_and_not_ours(tmp_path: Path, nvml_stub: Any) -> None:
    write(tmp_path, "/proc/driver/nvidia/version", MODULE)
    facts = probe(tmp_path, nvml_stub.environment(f"{H200}\ncrash nvmlDeviceGetName\n"))
    assert facts.driver.state == "error"
    assert "SIGSEGV" in reasons(facts, "driver")


@pytest.mark.parametrize(
    ("call", "fact"),
    [
        ("nvmlDeviceGetMemoryInfo", "gpus[1].memory_total"),
        ("nvmlDeviceGetUUID", "gpus[1].uuid"),
        ("nvmlDeviceGetName", "gpus[1].name"),
    ],
)
def test_one_failing_query_does_not_lose_the_gpu(tmp_path: Path, nvml_stub: Any, call: str, fact: str) -> None:
    facts = probe(tmp_path, nvml_stub.environment(f"{H200}\n{H200}\nfail {call} 999 1\n"))
    assert [gpu.arch for gpu in facts.gpus] == ["sm_90", "sm_90"]
    assert reasons(facts, fact) == f"{call}: Unknown Error (NVML error 999)"
    assert facts.driver.state == "ok"


def test_a_gpu_that_is_lost_is_named_and_the_others_stay(tmp_path: Path, nvml_stub: Any) -> None:
    config = f"{H200}\n{H200}\nfail nvmlDeviceGetHandleByIndex_v2 15 0\n"
    facts = probe(tmp_path, nvml_stub.environment(config))
    assert [gpu.index for gpu in facts.gpus] == [1]
    assert "one GPU" in reasons(facts, "gpus") and "GPU is lost" in reasons(facts, "gpus")


def test_a_driver_too_old_to_tell_the_capability_lists_no_wrong_gpu(tmp_path: Path, nvml_stub: Any) -> None:
    facts = probe(tmp_path, nvml_stub.environment(f"driver 340.108\n{H200}\n", old=True))
    assert (facts.driver.state, facts.gpus) == ("ok", ())
    assert "the compute capability of one GPU could not be read" in reasons(facts, "gpus")


def test_a_name_that_is_no_text_is_not_fatal(tmp_path: Path, nvml_stub: Any) -> None:
    environ = nvml_stub.environment("")
    Path(environ["NVML_STUB_CONFIG"]).write_bytes(b"gpu uuid=GPU-1 cc=9.0 memory=1 name=\xff\xfe\n")
    facts = probe(tmp_path, environ)
    assert [gpu.arch for gpu in facts.gpus] == ["sm_90"]


@pytest.mark.parametrize("said", ["", "{", "null", "[]", '{"devices": 3}', '{"driver": 5}', "\x00\xff"])
def test_a_malformed_answer_of_nvml_is_not_fatal(tmp_path: Path, nvml_stub: Any, said: str) -> None:
    write(tmp_path, "/proc/driver/nvidia/version", MODULE)
    facts = probe(tmp_path, nvml_stub.environment(H200, "570.133.20"), runner=SilentRunner(said))
    assert facts.driver.state == "error"
    assert reasons(facts, "driver")


SMI_ROWS = """\
0, GPU-1, NVIDIA H200, 9.0, 143771, 550.54.15
1, GPU-2, NVIDIA A100, [N/A], [Insufficient Permissions], 550.54.15
"""


def test_without_nvml_nvidia_smi_is_asked(tmp_path: Path) -> None:
    program(tmp_path / "bin" / "nvidia-smi", f"#!/bin/sh\ncat <<'END'\n{SMI_ROWS}END\n")
    facts = probe(tmp_path, {"PATH": f"{tmp_path / 'bin'}:{os.defpath}"})
    assert (facts.driver.state, facts.driver.version, facts.driver.source) == ("ok", "550.54.15", "nvidia-smi")
    assert [(gpu.uuid, gpu.arch, gpu.memory_total) for gpu in facts.gpus] == [("GPU-1", "sm_90", 143771 << 20)]
    assert "NVIDIA A100" in reasons(facts, "gpus")


def test_an_nvidia_smi_that_does_not_know_the_capability_still_tells_the_driver(tmp_path: Path) -> None:
    script = """#!/bin/sh
case "$1" in
  *compute_cap*) echo 'Field "compute_cap" is not a valid field to query.'; exit 2 ;;
esac
echo '0, GPU-1, Tesla K80, 11441, 470.256.02'
"""
    program(tmp_path / "bin" / "nvidia-smi", script)
    facts = probe(tmp_path, {"PATH": f"{tmp_path / 'bin'}:{os.defpath}"})
    assert (facts.driver.state, facts.driver.version, facts.gpus) == ("ok", "470.256.02", ())
    assert "Tesla K80" in reasons(facts, "gpus")


def test_nvidia_smi_tells_a_mismatch_by_its_exit_code(tmp_path: Path) -> None:
    script = "#!/bin/sh\necho 'Failed to initialize NVML: Driver/library version mismatch'\nexit 18\n"
    program(tmp_path / "bin" / "nvidia-smi", script)
    facts = probe(tmp_path, {"PATH": f"{tmp_path / 'bin'}:{os.defpath}"})
    assert (facts.driver.state, facts.driver.source) == ("mismatch", "nvidia-smi")


def test_a_hung_nvidia_smi_ends_at_the_limit(tmp_path: Path) -> None:
    program(tmp_path / "bin" / "nvidia-smi", "#!/bin/sh\nsleep 100\n")
    write(tmp_path, "/proc/driver/nvidia/version", MODULE)
    started = time.monotonic()
    facts = probe(tmp_path, {"PATH": f"{tmp_path / 'bin'}:{os.defpath}"}, limit=0.5)
    assert time.monotonic() - started < 20
    assert facts.driver.state == "error"


def test_wsl_is_told_by_its_kernel_and_nvml_is_found_in_its_folder(tmp_path: Path, nvml_stub: Any) -> None:
    write(tmp_path, "/proc/sys/kernel/osrelease", "5.15.167.4-microsoft-standard-WSL2\n")
    environ = nvml_stub.environment(f"driver 572.83\nnvml 12.570.124.06\n{H200}\n")
    library = Path(environ.pop("LD_LIBRARY_PATH")) / "libnvidia-ml.so.1"
    place = tmp_path / "usr/lib/wsl/lib"
    place.mkdir(parents=True)
    library.rename(place / "libnvidia-ml.so.1")
    facts = probe(tmp_path, environ)
    assert facts.platform.wsl
    assert (facts.driver.state, facts.driver.version) == ("ok", "572.83")
    assert "Windows" in reasons(facts, "driver.kernel_module")


def test_a_broken_library_is_an_error_where_a_gpu_is(tmp_path: Path) -> None:
    write(tmp_path, "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1", "no library")
    assert probe(tmp_path).driver.state == "absent"
    write(tmp_path, "/sys/bus/pci/devices/0000:01:00.0/vendor", "0x10de\n")
    write(tmp_path, "/sys/bus/pci/devices/0000:01:00.0/class", "0x030000\n")
    facts = probe(tmp_path)
    assert facts.driver.state == "error"
    assert "kernel module is not loaded" in reasons(facts, "driver")


@pytest.mark.parametrize(
    ("environ", "files", "kind"),
    [
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, {"/.dockerenv": ""}, "kubernetes"),
        ({"APPTAINER_CONTAINER": "x.sif"}, {}, "apptainer"),
        ({}, {"/.dockerenv": ""}, "docker"),
        ({"container": "oci"}, {"/run/.containerenv": ""}, "podman"),
        ({"container": "systemd-nspawn"}, {}, "systemd-nspawn"),
        ({}, {"/proc/1/cgroup": "0::/kubepods/besteffort/pod1\n"}, "kubernetes"),
        ({}, {"/proc/1/cgroup": "0::/init.scope\n"}, None),
    ],
)
def test_the_kind_of_container(
    tmp_path: Path, environ: dict[str, str], files: dict[str, str], kind: str | None
) -> None:
    for name, text in files.items():
        write(tmp_path, name, text)
    assert probe(tmp_path, environ).platform.container == kind


def test_a_jetson_in_a_container_is_told_by_its_kernel(tmp_path: Path) -> None:
    write(tmp_path, "/proc/version", "Linux version 5.15.148-tegra (buildbrain@mobile) (gcc 11.3.0) #1 SMP\n")
    write(tmp_path, "/proc/device-tree/compatible", "nvidia,p3701-0005\0nvidia,tegra234\0")
    facts = probe(tmp_path, port=HostPort("linux", "aarch64", "glibc 2.35"))
    assert facts.platform.jetson == "36"
    assert [gpu.arch for gpu in facts.gpus] == ["sm_87"]
    assert "nv_tegra_release" in reasons(facts, "platform.jetson")


def test_windows_machine_names_are_normalized_and_nvml_is_looked_for_in_its_folders(tmp_path: Path) -> None:
    runner = RecordingRunner()
    facts = probe(tmp_path, {"WINDIR": str(tmp_path)}, HostPort("win32", "AMD64"), runner=runner)
    assert (facts.platform.os, facts.platform.machine, facts.platform.libc) == ("windows", "x86_64", None)
    assert facts.driver.state == "absent"
    assert "nvml.dll" in reasons(facts, "gpus")
    assert all(not name.startswith("python") for name in runner.programs)


def test_on_windows_nvidia_smi_of_system32_is_found(tmp_path: Path) -> None:
    program(tmp_path / "System32" / "nvidia-smi.exe", f"#!/bin/sh\ncat <<'END'\n{SMI_ROWS}END\n")
    facts = probe(tmp_path, {"WINDIR": str(tmp_path)}, HostPort("win32", "AMD64"))
    assert (facts.driver.state, facts.driver.source) == ("ok", "nvidia-smi")


def test_what_is_set_in_the_environment_is_told_and_nothing_else(tmp_path: Path) -> None:
    facts = probe(tmp_path, {"BNB_CUDA_VERSION": "128", "SECRET_TOKEN": "x"})
    assert facts.environment["BNB_CUDA_VERSION"] == "128"
    assert facts.environment["CUDA_VISIBLE_DEVICES"] is None
    assert "SECRET_TOKEN" not in facts.environment


def test_the_running_interpreter_is_known_even_where_uv_fails(tmp_path: Path) -> None:
    port = HostPort("linux", "x86_64", "glibc 2.36", Python("/usr/bin/python3.12", "3.12.3"))
    facts = probe(tmp_path, port=port, runner=SilentRunner("", 2))
    assert facts.pythons == (Python("/usr/bin/python3.12", "3.12.3"),)
    assert "uv did not list" in reasons(facts, "pythons")
