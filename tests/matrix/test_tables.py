"""The hand-kept tables say what is known of the field, and how it fits together."""

from __future__ import annotations

import pytest
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from bnbenv.matrix.load import load_matrix
from bnbenv.matrix.model import CudaDriver, GpuArch, LoaderRule, Matrix, TorchBuild


@pytest.fixture(scope="module")
def matrix() -> Matrix:
    return load_matrix()


def loader(matrix: Matrix, version: str) -> LoaderRule:
    (rule,) = [one for one in matrix.loaders if SpecifierSet(one.versions).contains(version)]
    return rule


def driver(matrix: Matrix, cuda: str) -> CudaDriver:
    return next(row for row in matrix.drivers if row.cuda == cuda)


def arch(matrix: Matrix, name: str) -> GpuArch:
    return next(row for row in matrix.archs if row.arch == name)


def pytorch_index(
    matrix: Matrix, version: str, index: str, system: str = "linux", machine: str = "x86_64"
) -> TorchBuild:
    key = (index, system, machine)
    builds = [row for row in matrix.torch if row.source == "pytorch-index" and (row.index, row.os, row.machine) == key]
    return next(row for row in builds if Version(row.version).public == version)


@pytest.mark.parametrize(
    ("version", "rule", "override", "nocublaslt"),
    [
        ("0.37.0", "libcudart", None, True),
        ("0.40.0.post4", "libcudart", None, True),
        ("0.40.1", "exact", None, True),
        ("0.40.1.post1", "exact", "BNB_CUDA_VERSION", True),
        ("0.40.2", "exact", "BNB_CUDA_VERSION", True),
        ("0.41.0", "exact", "BNB_CUDA_VERSION", True),
        ("0.44.1", "exact", "BNB_CUDA_VERSION", True),
        ("0.45.0", "exact", "BNB_CUDA_VERSION", False),
        ("0.49.2", "exact", "BNB_CUDA_VERSION", False),
        ("0.50.0", "same-major", "BNB_CUDA_VERSION", False),
        ("0.50.2", "same-major", "BNB_CUDA_VERSION", False),
    ],
)
def test_one_loader_rule_for_every_version(
    matrix: Matrix, version: str, rule: str, override: str | None, nocublaslt: bool
) -> None:
    found = loader(matrix, version)
    assert (found.rule, found.override, found.nocublaslt) == (rule, override, nocublaslt)


@pytest.mark.parametrize(
    ("cuda", "linux", "windows", "bundled"),
    [
        ("10.2", "440.33", "441.22", "440.33"),
        ("11.8", "450.80.02", "452.39", "520.61.05"),
        ("12.6", "525.60.13", "528.33", "560.28.03"),
        ("12.8", "525.60.13", "528.33", "570.26"),
        ("13.0", "580", "580", "580.65.06"),
        ("13.4", "580", "580", None),
    ],
)
def test_what_a_toolkit_needs(matrix: Matrix, cuda: str, linux: str, windows: str, bundled: str | None) -> None:
    row = driver(matrix, cuda)
    assert (row.family_min_linux, row.family_min_windows, row.bundled_linux) == (linux, windows, bundled)


@pytest.mark.parametrize(
    ("product", "name", "last"),
    [
        ("Tesla K80", "sm_37", 470),
        ("GeForce GTX 970", "sm_52", 580),
        ("GeForce MX150", "sm_61", 580),
        ("GeForce GTX 1080 Ti", "sm_61", 580),
        ("Tesla V100-SXM2-16GB", "sm_70", 580),
        ("Tesla T4", "sm_75", None),
        ("A100-SXM4-40GB", "sm_80", None),
        ("GeForce RTX 3090", "sm_86", None),
        ("GeForce RTX 3050 Ti Laptop GPU", "sm_86", None),
        ("Orin", "sm_87", None),
        ("GeForce RTX 4090", "sm_89", None),
        ("H200", "sm_90", None),
        ("B200", "sm_100", None),
        ("Thor", "sm_110", None),
        ("GeForce RTX 5090", "sm_120", None),
        ("GB10", "sm_121", None),
    ],
)
def test_a_product_has_one_architecture_and_a_last_branch(
    matrix: Matrix, product: str, name: str, last: int | None
) -> None:
    assert [row.arch for row in matrix.archs if product in row.products] == [name]
    assert arch(matrix, name).last_branch == last


def test_blackwell_needs_r570(matrix: Matrix) -> None:
    firsts = [row.first_driver_linux for row in matrix.archs if row.generation == "Blackwell" and row.products]
    assert firsts
    assert all(first is not None and int(first.split(".")[0]) >= 570 for first in firsts)


def test_the_compiler_knows_these_architectures(matrix: Matrix) -> None:
    cuda_13 = "75 80 86 87 88 89 90 100 103 107 110 120 121"  # nvcc 13.4.92 --list-gpu-code
    cuda_12 = "50 52 53 60 61 62 70 72 75 80 86 87 89 90 100 101 103 120 121"  # ptxas 12.9.86 --help
    cuda_11 = "35 37 50 52 53 60 61 62 70 72 75 80 86 87 89 90"  # ptxas 11.8 --help
    compiled = {f"sm_{number}" for number in f"{cuda_13} {cuda_12} {cuda_11}".split()}
    assert compiled <= {row.arch for row in matrix.archs}


@pytest.mark.parametrize(
    ("version", "index", "numbers"),
    [
        ("2.14.1", "cu126", "50 60 70 75 80 86 90"),
        ("2.14.1", "cu132", "75 80 86 90 100 120"),
        ("2.11.0", "cu128", "75 80 86 90 100 120"),
        ("2.10.0", "cu128", "70 75 80 86 90 100 120"),
        ("2.7.1", "cu118", "37 50 60 70 75 80 86 90"),
        ("2.5.1", "cu121", "50 60 70 75 80 86 90"),
    ],
)
def test_pytorch_index_declares(matrix: Matrix, version: str, index: str, numbers: str) -> None:
    build = pytorch_index(matrix, version, index)
    assert sorted(build.arch_list) == sorted(f"sm_{number}" for number in numbers.split())
    assert build.evidence.level == "declared"
    assert build.pythons


def test_every_release_of_the_default_index_has_a_cpu_build(matrix: Matrix) -> None:
    default = {(row.version, row.os, row.machine) for row in matrix.torch if row.source == "default-index"}
    cpu = {(Version(row.version).public, row.os, row.machine) for row in matrix.torch if row.index == "cpu"}
    assert default == cpu


def test_windows_has_cuda_builds_on_pytorch_index_only(matrix: Matrix) -> None:
    cuda = {row.source for row in matrix.torch if row.os == "windows" and row.cuda}
    assert cuda == {"pytorch-index"}


def test_advisories_are_sentences_with_a_remedy(matrix: Matrix) -> None:
    for row in matrix.advisories:
        assert row.summary.endswith(".")
        assert row.remedy.endswith(".")
