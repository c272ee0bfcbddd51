"""What no toolchain can do is said before anything is downloaded, with what can."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bnbenv.build.ports import Ports
from bnbenv.build.toolchain import prepare, within_reach
from bnbenv.errors import Failed, NoCombination
from bnbenv.facts.model import Toolkit
from bnbenv.matrix.model import Matrix
from bnbenv.paths import Sysroot


@pytest.fixture
def debian(bare_ports: Callable[..., Ports], tmp_path: Path) -> Ports:
    (tmp_path / "root" / "etc").mkdir(parents=True)
    (tmp_path / "root" / "etc" / "os-release").write_text('ID=ubuntu\nID_LIKE=debian\nVERSION_ID="24.04"\n')
    return bare_ports(sysroot=Sysroot(tmp_path / "root"))


def refusal(
    cuda: str, archs: tuple[str, ...], ports: Ports, matrix: Matrix, toolkits: tuple[Toolkit, ...] = ()
) -> NoCombination:
    with pytest.raises(NoCombination) as caught:
        prepare(cuda, archs, ports, matrix, toolkits)
    why = within_reach(cuda, archs, ports, matrix, toolkits)
    assert why.startswith(caught.value.message)
    assert caught.value.next_step[1:].rstrip(".") in why  # what to do stands behind it
    assert not (ports.home / "toolchains").exists()
    return caught.value


def test_volta_is_too_old_for_cuda_13(debian: Ports, matrix: Matrix) -> None:
    error = refusal("13.0", ("sm_70", "sm_90"), debian, matrix)
    assert error.code == "toolkit-arch"
    assert error.message == "the compiler of CUDA 13.0 cannot compile for sm_70; that of CUDA 12.9 can"
    assert "Take a torch for CUDA 12, and: bnbenv build --cuda 12.9 --arch sm_70 --arch sm_90" in error.next_step
    assert "apt-get install cuda-toolkit-12-9" in error.next_step


def test_a_toolkit_of_the_same_torch_first(debian: Ports, matrix: Matrix) -> None:
    error = refusal("12.8", ("sm_103",), debian, matrix)
    assert error.next_step.startswith("Take bnbenv build --cuda 12.9 --arch sm_103. Install it")


def test_without_a_compiler_of_cpp_no_gigabyte_is_fetched(
    bare_ports: Callable[..., Ports], matrix: Matrix, tmp_path: Path
) -> None:
    ports = bare_ports({"PATH": str(tmp_path)})
    with pytest.raises(Failed) as caught:
        prepare("13.0", ("sm_90",), ports, matrix, ())
    assert caught.value.code == "no-host-compiler"
    assert not (ports.home / "toolchains").exists()


def test_what_no_toolkit_can(debian: Ports, matrix: Matrix) -> None:
    error = refusal("13.0", ("sm_20",), debian, matrix)
    assert error.message == "the compiler of CUDA 13.0 cannot compile for sm_20"
    assert error.next_step.startswith("No toolkit that is known here compiles for all that was asked")


def test_thor_has_two_names(debian: Ports, matrix: Matrix) -> None:
    assert refusal("13.0", ("sm_101", "sm_90"), debian, matrix).next_step == "Ask for --arch sm_110 --arch sm_90"
    assert "sm_110 is called sm_101 there" in refusal("12.9", ("sm_110",), debian, matrix).message


def test_cuda_12_takes_a_toolkit_of_the_system(debian: Ports, matrix: Matrix) -> None:
    error = refusal("12.8", ("sm_70",), debian, matrix)
    assert error.code == "no-toolkit"
    assert error.message == (
        "there is no toolkit of CUDA 12.8 on this machine, and packages hold a compiler from CUDA 13 on only"
    )
    assert "apt-get install cuda-toolkit-12-8" in error.next_step
    assert "conda install -c nvidia/label/cuda-12.8.0 cuda-toolkit" in error.next_step


def test_a_recorded_toolkit_of_another_machine_is_none(debian: Ports, matrix: Matrix) -> None:
    error = refusal("12.8", ("sm_70",), debian, matrix, (Toolkit("/nowhere/cuda-12.8", "12.8.93"),))
    assert "/nowhere/cuda-12.8 has no nvcc" in error.message
