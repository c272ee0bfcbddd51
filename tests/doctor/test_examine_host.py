"""Conditions of a machine, told from recorded trees: containers, WSL2, clusters, modules, hidden devices, Windows."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from bnbenv.doctor.examine import Ports, Where, examine
from bnbenv.doctor.model import Examination
from bnbenv.facts.model import Driver, HostFacts, decode_facts
from bnbenv.paths import Sysroot
from bnbenv.process import Command, Finished

HOSTS = Path(__file__).parents[1] / "hosts"
T4 = "linux-x86_64__535.183.01__t4-sm75"
WSL = "linux-x86_64__572.83__rtx4090-sm89__wsl"
EIGHT = "linux-x86_64__550.90.07__8xa100-sm80"
ABSENT = "linux-aarch64__absent__nogpu__glibc2.39"
L4T = "linux-aarch64__ok__orin-sm87__jetson35.3.1"
NEUTRAL = {"memory-total", "memory-available", "container", "wsl"}


class Nothing:
    """No program is there."""

    def run(self, command: Command) -> Finished:
        raise FileNotFoundError(command.argv[0])


class Tree:
    """A system below a folder, and the facts of it."""

    def __init__(self, root: Path, host: str) -> None:
        self.root = root
        self.facts: HostFacts = decode_facts((HOSTS / host / "facts.json").read_bytes(), "facts")
        self.environ: dict[str, str] = {}

    def files(self, *names: str, text: str = "") -> None:
        for name in names:
            path = Sysroot(self.root / "sys").path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def platform(self, **changes: object) -> None:
        platform = msgspec.structs.replace(self.facts.platform, **changes)
        self.facts = msgspec.structs.replace(self.facts, platform=platform)

    def no_driver(self) -> None:
        self.facts = msgspec.structs.replace(self.facts, driver=Driver("absent"), gpus=())

    def pci(self) -> None:
        self.files("/sys/bus/pci/devices/0000:01:00.0/vendor", text="0x10de\n")
        self.files("/sys/bus/pci/devices/0000:01:00.0/class", text="0x030200\n")

    def loaded(self, version: str = "535.183.01") -> None:
        self.files("/sys/module/nvidia/version", text=f"{version}\n")

    def examine(self) -> Examination:
        for name in ("home", "here", "sys"):
            (self.root / name).mkdir(exist_ok=True)
        ports = Ports(self.environ, Nothing(), Sysroot(self.root / "sys"), self.root / "home")
        return examine(Where(self.root / "here"), self.facts, ports)

    def codes(self) -> set[str]:
        return set(self.examine().conditions) - NEUTRAL


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """A machine on which all is well."""
    made = Tree(tmp_path, T4)
    made.pci()
    made.loaded()
    made.files("/dev/nvidia0", "/dev/nvidiactl", "/dev/nvidia-uvm", "/usr/lib/x86_64-linux-gnu/libcuda.so.1")
    made.files("/proc/meminfo", text="MemTotal:  131072000 kB\nMemFree: 1 kB\nMemAvailable:   65536000 kB\n")
    return made


def test_on_a_machine_on_which_all_is_well_there_is_only_memory(tree: Tree) -> None:
    found = tree.examine().conditions
    assert found == {"memory-total": str(131072000 * 1024), "memory-available": str(65536000 * 1024)}


def test_recorded_facts_are_of_another_machine(tree: Tree) -> None:
    """BNBENV_FACTS without BNBENV_SYSROOT: what this machine's files say is not told beside them."""
    tree.environ = {"BNBENV_FACTS": "x", "CUDA_VISIBLE_DEVICES": ""}
    ports = Ports(tree.environ, Nothing(), Sysroot(), tree.root)
    assert set(examine(Where(tree.root), tree.facts, ports).conditions) == {"devices-hidden"}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", "devices-hidden"),
        ("-1", "devices-hidden"),
        ("-1,0", "devices-hidden"),
        ("NoDevFiles", "devices-hidden"),
        ("0", None),
        ("0,", None),
        (" 0 ", None),
        ("0,-1", "devices-unmatched"),
        ("1", "devices-unmatched"),
        ("0,1", "devices-unmatched"),
        ("cuda:0", "devices-unmatched"),
        ("GPU-00000000-dead", "devices-unmatched"),
        ("MIG-GPU-b1/1/0", None),
    ],
)
def test_variables_that_hide_gpus(tree: Tree, value: str, expected: str | None) -> None:
    tree.environ = {"CUDA_VISIBLE_DEVICES": value}
    assert tree.codes() == ({expected} if expected else set())


def test_the_beginning_of_a_uuid_names_a_gpu(tree: Tree) -> None:
    tree.environ = {"CUDA_VISIBLE_DEVICES": tree.facts.gpus[0].uuid[:12]}
    assert tree.codes() == set()


def test_containers(tmp_path: Path, tree: Tree) -> None:
    tree.platform(container="docker")
    assert tree.codes() == set()
    tree.environ = {"NVIDIA_DRIVER_CAPABILITIES": "utility"}
    assert tree.codes() == {"container-compute-not-asked"}
    tree.environ = {"NVIDIA_DRIVER_CAPABILITIES": "utility,compute"}
    Sysroot(tree.root / "sys").path("/usr/lib/x86_64-linux-gnu/libcuda.so.1").unlink()
    assert tree.codes() == {"container-without-libcuda"}

    bare = Tree(tmp_path / "bare", T4)
    bare.root.mkdir()
    bare.platform(container="podman")
    bare.no_driver()
    assert bare.codes() == {"container-without-gpu"}
    bare.platform(container=None)
    assert bare.codes() == set()


def test_the_libcuda_of_an_image(tree: Tree) -> None:
    tree.files("/usr/local/cuda/compat/libcuda.so.545.23.08")
    assert tree.codes() == {"cuda-compat"}
    tree.environ = {"LD_LIBRARY_PATH": "/x:/usr/local/cuda/compat/"}
    assert tree.codes() == {"cuda-compat", "cuda-compat-used"}
    tree.loaded("570.124.06")
    tree.facts = msgspec.structs.replace(tree.facts, driver=Driver("ok", "570.124.06", "570.124.06"))
    assert tree.codes() == {"cuda-compat", "cuda-compat-used", "cuda-compat-older"}


def test_wsl(tmp_path: Path) -> None:
    tree = Tree(tmp_path, WSL)
    assert tree.codes() == {"wsl-no-dxg", "wsl-libcuda-missing"}
    tree.files("/dev/dxg", "/usr/lib/wsl/lib/libcuda.so.1")
    assert tree.codes() == {"wsl-not-searched"}
    tree.files("/etc/ld.so.conf.d/ld.wsl.conf", text="# by WSL\n/usr/lib/wsl/lib\n")
    assert tree.codes() == set()
    tree.files("/usr/lib/x86_64-linux-gnu/libcuda.so.535.183.01")
    assert tree.codes() == {"wsl-linux-driver"}


def test_modules_and_devices(tmp_path: Path, tree: Tree) -> None:
    root = Sysroot(tree.root / "sys")
    root.path("/dev/nvidia-uvm").unlink()
    assert tree.codes() == {"uvm-missing"}
    root.path("/dev/nvidia0").unlink()
    assert tree.codes() == {"device-files-missing"}

    dark = Tree(tmp_path / "dark", T4)
    dark.root.mkdir()
    dark.no_driver()
    dark.pci()
    assert dark.codes() == {"no-driver-installed"}
    dark.files("/sys/module/nouveau/refcnt", text="1\n")
    assert dark.codes() == {"no-driver-installed", "nouveau"}
    dark.files("/usr/lib/x86_64-linux-gnu/libcuda.so.1")
    dark.files("/proc/sys/kernel/osrelease", text="6.8.0-45-generic\n")
    dark.files("/lib/modules/6.8.0-44-generic/updates/dkms/nvidia.ko.zst")
    assert dark.codes() == {"nouveau", "module-not-loaded", "module-not-built"}
    dark.files("/lib/modules/6.8.0-45-generic/modules.dep", text="updates/dkms/nvidia.ko.zst:\n")
    assert dark.codes() == {"nouveau", "module-not-loaded"}
    guid = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
    dark.files(f"/sys/firmware/efi/efivars/SecureBoot-{guid}", text="\x06\0\0\0\x00")
    assert "secure-boot" not in dark.codes()
    dark.files(f"/sys/firmware/efi/efivars/SecureBoot-{guid}", text="\x06\0\0\0\x01")
    assert "secure-boot" in dark.codes()


def test_nvswitches_need_the_fabric_manager(tmp_path: Path) -> None:
    tree = Tree(tmp_path, EIGHT)
    tree.loaded("550.90.07")
    tree.files("/dev/nvidia0", "/dev/nvidia-uvm")
    assert tree.codes() == set()
    tree.files("/dev/nvidia-nvswitch0", "/dev/nvidia-nvswitchctl")
    assert tree.codes() == {"fabric-manager-not-running"}
    tree.files("/run/nvidia-fabricmanager/nv-fabricmanager.pid")
    assert tree.codes() == set()


def test_clusters_and_jetsons(tmp_path: Path) -> None:
    tree = Tree(tmp_path, ABSENT)
    assert tree.codes() == set()
    tree.files("/etc/slurm/slurm.conf")
    assert tree.codes() == {"login-node"}
    tree.environ = {"SLURM_JOB_ID": "17"}
    assert tree.codes() == {"job-without-gpu"}

    jetson = Tree(tmp_path / "jetson", L4T)
    jetson.root.mkdir()
    assert jetson.codes() == {"jetson"}


def test_windows_runtimes_and_build_tools(tmp_path: Path) -> None:
    tree = Tree(tmp_path, "windows-x86_64__581.57__rtx4090-sm89")
    found = tree.examine().windows
    assert found is not None
    assert found.runtimes == {"vcruntime140.dll": None, "vcruntime140_1.dll": None, "msvcp140.dll": None}
    assert found.build_tools is None

    tree.files("C:/Windows/System32/VCRUNTIME140.dll", "D:/tools/msvcp140.dll")
    studio = "C:/Program Files (x86)/Microsoft Visual Studio/2022/BuildTools/VC/Tools/MSVC"
    tree.files(f"{studio}/14.9.1/bin/Hostx64/x64/cl.exe", f"{studio}/14.44.35207/bin/Hostx64/x64/cl.exe")
    tree.environ = {"Path": "C:\\nothing;D:\\tools\\", "SYSTEMROOT": "C:\\Windows"}
    found = tree.examine().windows
    assert found is not None
    assert {name: where and where.rpartition("sys/")[2] for name, where in found.runtimes.items()} == {
        "vcruntime140.dll": "C:/Windows/System32/VCRUNTIME140.dll",
        "vcruntime140_1.dll": None,
        "msvcp140.dll": "D:/tools/msvcp140.dll",
    }
    assert found.build_tools is not None and "14.44.35207" in found.build_tools
