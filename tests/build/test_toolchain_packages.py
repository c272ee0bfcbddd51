"""The toolchain of CUDA 13.0 from real packages: it compiles, and nothing that happens to it goes unnoticed."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bnbenv.build.held import held
from bnbenv.build.model import Toolchain
from bnbenv.build.packaged import kept
from bnbenv.build.ports import Packages, Ports
from bnbenv.build.toolchain import prepare, prepared, within_reach
from bnbenv.build.toolkit import targets_of
from bnbenv.errors import Busy, NoCombination, SourceUnreachable
from bnbenv.matrix.model import Matrix
from bnbenv.process import Command, Finished, SystemRunner
from bnbenv.progress import Quiet

KERNEL = """\
#include <cublas_v2.h>
#include <cublasLt.h>
__global__ void add(int *into) { *into += 1; }
extern "C" int handles() { cublasHandle_t one; cublasLtHandle_t other;
  return cublasCreate(&one) + cublasLtCreate(&other); }
"""


@dataclass
class Recorder:
    """Runs everything for real and keeps what it was."""

    ran: list[tuple[str, ...]] = field(default_factory=list)

    def run(self, command: Command) -> Finished:
        self.ran.append(command.argv)
        return SystemRunner().run(command)


@dataclass
class Counting:
    """Real packages; counts the environments that are made."""

    real: Packages
    made: list[str] = field(default_factory=list)

    def environment(self, folder: Path, requirements: tuple[str, ...]) -> None:
        self.made.append(folder.name)
        self.real.environment(folder, requirements)

    def missing(self, requirements: tuple[str, ...]) -> str:
        return self.real.missing(requirements)

    def wheel(self, tree: Path, out: Path, environ: Mapping[str, str | None]) -> Path:
        return self.real.wheel(tree, out, environ)


def test_it_compiles_and_links_what_bitsandbytes_includes(toolchain: Toolchain, tmp_path: Path) -> None:
    source, library = tmp_path / "add.cu", tmp_path / "libadd.so"
    source.write_text(KERNEL)
    nvcc = Path(toolchain.root, "bin", "nvcc")
    words = [nvcc, "-ccbin", toolchain.host.path, "-arch=sm_90", "-shared", "-Xcompiler", "-fPIC"]
    subprocess.run([*words, "-lcublas", "-lcublasLt", source, "-o", library], check=True, timeout=120)
    assert library.read_bytes()[:4] == b"\x7fELF"
    for program in (toolchain.cmake, toolchain.ninja):
        assert subprocess.run([program, "--version"], check=True, timeout=60, capture_output=True).stdout
    assert toolchain.origin == "packages" and toolchain.nvcc.startswith("13.0.")
    assert "sm_90" in toolchain.sass and "sm_70" not in toolchain.sass


def test_what_is_there_is_found_without_uv_and_without_the_network(
    ports: Ports, toolchain: Toolchain, matrix: Matrix, bare_ports: Callable[..., Ports]
) -> None:
    recorder = Recorder()
    offline = bare_ports({"BNBENV_OFFLINE": "1", "UV_CACHE_DIR": "/dev/null"}, runner=recorder)
    assert prepared("13.0", offline) == toolchain
    assert within_reach("13.0", ("sm_90",), offline, matrix, ()) == ""
    assert prepare("13.0", ("sm_90",), offline, matrix, ()) == toolchain
    assert {argv[0] for argv in recorder.ran} == {toolchain.host.path}


def test_a_file_that_was_deleted_or_cut_is_noticed_and_the_toolchain_made_anew(
    own_ports: Ports, matrix: Matrix
) -> None:
    before = prepared("13.0", own_ports)
    assert before is not None
    header, library = Path(before.root, "include", "cublasLt.h"), Path(before.root, "lib64", "libcublas.so")
    link = library.readlink()
    library.unlink()
    library.write_bytes(b"")
    assert prepared("13.0", own_ports) is None
    library.unlink()
    library.symlink_to(link)
    assert prepared("13.0", own_ports) == before
    header.unlink()
    Path(before.ninja).unlink()
    assert prepared("13.0", own_ports) is None
    assert prepare("13.0", ("sm_90",), own_ports, matrix, ()) == before == prepared("13.0", own_ports)
    assert header.is_file()


CHILD = """\
import os, time
from dataclasses import replace
from pathlib import Path
from bnbenv.build.toolchain import prepare
from bnbenv.envs.project import Project
from bnbenv.envs.resolve import sources_for
from bnbenv.envs.toolbox import build_ports
from bnbenv.envs.wishes import SourcesWish
from bnbenv.matrix.load import load_matrix
from bnbenv.process import SystemRunner

class Slow:
    def __init__(self, real):
        self.real = real
    def environment(self, folder, requirements):
        self.real.environment(folder, requirements)
        print("filled", flush=True)
        time.sleep(600)

home, matrix = Path(os.environ["BNBENV_HOME"]), load_matrix()
sources = sources_for(Project(home, home), SourcesWish(), matrix, os.environ)
ports = build_ports(os.environ, SystemRunner(), sources, home)
prepare("13.0", ("sm_90",), replace(ports, packages=Slow(ports.packages)), matrix, ())
"""


def test_kill_9_leaves_nothing_that_is_taken_for_whole(
    toolchains: Path, bare_ports: Callable[..., Ports], build_environ: dict[str, str], tmp_path: Path, matrix: Matrix
) -> None:
    ports = bare_ports()
    folder = ports.home / "toolchains" / platform.machine() / "cu130"
    environ = {**build_environ, "BNBENV_HOME": str(tmp_path)}  # its builds are those of these ports
    child = subprocess.Popen([sys.executable, "-c", CHILD], env=environ, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "filled\n"
    child.kill()
    child.communicate()
    assert folder.is_dir() and prepared("13.0", ports) is None
    (left,) = (one for one in kept(ports.home) if one.name == "cu130")
    assert left.folder == folder and not left.record.exists()
    made = prepare("13.0", ("sm_90",), ports, matrix, ())  # the lock of the dead process holds nobody
    assert made == prepared("13.0", ports) and made.root.startswith(str(folder))
    shutil.rmtree(ports.home)


def test_two_at_once_make_one(own_ports: Ports, matrix: Matrix, bare_ports: Callable[..., Ports]) -> None:
    for record in (own_ports.home / "toolchains").glob("*/*.json"):
        record.unlink()
    packages = Counting(own_ports.packages)
    found: list[Toolchain] = []

    def work() -> None:
        found.append(prepare("13.0", ("sm_90",), bare_ports(packages=packages), matrix, ()))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert len(found) == 2 and found[0] == found[1]
    assert sorted(packages.made) == ["cu130", "tools"]


def test_who_waits_too_long_is_told(tmp_path: Path, told: Any) -> None:
    file = tmp_path / "toolchains" / "cu130.lock"
    what = "the compiler of CUDA 13.0"
    with held(file, what, 1, Quiet()), pytest.raises(Busy) as caught, held(file, what, 0.1, told):
        pass
    assert caught.value.message == "another bnbenv is at work on the compiler of CUDA 13.0"
    assert told.moments == ["waiting for another bnbenv that is at work on the compiler of CUDA 13.0"]


def test_targets_of_a_release_that_the_matrix_does_not_know_are_the_compilers_own(
    toolchain: Toolchain, ports: Ports, matrix: Matrix
) -> None:
    unknown = msgspec.structs.replace(matrix, toolkits=())
    assert targets_of(Path(toolchain.root), "13.0", unknown, SystemRunner()) == toolchain.sass
    with pytest.raises(NoCombination) as caught:
        prepare("13.0", ("sm_70",), ports, unknown, ())
    assert caught.value.code == "toolkit-arch"


def test_a_release_that_no_source_offers(ports: Ports, matrix: Matrix) -> None:
    why = within_reach("13.99", ("sm_90",), ports, matrix, ())
    assert why.startswith("the compiler of CUDA 13.99 cannot be had: of its packages, only cuda-toolkit")
    with pytest.raises(NoCombination) as caught:
        prepare("13.99", ("sm_90",), ports, matrix, ())
    assert caught.value.code == "no-toolkit"
    assert "CUDA_HOME" in caught.value.next_step


def test_without_a_network_what_was_never_downloaded_is_out_of_reach(
    bare_ports: Callable[..., Ports], matrix: Matrix, tmp_path: Path
) -> None:
    own = {"UV_CACHE_DIR": str(tmp_path / "cache"), "PIP_FIND_LINKS": None, "PIP_CONFIG_FILE": os.devnull}
    ports = bare_ports({**own, "BNBENV_OFFLINE": "1"})
    assert within_reach("13.0", ("sm_90",), ports, matrix, ()).startswith("the compiler of CUDA 13.0 cannot be had: ")
    with pytest.raises(SourceUnreachable) as caught:
        prepare("13.0", ("sm_90",), ports, matrix, ())
    assert caught.value.code == "offline" and "BNBENV_OFFLINE" in caught.value.message
    assert prepared("13.0", ports) is None
