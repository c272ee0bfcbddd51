"""What tests share: a stand-in for NVIDIA's management library, compiled in the test run, and real projects."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from _pytest.nodeid import coerce_node_id
from filelock import FileLock


def pytest_configure() -> None:
    """A shell has what it starts in the background ignore Ctrl-C, nohup SIGHUP; so would all that the tests start."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.hookimpl(hookwrapper=True, trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    """pytest-xdist 3.8 writes a test's group into a field that pytest 9.2 no longer reads: no group would be kept."""
    yield
    for item in items:
        grouped = getattr(item, "_nodeid", item.nodeid)
        if grouped != item.nodeid:
            item._id = coerce_node_id(grouped)


@dataclass(frozen=True)
class NvmlStub:
    """Environments in which the real nvidia-ml-py loads the stand-in. Its statements: tests/nvml_stub/nvml_stub.c."""

    libraries: dict[str, Path]
    folder: Path

    def environment(self, config: str, file_version: str | None = None, old: bool = False) -> dict[str, str]:
        """Variables to add to a process's environment.

        A second call of the same test rewrites the same file: that is how a GPU is swapped or a driver upgraded under
        a running test. ``file_version`` names the library's file as a driver package does
        (``libnvidia-ml.so.580.65.06`` behind the link); ``old`` takes a library without the newer functions.
        """
        place = self.folder / "lib"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        link = place / "libnvidia-ml.so.1"
        target = place / f"libnvidia-ml.so.{file_version}" if file_version else link
        os.link(self.libraries["old" if old else "new"], target)
        if file_version:
            link.symlink_to(target.name)
        settings = self.folder / "nvml.conf"
        settings.write_text(config)
        return {"LD_LIBRARY_PATH": str(place), "NVML_STUB_CONFIG": str(settings)}


@pytest.fixture(scope="session")
def _nvml_libraries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("a C compiler (gcc) is missing")
    folder = tmp_path_factory.mktemp("nvml_libraries")
    source = Path(__file__).parent / "nvml_stub" / "nvml_stub.c"
    built = {}
    for name, options in {"new": (), "old": ("-DOLD_DRIVER",)}.items():
        built[name] = folder / f"{name}.so"
        command = [compiler, "-O1", "-Wall", "-Werror", "-shared", "-fPIC", *options, "-o", built[name], source]
        subprocess.run(command, check=True, timeout=60)
    return built


@pytest.fixture
def nvml_stub(_nvml_libraries: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> NvmlStub:
    """A stand-in for libnvidia-ml.so.1 that the real nvidia-ml-py loads; see NvmlStub."""
    return NvmlStub(_nvml_libraries, tmp_path_factory.mktemp("nvml"))


FAMILIES = "families"  # the folder of the project with several families

LENDER = "TEST_BYTECODE_OF"  # in the environment of projects: where the first sync's environment lies

QUANTIZE = """\
import bitsandbytes.functional as F, torch
torch.manual_seed(0)
rows = torch.randn(64, 64)
packed, state = F.quantize_4bit(rows, quant_type="nf4")
error = (F.dequantize_4bit(packed, state) - rows).abs().mean().item()
assert 0 < error < 0.1, error  # the mean error of NF4 on normal values is 0.073
print("quantized")
"""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def document(self) -> dict[str, Any]:
        """The one document on standard output."""
        found: dict[str, Any] = json.loads(self.stdout)
        return found


@dataclass(frozen=True)
class Project:
    """A folder in which the real bnbenv is run, with a user folder of its own and no GPU to be seen.

    ``project("sync", "--fresh", BNBENV_OFFLINE="1")``: words are the command line, names change the environment (None
    removes).
    """

    root: Path
    environ: Mapping[str, str]

    def __call__(self, *words: str, **changes: str | None) -> Ended:
        process = self.start(*words, changes=changes)
        out, err = process.communicate(timeout=300)
        assert "Traceback" not in err, err
        return Ended(process.returncode, out, err)

    def start(
        self, *words: str, command: tuple[str, ...] = ("-m", "bnbenv"), changes: Mapping[str, str | None] = {}
    ) -> Any:
        """The same without waiting; ``command`` is what Python runs instead of bnbenv's own entry."""
        return subprocess.Popen(
            [sys.executable, *command, *words],
            cwd=self.root,
            env=self.changed(**changes),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def changed(self, **changes: str | None) -> dict[str, str]:
        return {name: value for name, value in {**self.environ, **changes}.items() if value is not None}

    def done(self, *words: str, **changes: str | None) -> dict[str, Any]:
        """The document of a command that has to succeed."""
        ended = self(*words, "--json", **changes)
        assert ended.code == 0, ended.stdout + ended.stderr
        return ended.document

    def drift(self, **changes: str | None) -> dict[str, str]:
        """What ``check`` says is not in sync: code -> its sentences; empty where all is."""
        ended = self("check", "--json", **changes)
        reasons: dict[str, str] = {}
        for reason in ended.document["reasons"]:
            known = reasons.get(reason["code"])
            reasons[reason["code"]] = f"{known}; {reason['because']}" if known else reason["because"]
        assert ended.code == (3 if reasons else 0), ended.stdout + ended.stderr
        return reasons

    def python(self, code: str, *options: str, env: str = "bnb", **changes: str | None) -> str:
        """What the environment's own Python prints, with nothing activated."""
        interpreter = self.root / f".venv-{env}" / "bin" / "python"
        words = [str(interpreter), *options, "-c", code]
        done = subprocess.run(
            words, env=self.changed(**changes), capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def quantizes(self) -> bool:
        """Whether a 4-bit quantization runs in the environment in use and its error is as it should be."""
        self.lend_bytecode()
        return self.python(QUANTIZE).endswith("quantized")

    def lend_bytecode(self, env: str = "bnb") -> None:
        """Link the bytecode of the first sync's packages into an environment that has none: compiling it takes 8 s.

        Python looks whether a file is that of its source, by time and size, and replaces it as a whole if not.
        """
        lender = Path(self.environ[LENDER]).resolve()
        borrower = (self.root / f".venv-{env}").resolve()
        if not lender.is_dir() or lender.stat().st_dev != borrower.stat().st_dev:
            return  # no links
        for cache in lender.glob("lib/python*/site-packages/**/__pycache__"):
            target = borrower / cache.relative_to(lender)
            if target.parent.is_dir() and not target.exists():
                shutil.copytree(cache, target, copy_function=os.link)

    def generation(self, env: str = "bnb") -> int:
        """The number of the generation that the link leads to."""
        return int((self.root / f".venv-{env}").readlink().name)

    def uv(self, *words: str) -> None:
        """``uv pip`` on the environment in use, as people run it behind bnbenv's back."""
        from uv import find_uv_bin

        subprocess.run(
            [find_uv_bin(), "pip", *words, "--quiet", "--python", self.root / ".venv-bnb" / "bin" / "python"],
            env=self.changed(),
            check=True,
            timeout=120,
        )

    def replace(self, name: str, change: Callable[[bytes], bytes]) -> Path:
        """Change a file of the project by putting a new one in its place: the old one may be a link into uv's cache."""
        (path,) = self.root.glob(name)
        fresh = path.with_name(path.name + ".fresh")
        fresh.write_bytes(change(path.read_bytes()))
        fresh.replace(path)
        return path

    def listing(self) -> dict[str, tuple[object, ...]]:
        """Everything below the folder but the log of the runs, with what a change would change."""
        found: dict[str, tuple[object, ...]] = {}
        for folder, folders, files in os.walk(self.root):
            if folder == str(self.root / ".bnbenv") and "log" in folders:
                folders.remove("log")
            for name in (".", *folders, *files):
                path = Path(folder, name)
                stat = path.lstat()
                target = str(path.readlink()) if path.is_symlink() else ""
                found[str(path)] = (stat.st_mode, stat.st_ino, stat.st_size, stat.st_mtime_ns, target)
        return found

    def leftovers(self) -> list[str]:
        """What a run that ended early may leave and the next sync has to delete."""
        found = [path.name for path in self.root.iterdir() if ".new-" in path.name or path.name.endswith(".part")]
        home = self.root / ".bnbenv"
        found += [path.name for path in home.iterdir() if path.name.endswith(".part")] if home.exists() else []
        for folder in home.glob("generations/*"):
            finished = {path.stem for path in folder.glob("[0-9]*.json")}
            for path in folder.iterdir():
                if path.name.split(".")[0] not in finished:
                    found.append(f"{folder.name}/{path.name}")
        return found


@pytest.fixture(scope="session")
def tool_environ(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """This machine's environment with a user folder of its own for bnbenv, no GPU, and bytecode cached."""
    own = tmp_path_factory.mktemp("user")
    foreign = ("BNB", "CUDA", "LD_LIBRARY_PATH", "PYTHON", "VIRTUAL_ENV", "CONDA_PREFIX", "NVML_STUB", "FORCE_COLOR")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    (own / "sysroot").mkdir()
    lender = _shared(tmp_path_factory) / "synced" / ".venv-bnb"
    return {
        **environ,
        **{"BNBENV_HOME": str(own / "home"), "BNBENV_SYSROOT": str(own / "sysroot"), LENDER: str(lender)},
    }


@dataclass(frozen=True)
class Synced:
    """A project that was synced once in this test run: ``root`` is its folder, ``first`` how its commands ended."""

    root: Path
    first: dict[str, Ended]


@pytest.fixture(scope="session")
def synced(tmp_path_factory: pytest.TempPathFactory, tool_environ: dict[str, str]) -> Synced:
    """The project of which the others are copies: ``bnbenv init``, then ``bnbenv sync`` with its verification.

    All test workers share it. Skips where no CPU build of torch can be had.
    """
    base = _shared(tmp_path_factory)
    root, outcome = base / "synced", base / "synced.json"
    with FileLock(base / "synced.lock"):
        if not outcome.exists():
            root.mkdir()
            outcome.write_text(json.dumps(_first_sync(Project(root, tool_environ))))
    found = json.loads(outcome.read_text())
    if "missing" in found:
        pytest.skip(found["missing"])
    return Synced(root, {name: Ended(**ended) for name, ended in found.items()})


def _shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that all test workers share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


def _first_sync(project: Project) -> dict[str, Any]:
    first = {"init": project("init", "--json"), "plan": project("plan", "--json"), "lock": project("lock", "--json")}
    if first["lock"].code == 7:
        return {"missing": f"no package index answers: {first['lock'].stderr.strip()}"}
    assert first["lock"].code == 0, first["lock"].stderr
    if first["lock"].document["locks"][0]["choice"]["torch"]["cuda"] is not None:
        return {"missing": "no CPU build of torch: neither a find-links folder nor PyTorch's CPU index offers one"}
    (project.root / "pylock.bnb.toml").unlink()
    first["sync"] = project("sync", "--json")
    assert first["sync"].code == 0, first["sync"].stderr
    return {name: vars(ended) for name, ended in first.items()}


def _copy(source: Path, target: Path) -> None:
    """Copy a project; packages are hard links."""

    def copy(one: str, other: str) -> None:
        packages = f"{os.sep}lib{os.sep}" in one
        os.link(one, other) if packages else shutil.copy2(one, other)

    shutil.copytree(source, target, symlinks=True, copy_function=copy)


@contextlib.contextmanager
def _copied(source: Path, target: Path) -> Iterator[Path]:
    """Such a copy, which is deleted in the end: a test run keeps its folders."""
    _copy(source, target)
    try:
        yield target
    finally:
        shutil.rmtree(target, ignore_errors=True)


@pytest.fixture
def project(synced: Synced, tool_environ: dict[str, str], tmp_path: Path) -> Iterator[Project]:
    """A project of one's own, verified and in sync."""
    with _copied(synced.root, tmp_path / "project") as root:
        yield Project(root, tool_environ)


@pytest.fixture
def copies(synced: Synced, tool_environ: dict[str, str], tmp_path: Path) -> Callable[..., Any]:
    """Like ``project``, one after the other: ``with copies() as project``; ``copies(project.root)`` copies that one."""

    @contextlib.contextmanager
    def copy(source: Path | None = None) -> Iterator[Project]:
        target = tmp_path / ("template" if source is None else "project")
        with _copied(source or synced.root, target) as root:
            yield Project(root, tool_environ)

    return copy


@pytest.fixture
def locked(synced: Synced, tool_environ: dict[str, str], tmp_path: Path) -> Iterator[Project]:
    """A fresh checkout: bnbenv.toml and its lock, and no environment yet."""
    root = tmp_path / "checkout"
    root.mkdir()
    for name in ("bnbenv.toml", "pylock.bnb.toml"):
        shutil.copy(synced.root / name, root)
    yield Project(root, tool_environ)
    shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def empty(tool_environ: dict[str, str], tmp_path: Path) -> Iterator[Project]:
    """A folder with nothing in it, and a user who has nothing."""
    root = tmp_path / "empty"
    root.mkdir()
    # What has no bnbenv.toml is the user's own environment, so this user is nobody else.
    yield Project(root, {**tool_environ, "BNBENV_HOME": str(tmp_path / "user")})
    shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(scope="session")
def families(synced: Synced, tmp_path_factory: pytest.TempPathFactory, tool_environ: dict[str, str]) -> Synced:
    """A project with an environment of each family, with the real packages: bitsandbytes, gptq, and awq, whose kernels
    have not run (that would take 15 s more).

    ``first`` holds how ``bnbenv add`` ended for each. All test workers share it; tests leave it as it is.
    """
    base = _shared(tmp_path_factory)
    root, outcome = base / FAMILIES, base / "families.json"
    with FileLock(base / "families.lock"):
        if not outcome.exists():
            _copy(synced.root, root)
            first = {}
            for words in (("gptq",), ("awq", "--no-verify")):
                ended = first[words[0]] = Project(root, tool_environ)("add", *words, "--json")
                assert ended.code == 0, ended.stderr
            outcome.write_text(json.dumps({name: vars(ended) for name, ended in first.items()}))
    return Synced(root, {name: Ended(**ended) for name, ended in json.loads(outcome.read_text()).items()})


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A test run keeps its folders; this one is large."""
    factory = getattr(session.config, "_tmp_path_factory", None)
    if factory is not None and "PYTEST_XDIST_WORKER" not in os.environ:
        shutil.rmtree(factory.getbasetemp() / FAMILIES, ignore_errors=True)


@pytest.fixture
def families_project(families: Synced, tool_environ: dict[str, str]) -> Project:
    """That project itself: to be looked at, not to be changed."""
    return Project(families.root, tool_environ)


@pytest.fixture
def families_copy(families: Synced, tool_environ: dict[str, str], tmp_path: Path) -> Iterator[Project]:
    """A copy of it."""
    with _copied(families.root, tmp_path / "families") as root:
        yield Project(root, tool_environ)


def cuda_torch_wheel(
    folder: Path, cuda: str, release: str = "2.13.0", archs: str = "sm_75 sm_80 sm_86 sm_90 sm_100 sm_120"
) -> str:
    """A local wheel that reads as a torch built for that CUDA, for the running Python; returns its version.

    A real one and its libraries are several GB. This one is measured, locked and installed as a real one is, and its
    kernels cannot run.
    """
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    tag = f"{tag}-{tag}-manylinux_2_28_{platform.machine()}"
    version = f"{release}+cu{cuda.replace('.', '')}"
    info = f"torch-{version}.dist-info"
    files = {
        "torch/__init__.py": f"__version__ = '{version}'\n",
        "torch/version.py": f"__version__ = '{version}'\ncuda = '{cuda}'\n",
        "torch/lib/libtorch_python.so": f"\0{archs}\0",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: false\nTag: {tag}\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in (*files, f"{info}/RECORD"))
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / f"torch-{version}-{tag}.whl", "w") as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name), text)
    return version


@pytest.fixture(scope="session")
def torch_wheel() -> Callable[..., str]:
    """``cuda_torch_wheel(folder, cuda, release, archs)``."""
    return cuda_torch_wheel


@pytest.fixture
def gpu_box(empty: Project) -> Callable[..., Project]:
    """``gpu_box(host, cuda="13.0", bitsandbytes="*", gpus="all")``: a project for the GPUs of a recorded host.

    ``host`` is a folder's name below tests/hosts. Its driver and GPUs are put into this machine's facts, in the file
    facts.json of the project, which BNBENV_FACTS names; torch is a local wheel (``cuda_torch_wheel``).
    """

    def make(host: str, cuda: str = "13.0", bitsandbytes: str = "*", gpus: str = "all") -> Project:
        recorded = json.loads((Path(__file__).parent / "hosts" / host / "facts.json").read_text())
        facts = empty.done("facts") | {"driver": recorded["driver"], "gpus": recorded["gpus"], "unknown": []}
        (empty.root / "facts.json").write_text(json.dumps(facts))
        version = cuda_torch_wheel(empty.root / "wheels", cuda)
        wishes = {
            "torch": version,
            "bitsandbytes": bitsandbytes,
            "python": f"=={sys.version_info.major}.{sys.version_info.minor}.*",
            "gpus": gpus if gpus == "all" else json.loads(gpus),
        }
        lines = [f"{name} = {json.dumps(value)}" for name, value in wishes.items()]
        text = "\n".join(["[envs.bnb]", *lines, "[sources]", 'find-links = ["wheels"]', ""])
        (empty.root / "bnbenv.toml").write_text(text)
        return Project(empty.root, {**empty.environ, "BNBENV_FACTS": str(empty.root / "facts.json")})

    return make
