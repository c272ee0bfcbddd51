"""What the tests of builds share: the toolchain of CUDA 13.0 from real packages, made once, and ports to build with."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from bnbenv.build.model import Toolchain
from bnbenv.build.ports import Ports
from bnbenv.build.toolchain import prepare, prepared
from bnbenv.envs.project import Project
from bnbenv.envs.resolve import sources_for
from bnbenv.envs.toolbox import build_ports
from bnbenv.envs.wishes import SourcesWish
from bnbenv.errors import Failed, NoCombination, SourceUnreachable
from bnbenv.matrix.load import load_matrix
from bnbenv.matrix.model import Matrix
from bnbenv.process import Command, Finished, Runner, SystemRunner

CUDA = "13.0"


@dataclass
class Told:
    """A progress that keeps what it is told."""

    lines: list[str] = field(default_factory=list)
    details: list[str] = field(default_factory=list)
    moments: list[str] = field(default_factory=list)

    def say(self, line: str) -> None:
        self.lines.append(line)

    def detail(self, line: str) -> None:
        self.details.append(line)

    def at(self, text: str) -> None:
        if text:
            self.moments.append(text)


@pytest.fixture(scope="session")
def matrix() -> Matrix:
    """The rows in the package."""
    return load_matrix()


@pytest.fixture
def told() -> Told:
    """What the user was told."""
    return Told()


@pytest.fixture(scope="session")
def build_environ(tool_environ: dict[str, str]) -> dict[str, str]:
    """``tool_environ`` without what names a compiler or changes how one works."""
    own = ("CC", "CXX", "CFLAGS", "CXXFLAGS", "LDFLAGS", "NVCC_CCBIN", "CUDAHOSTCXX", "CUDAARCHS")
    foreign = ("NVCC_", "CMAKE_", "UV_LINK_MODE")
    return {name: text for name, text in tool_environ.items() if name not in own and not name.startswith(foreign)}


def _ports(home: Path, matrix: Matrix, environ: dict[str, str], runner: Runner | None = None) -> Ports:
    home.mkdir(parents=True, exist_ok=True)
    sources = sources_for(Project(home, home), SourcesWish(), matrix, environ)
    return replace(build_ports(environ, runner or _Within(environ), sources, home), home=home)


@dataclass(frozen=True)
class _Within:
    """Runs everything for real, in an environment that is not the tests' own."""

    environ: dict[str, str]

    def run(self, command: Command) -> Finished:
        gone = dict.fromkeys(name for name in os.environ if name not in self.environ)
        return SystemRunner().run(replace(command, env={**gone, **self.environ, **command.env}))


@pytest.fixture(scope="session")
def toolchains(
    tmp_path_factory: pytest.TempPathFactory, matrix: Matrix, build_environ: dict[str, str]
) -> Iterator[Path]:
    """A folder of builds in which the toolchain of CUDA 13.0 is complete, from packages. All test workers share it.

    Nobody changes it: ``ports`` has it. Skips where its packages cannot be had.
    """
    base = tmp_path_factory.getbasetemp()
    alone = "PYTEST_XDIST_WORKER" not in os.environ
    base = base if alone else base.parent
    home, missing = base / "toolchains", base / "toolchains.missing"
    with FileLock(base / "toolchains.lock"):
        ports = _ports(home, matrix, build_environ)
        if not missing.exists() and prepared(CUDA, ports) is None:
            try:
                prepare(CUDA, (), ports, matrix, ())
            except (NoCombination, SourceUnreachable) as error:
                missing.write_text(error.message)
            except Failed as error:
                if error.code not in ("no-host-compiler", "host-compiler-unfit"):
                    raise
                missing.write_text(error.message)
    if missing.exists():
        pytest.skip(f"the compiler of CUDA {CUDA} cannot be had: {missing.read_text()}")
    yield home
    if alone:  # a gigabyte; pytest keeps the folders of three runs
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def bare_ports(tmp_path: Path, matrix: Matrix, build_environ: dict[str, str], told: Told) -> Callable[..., Ports]:
    """``bare_ports(environ={...}, runner=..., **others)``: ports of a user who has nothing, with changes.

    ``environ`` changes the environment, also of what is run; None removes. Other names are those of ``Ports``.
    """

    def make(environ: dict[str, str | None] | None = None, runner: Runner | None = None, **changes: Any) -> Ports:
        changed = {**build_environ, **(environ or {})}
        given = {name: text for name, text in changed.items() if text is not None}
        return replace(_ports(tmp_path / "builds", matrix, given, runner), progress=told, **changes)

    return make


@pytest.fixture
def ports(toolchains: Path, bare_ports: Callable[..., Ports]) -> Ports:
    """Ports of a user who has the toolchain of CUDA 13.0 and nothing else."""
    made = bare_ports()
    (made.home / "toolchains").symlink_to(toolchains / "toolchains")
    return made


@pytest.fixture
def own_ports(toolchains: Path, bare_ports: Callable[..., Ports]) -> Ports:
    """``ports`` with a copy of the toolchain that may be damaged; its files are links to those of the others."""
    made = bare_ports()
    shutil.copytree(toolchains / "toolchains", made.home / "toolchains", symlinks=True, copy_function=os.link)
    return made


@pytest.fixture
def toolchain(ports: Ports) -> Toolchain:
    """The toolchain of CUDA 13.0."""
    found = prepared(CUDA, ports)
    assert found is not None
    return found


_SOURCE = {
    "CMakeLists.txt": 'project(bitsandbytes LANGUAGES CXX)\nset(COMPUTE_BACKEND "cpu")\nset(X ${COMPUTE_CAPABILITY})\n'
    'if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS "11.8")\nmessage(FATAL_ERROR "no")\n'
    'elseif(CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL "14.0")\nmessage(FATAL_ERROR "no")\nendif()\n',
    "pyproject.toml": '[project]\nname = "bitsandbytes"\ndynamic = ["version"]\n'
    '[tool.setuptools.dynamic]\nversion = {attr = "bitsandbytes.__version__"}\n',
    "bitsandbytes/__init__.py": '__version__ = "{version}"\n',
    "csrc/kernels.cu": "// {version}\n",
}


@pytest.fixture(scope="session")
def source_tree() -> Callable[..., Path]:
    """``source_tree(folder, version)`` writes the least that counts as a tree of bitsandbytes; nothing compiles it."""

    def write(folder: Path, version: str = "0.50.1", **files: str) -> Path:
        for name, text in {**_SOURCE, **files}.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text.replace("{version}", version))
        return folder

    return write


@pytest.fixture(scope="session")
def git() -> Callable[..., str]:
    """``git(folder, *words)`` runs git as somebody, without anybody's configuration; what it printed is returned."""
    if shutil.which("git") is None:
        pytest.skip("git is missing")
    somebody = {
        **{f"GIT_{who}_{what}": f"somebody@{what}" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
    }

    def run(folder: Path, *words: str) -> str:
        command = ["git", "-c", "init.defaultBranch=main", "-C", str(folder), *words]
        environ = {**{n: t for n, t in os.environ.items() if not n.startswith("GIT_")}, **somebody}
        return subprocess.run(command, env=environ, check=True, capture_output=True, text=True, timeout=60).stdout

    return run
