"""What CMake is told, and in which surroundings: nothing of the user's shell, and no names in what comes of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bnbenv.build.compile import Log, Work, compile_cuda
from bnbenv.build.model import HostCompiler, Toolchain
from bnbenv.build.ports import Ports
from bnbenv.process import Command, Finished

LIBRARY = "libbitsandbytes_cuda130.so"


class Tools:
    """CMake and Ninja that say nothing and leave what they are run for."""

    def __init__(self, work: Callable[[], Work]) -> None:
        self._work, self.ran = work, list[Command]()

    def run(self, command: Command) -> Finished:
        self.ran.append(command)
        work = self._work()
        if command.argv[0] == "cmake":
            (work.folder / "cuda").mkdir()
            (work.folder / "cuda" / "build.ninja").touch()
        else:
            (work.tree / "bitsandbytes" / LIBRARY).touch()
        return Finished(command, 0, "", "", False, 0.1)


@pytest.fixture
def configured(tmp_path: Path, bare_ports: Callable[..., Ports]) -> Callable[..., Command]:
    """``configured(compiler=..., toolkit=..., tree=..., **variables)``: how CMake was run."""

    def run(compiler: str = "12.2.0", toolkit: str = "/cuda", tree: str = "tree", **variables: str) -> Command:
        found: list[Work] = []
        tools = Tools(lambda: found[0])
        ports = bare_ports(variables, runner=tools)
        (tmp_path / "work" / tree / "bitsandbytes").mkdir(parents=True)
        host = HostCompiler("/usr/bin/g++", "gcc", compiler)
        chain = Toolchain("13.0", "13.0.88", toolkit, "system", ("sm_90",), host, "cmake", "ninja")
        place = tmp_path / "work"
        log = Log(tmp_path / "log")
        found.append(Work("bitsandbytes", place / tree, place, chain, ("sm_80", "sm_90"), ports, log))
        assert compile_cuda(found[0]).name == LIBRARY
        return tools.ran[0]

    return run


def test_nothing_of_the_users_shell_changes_what_is_compiled(configured: Callable[..., Command]) -> None:
    shell = ("CXXFLAGS", "LDFLAGS", "CPATH", "CUDAARCHS", "NVCC_APPEND_FLAGS", "CMAKE_GENERATOR", "PYTHONPATH")
    ran = configured(**dict.fromkeys(shell, "nonsense"))
    assert [ran.env.get(name, "kept") for name in shell] == [None] * len(shell)
    assert ran.env["TMPDIR"] == f"{ran.cwd}/tmp"
    assert "-DCOMPUTE_CAPABILITY=80;90" in ran.argv


@pytest.mark.parametrize(
    ("compiler", "tree", "named"), [("8.1.0", "tree", False), ("7.5.0", "tree", True), ("12.2.0", "a tree", True)]
)
def test_the_folder_it_is_compiled_in_gets_into_no_library(
    configured: Callable[..., Command], compiler: str, tree: str, named: bool
) -> None:
    """Where the compiler knows how, and the folder is one word to it."""
    ran = configured(compiler=compiler, tree=tree)
    option = f"-ffile-prefix-map={ran.cwd}/{tree}=."
    mapped = [word for word in ran.argv if "prefix-map" in word]
    assert mapped == ([] if named else [f"-DCMAKE_CXX_FLAGS={option}", f"-DCMAKE_CUDA_FLAGS=-Xcompiler={option}"])


def test_of_a_toolkit_in_a_folder_with_spaces_the_linker_is_told(configured: Callable[..., Command]) -> None:
    ran = configured(toolkit="/home/a user/cuda")
    given = [word for word in ran.argv if word.startswith("-DCMAKE_SHARED_LINKER_FLAGS=")]
    assert given[-1] == '-DCMAKE_SHARED_LINKER_FLAGS=-Wl,--no-undefined "-L/home/a user/cuda/lib64"'


def test_the_log_names_no_credentials(tmp_path: Path) -> None:
    log = Log(tmp_path / "log")
    log.add("getting https://somebody:s3cret@host.example/simple\n")
    log.add("more\n")
    assert log.path.read_text().endswith("@host.example/simple\nmore\n") and "s3cret" not in log.path.read_text()
