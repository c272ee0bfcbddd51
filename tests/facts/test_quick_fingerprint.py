"""The fingerprint of the fast path: stable where nothing changed, and naming what did."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bnbenv.errors import InputError
from bnbenv.facts.quick import Quick, differences, nvml_fingerprint, quick_facts
from bnbenv.paths import Sysroot
from bnbenv.process import SystemRunner

HOSTS = Path(__file__).parent.parent / "hosts"
H200 = "gpu uuid=GPU-1 cc=9.0 memory=150754820096 name=NVIDIA H200"


class Tree:
    """A Linux host with a driver, as files below a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.libraries = root / "usr/lib/x86_64-linux-gnu"
        self.libraries.mkdir(parents=True)
        self.module("570.133.20")
        self.library("570.133.20")
        self.gpu("0000:01:00.0", "NVIDIA A100", "GPU-1")

    def write(self, name: str, text: str) -> Path:
        path = self.root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def module(self, version: str) -> None:
        self.write("/proc/driver/nvidia/version", f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {version}  Thu\n")

    def library(self, version: str) -> None:
        for old in self.libraries.iterdir():
            old.unlink()
        (self.libraries / f"libnvidia-ml.so.{version}").touch()
        (self.libraries / "libnvidia-ml.so.1").symlink_to(f"libnvidia-ml.so.{version}")

    def gpu(self, bus: str, name: str, uuid: str) -> Path:
        text = f"Model: \t\t {name}\nIRQ:   \t\t 31\nGPU UUID: \t {uuid}\nBus Location: \t {bus}\nGPU Excluded:\t No\n"
        return self.write(f"/proc/driver/nvidia/gpus/{bus}/information", text)

    def quick(self, environ: dict[str, str] | None = None) -> Quick:
        return quick_facts(environ or {}, Sysroot(self.root), "linux")


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_two_calls_give_the_same(tree: Tree) -> None:
    first = tree.quick()
    assert first.state == "ok"
    assert first == tree.quick()
    assert differences(first.fingerprint, tree.quick().fingerprint) == []


def _upgrade(tree: Tree) -> None:
    tree.module("580.65.06")
    tree.library("580.65.06")


def _swap(tree: Tree) -> None:
    tree.gpu("0000:01:00.0", "NVIDIA H200", "GPU-2")


def _add(tree: Tree) -> None:
    tree.gpu("0000:02:00.0", "NVIDIA H200", "GPU-2")


def _remove(tree: Tree) -> None:
    folder = tree.root / "proc/driver/nvidia/gpus/0000:01:00.0"
    (folder / "information").unlink()
    folder.rmdir()


def _cut(tree: Tree) -> None:
    tree.write("/proc/driver/nvidia/capabilities/gpu0/mig/gi1/ci0/access", "DeviceFileMinor: 1\n")
    tree.write("/proc/driver/nvidia/capabilities/gpu0/mig/gi2/ci0/access", "DeviceFileMinor: 2\n")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (_upgrade, ["driver library 570.133.20 -> 580.65.06", "driver module 570.133.20 -> 580.65.06"]),
        (_swap, ["GPU 0000:01:00.0 NVIDIA A100 -> NVIDIA H200", "GPU 0000:01:00.0 UUID GPU-1 -> GPU-2"]),
        (_add, ["GPU 0000:02:00.0 is new (NVIDIA H200)"]),
        (_remove, ["GPU 0000:01:00.0 gone (was NVIDIA A100)"]),
        (_cut, ["MIG gpu0 is new (gi1/ci0 gi2/ci0)"]),
    ],
)
def test_each_change_of_the_host_is_named(tree: Tree, change: Callable[[Tree], None], named: list[str]) -> None:
    before = tree.quick()
    change(tree)
    after = tree.quick()
    assert after.state == "ok"
    assert differences(before.fingerprint, after.fingerprint) == named


def test_a_gpu_that_was_not_used_since_boot_is_no_change(tree: Tree) -> None:
    before = tree.quick()
    tree.gpu("0000:01:00.0", "Unknown", "GPU-????????-????-????-????-????????????")
    assert differences(before.fingerprint, tree.quick().fingerprint) == []


def test_a_library_upgraded_without_a_reboot_is_a_mismatch(tree: Tree) -> None:
    tree.library("580.65.06")
    assert tree.quick().state == "mismatch"


def test_the_library_that_the_loader_takes_counts(tree: Tree, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = Tree(tmp_path_factory.mktemp("other"))
    other.library("580.65.06")
    assert tree.quick({"LD_LIBRARY_PATH": f"/nowhere:{other.libraries}"}).state == "mismatch"
    # the loader's cache comes before the usual folders, and links are followed inside the prefix
    cached = tree.write("/drivers/current/libnvidia-ml.so.580.65.06", "")
    link = tree.root / "etc" / "alternatives" / "libnvidia-ml.so.1"
    link.parent.mkdir(parents=True)
    link.symlink_to("/drivers/current/libnvidia-ml.so.580.65.06")
    assert cached.exists()
    (tree.root / "etc" / "ld.so.cache").write_bytes(b"glibc-ld.so.cache1.1\0/etc/alternatives/libnvidia-ml.so.1\0")
    assert tree.quick().fingerprint["driver library"] == "580.65.06"


def test_a_dangling_or_32_bit_library_is_none(tree: Tree) -> None:
    (tree.libraries / "libnvidia-ml.so.570.133.20").write_bytes(b"\x7fELF\x01")
    assert tree.quick().state == "error"
    (tree.libraries / "libnvidia-ml.so.570.133.20").unlink()
    assert tree.quick().state == "error"


def test_without_a_driver_the_pci_bus_is_read(tmp_path: Path) -> None:
    device = tmp_path / "sys/bus/pci/devices/0000:01:00.0"
    device.mkdir(parents=True)
    assert quick_facts({}, Sysroot(tmp_path), "linux").fingerprint.keys() == {"libc"}
    for name, text in {"vendor": "0x10de\n", "class": "0x030000\n", "device": "0x2684\n"}.items():
        (device / name).write_text(text)
    quick = quick_facts({}, Sysroot(tmp_path), "linux")
    assert quick.state == "absent"
    assert quick.fingerprint["GPU 0000:01:00.0"] == "PCI 0x2684, no driver"
    (device / "driver").symlink_to("/sys/bus/pci/drivers/vfio-pci")  # handed to a virtual machine
    assert quick_facts({}, Sysroot(tmp_path), "linux").fingerprint.keys() == {"libc"}


def test_where_files_do_not_tell_nvml_is_asked_and_a_swapped_gpu_is_named(tmp_path: Path, nvml_stub: Any) -> None:
    def look(config: str) -> Quick:
        environ = nvml_stub.environment(config)
        assert quick_facts(environ, Sysroot(tmp_path)).state == "unclear"
        return nvml_fingerprint(environ, Sysroot(tmp_path), SystemRunner())

    before = look(f"driver 570.133.20\nnvml 12.570.133.20\n{H200}\n")
    assert before.state == "ok"
    assert look(f"driver 570.133.20\nnvml 12.570.133.20\n{H200}\n") == before
    after = look("gpu uuid=GPU-2 cc=12.0 memory=1 name=NVIDIA GeForce RTX 5090\n")
    assert differences(before.fingerprint, after.fingerprint) == [
        "GPU GPU-1 gone (was NVIDIA H200 (9.0))",
        "GPU GPU-2 is new (NVIDIA GeForce RTX 5090 (12.0))",
        "driver 570.133.20 -> 580.65.06",
        "driver library 570.133.20 -> 580.65.06",
    ]
    assert look("init 18\n").state == "mismatch"


def test_windows_asks_nvml_and_macos_has_none(tmp_path: Path) -> None:
    assert quick_facts({"WINDIR": str(tmp_path)}, Sysroot(tmp_path), "win32").state == "absent"
    library = tmp_path / "System32" / "nvml.dll"
    library.parent.mkdir()
    library.touch()
    assert quick_facts({"WINDIR": str(tmp_path)}, Sysroot(tmp_path), "win32").state == "unclear"
    assert quick_facts({}, Sysroot(tmp_path), "darwin") == Quick("absent", {})


def test_a_recorded_facts_file_stands_for_the_host(tmp_path: Path) -> None:
    document = json.loads((HOSTS / "linux-x86_64__580.65.06__h200-sm90" / "facts.json").read_bytes())
    file = tmp_path / "facts.json"
    environ = {"BNBENV_FACTS": str(file)}

    def look() -> Quick:
        file.write_text(json.dumps(document))
        return quick_facts(environ, Sysroot(tmp_path))

    before = look()
    assert before.state == "ok"
    document["pythons"] = []  # no part of the decision about driver and GPU
    document["driver"]["source"] = "nvidia-smi"
    assert look() == before
    document["driver"]["version"] = "590.48.01"
    uuid, document["gpus"][0]["uuid"] = document["gpus"][0]["uuid"], "GPU-2"
    changes = [change.split(" (")[0] for change in differences(before.fingerprint, look().fingerprint)]
    assert sorted(changes) == sorted(
        ["GPU GPU-2 is new", f"GPU {uuid} gone", "driver version 580.65.06 -> 590.48.01"],
    )
    document["driver"]["state"] = "mismatch"
    assert look().state == "mismatch"


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"platform": 1, "driver": {}, "gpus": []}'])
def test_a_facts_file_that_cannot_be_read_is_named(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "facts.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(InputError) as caught:
        quick_facts({"BNBENV_FACTS": str(file)}, Sysroot(tmp_path))
    assert str(file) in caught.value.message
    assert caught.value.next_step


def test_the_fast_path_imports_nothing_heavy() -> None:
    code = (
        "import os, sys\n"
        "from bnbenv.facts.quick import quick_facts\n"
        "from bnbenv.paths import Sysroot\n"
        "quick_facts({}, Sysroot())\n"
        "heavy = {'msgspec', 'pynvml', 'subprocess', 'platform', 'uv', 'requests', 'packaging'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
