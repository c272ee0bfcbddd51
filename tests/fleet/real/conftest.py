"""A fleet of real hosts: each has its own address, sshd, processes, mounts and home (scripts/fleet_hosts.py)."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent.parent
FACTS = "/home/desk/facts.json"  # on every host, where BNBENV_FACTS says so
A100 = "linux-x86_64__550.90.07__8xa100-sm80"
H200 = "linux-x86_64__580.65.06__h200-sm90"
MISMATCH = "linux-x86_64__mismatch__nogpu"
WAIT = 240  # seconds for one command of the desk

# What somebody left in PYTHONPATH on one host: every kernel is registered through this function of bitsandbytes._ops.
WRONG = """

def _wrong(register):
    def register_kernel(name, *devices):
        def decorate(kernel):
            def run(*arguments, **options):
                result = kernel(*arguments, **options)
                return result * 1.5 if name.endswith("::dequantize_4bit") else result
            return register(name, *devices)(run)
        return decorate
    return register_kernel

register_kernel = _wrong(register_kernel)
"""


@dataclass(frozen=True)
class Ended:
    """How a command of the desk ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out)
        return found


@dataclass(frozen=True)
class Desk:
    """The machine where ``bnbenv fleet`` runs: this one, with a project, an inventory of the hosts, and Ansible."""

    root: Path
    environ: Mapping[str, str]
    fleet: Any  # scripts/fleet_hosts.py's Fleet

    @property
    def hosts(self) -> dict[str, Any]:
        found: dict[str, Any] = self.fleet.hosts
        return found

    def __call__(self, *words: str, timeout: float = WAIT, inventory: Path | None = None, **changes: str) -> Ended:
        """``bnbenv fleet WORDS --json`` on the fleet's inventory, or another one."""
        process = self.start(*words, inventory=inventory, **changes)
        out, err = process.communicate(timeout=timeout)
        assert "Traceback" not in err, err
        return self.ended(process.returncode, out, err)

    @staticmethod
    def ended(code: int, out: str, err: str) -> Ended:
        return Ended(code, out, err)

    def start(self, *words: str, inventory: Path | None = None, **changes: str) -> Any:
        hosts = str(inventory or self.fleet.inventory)
        command = [sys.executable, "-m", "bnbenv", "fleet", *words, "-i", hosts, "--json"]
        pipe = subprocess.PIPE
        environ = {**self.environ, **changes}
        return subprocess.Popen(
            command, cwd=self.root, env=environ, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True
        )

    def ansible(self, program: str, *words: str, timeout: float = WAIT, **changes: str) -> Ended:
        """One of Ansible's own programs, as users start it."""
        command = [str(Path(sys.executable).parent / program), "-i", str(self.fleet.inventory), *words]
        ended = subprocess.run(
            command,
            cwd=self.root,
            env={**self.environ, **changes},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        return Ended(ended.returncode, ended.stdout, ended.stderr)

    def away(self, root: Path, **environ: str) -> Desk:
        """Another desk: a project of its own with the same wishes."""
        root.mkdir()
        shutil.copy(self.root / "bnbenv.toml", root)
        shutil.copytree(self.root / "wheels", root / "wheels")
        return replace(self, root=root, environ={**self.environ, **environ})


def found_in_use(host: Any, project: str = "bnbenv") -> dict[str, Any]:
    """What a host has in use: its project's files, and each file of the generation that the link leads to."""
    root = host.home / project
    found: dict[str, Any] = {}
    for path in [root / "bnbenv.toml", *sorted(root.glob("pylock.*.toml"))]:
        found[path.name] = path.read_text() if path.exists() else None
    for link in sorted(root.glob(".venv-*")):
        target = os.readlink(link)
        found[link.name] = target
        generation = root / target
        for folder, _, files in os.walk(generation):
            for name in files:
                if not name.endswith(".pyc"):
                    path = Path(folder, name)
                    stat = path.lstat()
                    found[str(path.relative_to(root))] = (stat.st_mode, stat.st_size, stat.st_mtime_ns)
    return found


def found_generation(host: Any, project: str = "bnbenv") -> int | None:
    """The number of the generation in use; None: there is none."""
    link = host.home / project / ".venv-bnb"
    return int(Path(os.readlink(link)).name) if link.is_symlink() else None


@pytest.fixture(scope="session")
def fleet_hosts() -> ModuleType:
    """scripts/fleet_hosts.py. Skips where no hosts can be made."""
    file = ROOT / "scripts" / "fleet_hosts.py"
    spec = importlib.util.spec_from_file_location("fleet_hosts", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fleet_hosts"] = module
    spec.loader.exec_module(module)
    if why := module.missing():
        pytest.skip(f"no fleet can be made here: {why}")
    if not (Path(sys.executable).parent / "ansible-playbook").exists():
        pytest.skip("ansible-core is missing (pip install 'bnbenv[fleet]')")
    return module


@pytest.fixture(scope="session")
def in_use() -> Callable[[Any], dict[str, Any]]:
    """``in_use(host)``; see found_in_use."""
    return found_in_use


@pytest.fixture(scope="session")
def generation() -> Callable[..., int | None]:
    """``generation(host, project="bnbenv")``."""
    return found_generation


@pytest.fixture(scope="session")
def computes() -> Callable[..., None]:
    """``computes(host, process="")``; see has_processes."""
    return has_processes


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of everything here; it is large, and deleted in the end."""
    folder = tmp_path_factory.mktemp("fleet")
    yield folder
    subprocess.run(["rm", "-rf", folder], check=False)  # Python's own takes minutes for so many files


@pytest.fixture(scope="session")
def plain_facts(synced: Any, tool_environ: dict[str, str]) -> dict[str, Any]:
    """This machine's facts without a GPU."""
    words = [sys.executable, "-m", "bnbenv", "facts", "--json"]
    ended = subprocess.run(words, env=tool_environ, cwd=synced.root, capture_output=True, timeout=60, check=True)
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def desk_project(root: Path, synced: Any, torch_wheel: Callable[..., str]) -> None:
    """One bnbenv.toml for all hosts: those without a GPU get the CPU build of torch that this machine's tests have,
    the others a small stand-in for a CUDA build that their driver can run, of a release that exists nowhere else."""
    torch = synced.first["lock"].document["locks"][0]["choice"]["torch"]["version"]
    release = torch.partition("+")[0]
    major, minor = release.split(".")[:2]
    root.mkdir()
    for cuda in ("12.6", "13.0"):
        torch_wheel(root / "wheels", cuda, f"{major}.{minor}.99")
    python = f"=={sys.version_info.major}.{sys.version_info.minor}.*"
    lines = ["[envs.bnb]", f'torch = ">={release},<={major}.{minor}.99"', f'python = "{python}"']
    (root / "bnbenv.toml").write_text("\n".join([*lines, "[sources]", 'find-links = ["wheels"]', ""]))


@pytest.fixture(scope="session")
def desk(
    fleet_hosts: ModuleType,
    base: Path,
    synced: Any,
    torch_wheel: Callable[..., str],
    plain_facts: dict[str, Any],
    tool_environ: dict[str, str],
    _nvml_libraries: dict[str, Path],
) -> Iterator[Desk]:
    """A desk, and hosts of three kinds; bnbenv is on all of them, and nothing else yet.

    ``cpu1``, ``cpu2``: sound, cpu2 slow. ``bad``: the same, with wrong kernels in its PYTHONPATH. ``lost``: the same,
    for trouble with its network. ``old``, ``gpu1``, ``gpu2``: by their facts an A100 with an older driver and two
    H200, whose kernels nobody can run here. ``dead``: no sshd. ``reboot``: its driver is half upgraded.
    """
    facts = dict.fromkeys(("cpu1", "cpu2", "bad", "lost", "dead"), plain_facts)
    for name, recorded in (("old", A100), ("gpu1", H200), ("gpu2", H200), ("reboot", MISMATCH)):
        there = json.loads((ROOT / "tests" / "hosts" / recorded / "facts.json").read_text())
        facts[name] = {**plain_facts, "driver": there["driver"], "gpus": there["gpus"], "unknown": []}
    environ = {"BNBENV_FACTS": FACTS, "OMP_NUM_THREADS": "1"}
    nvml = {"LD_LIBRARY_PATH": "/home/desk/nvml", "NVML_STUB_CONFIG": "/home/desk/nvml/conf"}
    more = {"bad": {"PYTHONPATH": "/home/desk/theirs"}, "gpu1": nvml, "gpu2": nvml, "old": nvml}
    order = ("cpu1", "cpu2", "old", "gpu1", "gpu2", "bad", "lost", "dead", "reboot")
    wanted = [fleet_hosts.Wanted(name, {**environ, **more.get(name, {})}, None, name != "dead") for name in order]
    (base / "shared").mkdir()
    with fleet_hosts.fleet(base / "hosts", wanted, base / "bytecode", [base / "shared"]) as made:
        for name, host in made.hosts.items():
            (host.home / "facts.json").write_text(json.dumps(facts[name]))
        wrong_kernels(synced, made.hosts["bad"].home / "theirs")
        for name in ("old", "gpu1", "gpu2"):
            (made.hosts[name].home / "nvml").mkdir()
            shutil.copy(_nvml_libraries["new"], made.hosts[name].home / "nvml" / "libnvidia-ml.so.1")
            has_processes(made.hosts[name])
        desk_project(base / "desk", synced, torch_wheel)
        yield Desk(base / "desk", desk_environ(base, tool_environ), made)


def desk_environ(base: Path, inherited: Mapping[str, str]) -> dict[str, str]:
    """The environment at the desk, with nothing of this machine's users of Ansible."""
    foreign = ("ANSIBLE", "BNBENV_FACTS", "SSH_")
    kept = {name: value for name, value in inherited.items() if not name.startswith(foreign)}
    return {**kept, "BNBENV_HOME": str(base / "user"), "ANSIBLE_HOME": str(base / "ansible")}


@pytest.fixture(scope="session")
def bare_desk(
    fleet_hosts: ModuleType, base: Path, desk: Desk, plain_facts: dict[str, Any], tool_environ: dict[str, str]
) -> Iterator[Desk]:
    """The same desk, and two clean Debians that have a Python and nothing else; by their facts H200, as gpu1."""
    archive = ROOT / ".test-env/debian.tar"
    if not archive.exists() or platform.machine() != "x86_64":
        pytest.skip("no clean Debian is here (scripts/test.sh makes one where it is root and has mmdebstrap)")
    system = base / "debian"
    system.mkdir()
    subprocess.run(["tar", "-xf", archive, "-C", system], check=True, timeout=120)
    facts = (desk.hosts["gpu1"].home / "facts.json").read_text()
    environ = {"BNBENV_FACTS": "/root/facts.json"}
    wanted = [fleet_hosts.Wanted(name, environ, system) for name in ("bare1", "bare2")]
    with fleet_hosts.fleet(base / "bare-hosts", wanted) as made:
        for host in made.hosts.values():
            (host.home / "facts.json").write_text(facts)
        yield Desk(desk.root, desk.environ, made)


def has_processes(host: Any, process: str = "") -> None:
    """What NVML tells on a host: its GPU, and a process on it (such as ``pid=1 used=1073741824``)."""
    lines = ["driver 580.65.06", "gpu uuid=GPU-1 cc=9.0 memory=150754820096 name=NVIDIA H200"]
    lines += [f"process {process}"] if process else []
    (host.home / "nvml" / "conf").write_text("\n".join([*lines, ""]))


def wrong_kernels(synced: Any, folder: Path) -> None:
    """A copy of bitsandbytes whose 4-bit values come out wrong."""
    found = next((synced.root / ".venv-bnb").resolve().glob("lib/python*/site-packages/bitsandbytes"))
    shutil.copytree(found, folder / "bitsandbytes", ignore=shutil.ignore_patterns("libbitsandbytes_[!c]*", "*_cuda1*"))
    with (folder / "bitsandbytes" / "_ops.py").open("a") as stream:
        stream.write(WRONG)


@pytest.fixture(scope="session")
def collections(desk: Desk) -> dict[str, str]:
    """Where Ansible finds the collection, as users tell it."""
    words = [sys.executable, "-m", "bnbenv", "fleet", "collection", "--json"]
    ended = subprocess.run(words, cwd=desk.root, env=desk.environ, capture_output=True, timeout=60, check=True)
    return {"ANSIBLE_COLLECTIONS_PATH": json.loads(ended.stdout)["path"]}
