"""Toolkits of the machine: which of them count, in every layout there is, and what is said of those that do not."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from bnbenv.build.ports import Ports
from bnbenv.build.toolchain import prepare, prepared, within_reach
from bnbenv.build.toolkit import look_at
from bnbenv.errors import NoCombination
from bnbenv.facts.model import Toolkit
from bnbenv.facts.toolkits import find_toolkits
from bnbenv.matrix.model import Matrix
from bnbenv.paths import Sysroot
from bnbenv.process import SystemRunner

HEADERS = ("cuda_runtime.h", "cublas_v2.h", "cublasLt.h", "cub/cub.cuh")
LIBRARIES = ("libcudart.so", "libcublas.so", "libcublasLt.so")
LIMITS = """\
#if __GNUC__ > 14
#error -- unsupported GNU version! gcc versions later than 14 are not supported!
#endif
"""


def write(folder: Path, names: Iterable[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(LIMITS if name.endswith("host_config.h") else "")


def stand_in(root: Path, version: str, includes: str = "include", libraries: str = "lib64") -> Path:
    """A toolkit whose nvcc says its version and does nothing else. No CUDA 12 compiler can be had from packages."""
    for program in ("nvcc", "ptxas"):
        (root / "bin").mkdir(parents=True, exist_ok=True)
        path = root / "bin" / program
        path.write_text(f"#!/bin/sh\necho 'Cuda compilation tools, release {version[:4]}, V{version}'\n")
        path.chmod(0o755)
    write(root / includes, (*HEADERS, "crt/host_config.h"))
    write(root / libraries, LIBRARIES)
    return root


def found(root: Path) -> tuple[Toolkit, ...]:
    """What the facts say of it."""
    return find_toolkits({"CUDA_HOME": str(root)}, Sysroot(root / "nothing"), SystemRunner())[0]


@pytest.fixture
def debian(ports: Ports, bare_ports: Callable[..., Ports], tmp_path: Path) -> Ports:
    """``ports`` on a machine that says it is Debian."""
    (tmp_path / "root" / "etc").mkdir(parents=True)
    (tmp_path / "root" / "etc" / "os-release").write_text("ID=debian\n")
    return bare_ports(sysroot=Sysroot(tmp_path / "root"))


def test_cuda_13_of_the_system_compiles_where_its_packages_cannot_be_had(
    own_ports: Ports, bare_ports: Callable[..., Ports], matrix: Matrix, tmp_path: Path, told: Any
) -> None:
    packaged, root = prepared("13.0", own_ports), tmp_path / "cuda-13.0"
    assert packaged is not None
    shutil.copytree(packaged.root, root, symlinks=True, copy_function=os.link)
    (own_ports.home / "toolchains" / platform.machine() / "cu130.json").unlink()
    away = {"BNBENV_OFFLINE": "1", "UV_CACHE_DIR": str(tmp_path / "cache"), "PIP_FIND_LINKS": None}
    ports = bare_ports({**away, "PIP_CONFIG_FILE": os.devnull})  # they share a home
    assert within_reach("13.0", ("sm_90",), ports, matrix, found(root)) == ""
    made = prepare("13.0", ("sm_90",), ports, matrix, found(root))
    assert (made.origin, made.root, made.nvcc) == ("system", str(root), packaged.nvcc)
    assert told.lines[-1].startswith(f"{root} compiles, since its packages cannot be had: ")
    source = tmp_path / "add.cu"
    source.write_text("#include <cublas_v2.h>\n__global__ void add(int *into) { *into += 1; }\n")
    words = [root / "bin" / "nvcc", "-ccbin", made.host.path, "-arch=sm_90", "-cubin", source, "-o", tmp_path / "cubin"]
    subprocess.run(words, check=True, timeout=120)

    for path in (*root.glob("include/cublas*"), *root.glob("lib/libcublas*")):
        path.unlink()
    assert within_reach("13.0", ("sm_90",), ports, matrix, found(root)).startswith("the compiler of CUDA 13.0 cannot")


@pytest.mark.parametrize(
    ("root", "includes", "libraries", "machine"),
    [
        ("usr/local/cuda-12.8", "include", "lib64", "x86_64"),
        ("usr/local/cuda-12.8", "targets/x86_64-linux/include", "targets/x86_64-linux/lib", "x86_64"),
        ("usr/local/cuda-12.8", "targets/sbsa-linux/include", "targets/sbsa-linux/lib", "aarch64"),
        ("usr/local/cuda-12.6", "targets/aarch64-linux/include", "targets/aarch64-linux/lib", "aarch64"),
        ("usr/lib/nvidia-cuda-toolkit", "../../include", "../../lib/x86_64-linux-gnu", "x86_64"),
        ("usr", "include", "lib/x86_64-linux-gnu", "x86_64"),
    ],
)
def test_every_layout_is_known(root: str, includes: str, libraries: str, machine: str, tmp_path: Path) -> None:
    folder = stand_in(tmp_path / root, "12.8.93", includes, libraries)
    assert look_at(folder, machine).missing == ()
    other = "x86_64" if machine == "aarch64" else "aarch64"
    if "linux" in libraries:  # libraries for another machine are none
        assert set(LIBRARIES) <= set(look_at(folder, other).missing)
    assert look_at(folder, machine, ("cusparse",)).missing == ("cusparse.h", "libcusparse.so")


def test_cuda_12_of_the_system(debian: Ports, matrix: Matrix, tmp_path: Path) -> None:
    root = stand_in(tmp_path / "usr" / "local" / "cuda-12.8", "12.8.93")
    assert within_reach("12.8", ("sm_70",), debian, matrix, found(root)) == ""
    made = prepare("12.8", ("sm_70",), debian, matrix, found(root))
    assert (made.cuda, made.nvcc, made.root, made.origin) == ("12.8", "12.8.93", str(root), "system")
    assert "sm_70" in made.sass and Path(made.cmake).is_file()


def test_a_toolkit_without_cublas_counts_as_absent(debian: Ports, matrix: Matrix, tmp_path: Path) -> None:
    root = stand_in(tmp_path / "usr" / "local" / "cuda-12.8", "12.8.93")
    for path in (*root.glob("include/cublas*"), *root.glob("lib64/libcublas*")):
        path.unlink()
    with pytest.raises(NoCombination) as caught:
        prepare("12.8", ("sm_70",), debian, matrix, found(root))
    assert caught.value.code == "no-toolkit"
    assert caught.value.message == (
        f"the toolkit of CUDA 12.8 on this machine is not complete: {root} lacks cublas_v2.h, cublasLt.h,"
        " libcublas.so, libcublasLt.so"
    )
    assert caught.value.next_step.endswith("sudo apt-get install libcublas-dev-12-8")


def test_the_compiler_says_which_release_it_is_and_not_a_file_beside_it(
    debian: Ports, matrix: Matrix, tmp_path: Path
) -> None:
    root = stand_in(tmp_path / "cuda", "12.6.85")
    (root / "version.json").write_text('{"cuda_nvcc": {"name": "CUDA NVCC", "version": "12.8.93"}}')
    assert found(root) == (Toolkit(str(root), "12.8.93"),)
    with pytest.raises(NoCombination) as caught:
        prepare("12.8", ("sm_70",), debian, matrix, found(root))
    assert f"{root} is CUDA 12.6" in caught.value.message


def test_a_compiler_that_does_not_start_is_said(debian: Ports, matrix: Matrix, tmp_path: Path) -> None:
    root = stand_in(tmp_path / "cuda-12.8", "12.8.93")
    (root / "bin" / "nvcc").write_text("#!/bin/sh\necho 'cannot execute binary file' >&2\nexit 126\n")
    with pytest.raises(NoCombination, match="failed: cannot execute binary file"):
        prepare("12.8", ("sm_70",), debian, matrix, found(root))
