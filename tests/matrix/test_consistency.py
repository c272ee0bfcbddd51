"""The checks across rows: the shipped matrix passes them, and each finds the damage it is there for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from msgspec.structs import replace

from bnbenv.matrix.consistency import inconsistencies
from bnbenv.matrix.load import load_matrix
from bnbenv.matrix.model import BitsandbytesWheel, Evidence, Matrix, NativeLibrary, TorchBuild
from bnbenv.matrix.native import library_cuda

Damage = Callable[[Matrix], Matrix]
Row = TypeVar("Row")


@pytest.fixture(scope="module")
def shipped() -> Matrix:
    return load_matrix()


def test_the_shipped_matrix_is_consistent(shipped: Matrix) -> None:
    assert inconsistencies(shipped) == []


@pytest.mark.parametrize(
    ("name", "cuda"),
    [
        ("libbitsandbytes_cuda118.so", "11.8"),
        ("libbitsandbytes_cuda130.dll", "13.0"),
        ("libbitsandbytes_cuda118_nocublaslt.so", "11.8"),
        ("libbitsandbytes_cpu.so", None),
        ("libbitsandbytes_rocm72.so", None),
    ],
)
def test_the_cuda_version_of_a_library_is_in_its_name(name: str, cuda: str | None) -> None:
    assert library_cuda(name) == cuda


def table(field: str, change: Callable[[tuple[Any, ...]], tuple[Any, ...]]) -> Damage:
    return lambda matrix: replace(matrix, **{field: change(getattr(matrix, field))})


def first(field: str, **changes: Any) -> Damage:
    """Change the first row of a table."""
    return table(field, lambda rows: (replace(rows[0], **changes), *rows[1:]))


def where(field: str, holds: Callable[[Any], bool], **changes: Any) -> Damage:
    """Change the first row of a table for which something holds."""

    def change(rows: tuple[Any, ...]) -> tuple[Any, ...]:
        at = next(number for number, row in enumerate(rows) if holds(row))
        return (*rows[:at], replace(rows[at], **changes), *rows[at + 1 :])

    return table(field, change)


def evidence(**changes: Any) -> Damage:
    return table(
        "bitsandbytes", lambda rows: (replace(rows[0], evidence=replace(rows[0].evidence, **changes)), *rows[1:])
    )


def library(holds: Callable[[NativeLibrary], bool], **changes: Any) -> Damage:
    """Change the first library for which something holds."""

    def change(rows: tuple[BitsandbytesWheel, ...]) -> tuple[BitsandbytesWheel, ...]:
        for at, wheel in enumerate(rows):
            for number, one in enumerate(wheel.libraries):
                if holds(one):
                    libraries = (*wheel.libraries[:number], replace(one, **changes), *wheel.libraries[number + 1 :])
                    return (*rows[:at], replace(wheel, libraries=libraries), *rows[at + 1 :])
        raise AssertionError("no such library")

    return table("bitsandbytes", change)


def repeat(rows: tuple[Row, ...]) -> tuple[Row, ...]:
    return (*rows, rows[0])


def is_cuda(one: NativeLibrary) -> bool:
    return one.backend == "cuda"


def is_declared_cuda(build: TorchBuild) -> bool:
    return build.index == "cu126" and build.os == "linux"


def is_measured_cuda(build: TorchBuild) -> bool:
    return build.source == "default-index" and build.cuda == "12.8"


DAMAGES: list[tuple[Damage, str]] = [
    (table("bitsandbytes", repeat), "the wheel with sha256"),
    (
        table("bitsandbytes", lambda rows: (rows[0], replace(rows[1], filename=rows[0].filename), *rows[2:])),
        "the wheel ",
    ),
    (table("torch", repeat), "the torch build"),
    (table("loaders", repeat), "stands 2 times"),
    (table("drivers", repeat), "CUDA 10.2 stands 2 times"),
    (table("archs", repeat), "the architecture sm_30 stands 2 times"),
    (first("archs", products=("GeForce RTX 4090",)), "the product GeForce RTX 4090 stands 2 times"),
    (table("advisories", repeat), "the advisory"),
    (evidence(date="November"), "no ISO date"),
    (evidence(source=" "), "names no source"),
    (evidence(source="somewhere"), "names no sha256"),
    (evidence(source="x.whl sha256:0"), "another sha256"),
    (first("loaders", source=""), "names no source"),
    (first("drivers", source=""), "CUDA 10.2 names no source"),
    (first("archs", source=""), "sm_30 names no source"),
    (first("advisories", reference="a thread"), "refers to no thread"),
    (lambda matrix: replace(matrix, pytorch_index="http://here"), "no https address"),
    (lambda matrix: replace(matrix, upstream="http://there"), "repository is no https address"),
    (first("bitsandbytes", os="beos"), "unknown platform beos"),
    (first("torch", machine="AMD64"), "unknown platform"),
    (where("torch", lambda row: row.os == "linux", libc_tag=None), "a glibc version stands"),
    (where("bitsandbytes", lambda row: row.os == "windows", libc_tag="2.24"), "a glibc version stands"),
    (first("torch", pythons=()), "Python tags missing"),
    (first("torch", pythons=("py3",)), "Python tags ['py3']"),
    (first("loaders", versions="old"), "is no version specifier"),
    (first("loaders", override="BNB_VERSION"), "unknown override"),
    (table("loaders", lambda rows: rows[:-1]), "has 0 loader rules"),
    (where("loaders", lambda row: row.rule == "same-major", versions=">=0.45"), "has 2 loader rules"),
    (first("bitsandbytes", libraries=()), "holds no library"),
    (
        table("bitsandbytes", lambda rows: (replace(rows[0], libraries=repeat(rows[0].libraries)), *rows[1:])),
        "the library",
    ),
    (library(is_cuda, backend="rocm"), "has the backend rocm"),
    (library(is_cuda, name="libbitsandbytes_cuda999.so"), "is for CUDA 99.9, which has no driver row"),
    (library(is_cuda, sass=()), "holds no code for any GPU"),
    (library(lambda one: one.backend == "cpu", sass=("sm_90",)), "holds code for NVIDIA GPUs"),
    (library(is_cuda, sass=("sm_99",)), "sm_99, which has no architecture row"),
    (library(is_cuda, ptx=("ptx_90",)), "ptx_90, which is none"),
    (where("torch", is_declared_cuda, arch_list=()), "its architectures are none"),
    (where("torch", lambda row: row.cuda is None, arch_list=("sm_90",)), "CUDA is None"),
    (where("torch", is_measured_cuda, cuda="12.7"), "is for CUDA 12.7, which has no driver row"),
    (where("torch", is_measured_cuda, index="cu128"), "a variant stands"),
    (where("torch", is_declared_cuda, index="cu124"), "is for CUDA 12.6"),
    (where("torch", is_declared_cuda, version="2.9.9+cu128"), "the version says cu128, the index cu126"),
    (where("torch", is_measured_cuda, arch_list=("sm_90",)), "is declared otherwise than"),
    (
        table("archs", lambda rows: tuple(row for row in rows if row.arch != "sm_90")),
        "sm_90, which has no architecture row",
    ),
    (table("drivers", lambda rows: tuple(row for row in rows if row.cuda != "12.8")), "has no driver row"),
    (first("drivers", cuda="eleven"), '"eleven" is no CUDA version'),
    (where("drivers", lambda row: row.cuda == "13.2", bundled_linux="570.26"), "the older CUDA 13.1 a newer one"),
    (where("drivers", lambda row: row.cuda == "13.2", family_min_windows="520.06"), "CUDA 13 is one family"),
    (where("archs", lambda row: row.arch == "sm_75", compute_capability="7.0"), "sm_75 has the compute capability 7.0"),
    (where("archs", lambda row: row.arch == "sm_70", first_driver_linux="590.44"), "newer than its last branch R580"),
    (first("advisories", triton="new"), 'triton "new" is no version specifier'),
    (first("advisories", bitsandbytes=None), "would apply to every bitsandbytes"),
    (
        where("advisories", lambda row: row.libraries, libraries=("libbitsandbytes_cuda131.so",)),
        "names libbitsandbytes_cuda131.so",
    ),
    (first("advisories", torch_cuda=("10.2",)), "names CUDA 10.2"),
    (first("advisories", os=("beos",)), "names the unknown system beos"),
    (first("advisories", bitsandbytes="<0.30"), "bitsandbytes <0.30 is about no row"),
    (first("advisories", torch=">=3"), "torch >=3 is about no row"),
    (first("advisories", triton=">=9"), "triton >=9 is about no row"),
    (first("advisories", capability="==9.9"), "capability ==9.9 is about no row"),
    (
        table("loaders", lambda rows: (*rows, replace(rows[0], versions="<0.30"))),
        'rule "<0.30" is about no bitsandbytes',
    ),
    (table("toolkits", repeat), "the toolkit 13.5 stands 2 times"),
    (table("toolkits", lambda rows: ()), "torch is built with CUDA 12.8, which has no toolkit row"),
    (first("toolkits", ptxas="13.4.1"), "toolkit 13.5 has the assembler 13.4.1"),
    (first("toolkits", ptx=()), "toolkit 13.5 compiles to nothing"),
    (first("toolkits", sass=("sm_99",)), "toolkit 13.5 has the target sm_99, which has no architecture row"),
    (first("toolkits", gcc_max=9), "gcc_max: toolkit 13.5 takes 9, the older toolkit 13.4 16"),
    (first("toolkits", msc_end=1950), "msc_end: toolkit 13.5 takes 1950, the older toolkit 13.4 1960"),
    (table("source_releases", repeat), "the source 0.50.1 stands 2 times"),
    (first("source_releases", version="0.50.0"), "source 0.50.1 is said to be the version 0.50.0"),
    (first("source_releases", version="0.51", tag="v0.51"), "source v0.51: no wheel was published of it"),
    (first("source_releases", commit="37d2a938"), "source 0.50.1: its evidence is of another commit"),
    (first("source_releases", requires_python=">=3.9"), "source 0.50.1 is for Python >=3.9, its wheels for >=3.10"),
    (first("source_releases", cuda_end="14"), "source 0.50.1: 11.8 to 14 is no range"),
    (first("source_releases", cuda_min="14.0"), "source 0.50.1 compiles with no toolkit"),
    (first("source_releases", sass_min="sm_75"), "source 0.50.1 is for sm_75 and newer, a wheel of it has sm_60"),
    (first("source_releases", evidence=Evidence("measured", "a file", "today")), "source 0.50.1: the date of its"),
    (first("toolkits", evidence=Evidence("measured", "a file", "2026-11-21")), "toolkit 13.5: measured, but"),
    (table("families", repeat), "the family bitsandbytes stands 2 times"),
    (first("families", packages=("autoawq",)), "the package autoawq stands 2 times"),
    (first("families", packages=()), "family bitsandbytes holds no package"),
    (first("families", references=("a thread",)), "family bitsandbytes refers to no thread"),
]


@pytest.mark.parametrize(("damage", "fault"), DAMAGES)
def test_damage_is_found(shipped: Matrix, damage: Damage, fault: str) -> None:
    faults = inconsistencies(damage(shipped))
    assert [one for one in faults if fault in one], faults[:5]
