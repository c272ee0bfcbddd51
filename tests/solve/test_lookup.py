"""What is shown of the matrix: names as people write them, and the rows that are concerned."""

from __future__ import annotations

from typing import Any

import pytest

from bnbenv.errors import UsageError
from bnbenv.matrix.model import Matrix
from bnbenv.solve.coverage import ptx_for, sass_for
from bnbenv.solve.lookup import (
    Wanted,
    capability,
    find_arch,
    libraries_for,
    narrowed,
    read_platform,
    read_release,
    versions,
)


def test_every_product_and_architecture_is_found_by_its_own_name(shipped: Matrix) -> None:
    for row in shipped.archs:
        major, minor = row.compute_capability.split(".")
        names = [row.arch, row.arch.upper(), f"compute_{major}{minor}", f"{major}{minor}", row.compute_capability]
        for name in [*names, *row.products, *(f"NVIDIA {product}" for product in row.products)]:
            assert find_arch(name, shipped).arch == row.arch, name


@pytest.mark.parametrize(
    ("text", "arch"),
    [
        ("RTX 5090", "sm_120"),
        ("rtx-4090", "sm_89"),
        (" a100 ", "sm_80"),
        ("A10", "sm_86"),
        ("hopper", "sm_90"),
        ("sm_90a", "sm_90"),
        ("gtx 1080 ti", "sm_61"),
        ("3090", "sm_86"),
    ],
)
def test_a_gpu_is_found_as_people_call_it(text: str, arch: str, shipped: Matrix) -> None:
    assert find_arch(text, shipped).arch == arch


@pytest.mark.parametrize(
    ("text", "words", "step"),
    [
        ("RTX 6000", "may be Quadro RTX 6000 (sm_75)", "Name one of them"),
        ("Blackwell", "(sm_100), Blackwell (sm_101)", "Name one of them"),
        ("rtx 509O", "has no GPU rtx 509O", "GeForce RTX 5090"),
        ("sm_42", "has no GPU sm_42", "sm_50"),
        ("", "has no GPU", "compute capability"),
        ("nvidia", "has no GPU", "compute capability"),
    ],
)
def test_a_gpu_that_is_unknown_or_several(text: str, words: str, step: str, shipped: Matrix) -> None:
    with pytest.raises(UsageError) as caught:
        find_arch(text, shipped)
    assert words in caught.value.message
    assert step in caught.value.next_step


def test_releases_as_people_write_them(shipped: Matrix) -> None:
    for text, expected in {
        "0.50.2": ("bitsandbytes", "==0.50.2"),
        "0.50": ("bitsandbytes", "==0.50.*"),
        "bitsandbytes": ("bitsandbytes", "*"),
        "bitsandbytes==0.45.3": ("bitsandbytes", "==0.45.3"),
        "torch": ("torch", "*"),
        "torch==2.9.1": ("torch", "==2.9.1"),
        "Torch 2.9": ("torch", "==2.9.*"),
        "torch>=2.14,<2.15": ("torch", "<2.15,>=2.14"),
    }.items():
        assert read_release(text, shipped) == expected
    for text, step in {
        "2.9.1": "Did you mean: bnbenv matrix show torch==2.9.1",
        "0.50.999": "0.50.",
        "torch==99": versions(shipped, "torch")[-1],
        "vllm": "torch==2.9.1",
    }.items():
        with pytest.raises(UsageError) as caught:
            read_release(text, shipped)
        assert step in caught.value.next_step, text
    assert read_platform("Linux-x86_64", shipped) == ("linux", "x86_64")
    with pytest.raises(UsageError, match="no platform beos"):
        read_platform("beos", shipped)


def test_all_rows_without_a_question_and_those_of_a_release(shipped: Matrix) -> None:
    assert narrowed(shipped, Wanted()) == shipped
    rows = narrowed(shipped, Wanted("bitsandbytes", "==0.49.2"))
    assert {row.version for row in rows.bitsandbytes} == {"0.49.2"} and rows.torch == ()
    assert [rule.rule for rule in rows.loaders] == ["exact"]
    assert "nvjitlink-13" in {row.id for row in rows.advisories}
    assert "triton-ops" not in {row.id for row in rows.advisories}
    assert {"11.8", "13.0"} <= {row.cuda for row in rows.drivers} and "13.4" not in {row.cuda for row in rows.drivers}
    torch = narrowed(shipped, Wanted("torch", "==2.9.1", platform=("linux", "x86_64")))
    assert torch.bitsandbytes == () and {row.version.partition("+")[0] for row in torch.torch} == {"2.9.1"}
    assert {(row.os, row.machine) for row in torch.torch} == {("linux", "x86_64")}
    assert {row.arch for row in torch.archs} >= {"sm_70", "sm_120"}


def test_what_is_shown_for_a_gpu_is_what_holds_code_for_it(shipped: Matrix) -> None:
    """Of each architecture: no wheel and no build too many, none too few."""
    for arch in shipped.archs:
        rows, cc = narrowed(shipped, Wanted(arch=arch)), capability(arch)
        kept = {row.filename for row in rows.bitsandbytes}
        for wheel in shipped.bitsandbytes:
            twins = cc < (7, 5) and any(
                one.name.endswith(("_nocublaslt.so", "_nocublaslt.dll")) for one in wheel.libraries
            )
            code = [
                one.name
                for one in wheel.libraries
                if one.backend == "cuda"
                and (wheel.version < "0.40.1" or ("_nocublaslt" in one.name) == twins)
                and (sass_for(cc, one.sass) or ptx_for(cc, one.ptx))
            ]
            assert (wheel.filename in kept) == bool(code), (arch.arch, wheel.filename)
        for build in shipped.torch:
            assert (build in rows.torch) == bool(sass_for(cc, build.arch_list) or ptx_for(cc, build.arch_list))
        assert rows.archs == (arch,)


def test_an_old_card_has_its_code_in_the_twins(shipped: Matrix) -> None:
    volta = find_arch("V100", shipped)
    found = {
        (wheel.version, name) for wheel, kinds in libraries_for(volta, shipped) for name in kinds if wheel.os == "linux"
    }
    assert ("0.43.0", "libbitsandbytes_cuda121_nocublaslt.so") in found
    assert ("0.43.0", "libbitsandbytes_cuda121.so") not in found
    assert ("0.45.3", "libbitsandbytes_cuda128.so") in found and ("0.46.0", "libbitsandbytes_cuda128.so") not in found


def test_versions_are_in_order(shipped: Matrix) -> None:
    found: Any = versions(shipped, "bitsandbytes")
    assert found.index("0.38.0.post1") == found.index("0.38.0") + 1
    assert found.index("0.50.0") > found.index("0.49.2")
    assert versions(shipped, "torch")[0] == "2.0.0"


def test_packages_of_other_families_are_looked_up_like_releases(shipped: Matrix) -> None:
    assert read_release("Auto_GPTQ>=0.7", shipped) == ("auto-gptq", ">=0.7")
    rows = narrowed(shipped, Wanted("autoawq-kernels", ">=0.0.9", platform=("windows", "x86_64")))
    assert {row.filename.rpartition("-")[2] for row in rows.packages} == {"win_amd64.whl"}
    assert not (rows.bitsandbytes or rows.torch or rows.advisories)
    assert [one.name for one in rows.families] == ["awq"]
    assert {one.package for one in rows.package_advisories} == {"autoawq-kernels"}
    volta = narrowed(shipped, Wanted(arch=find_arch("V100", shipped)))
    assert {row.name for row in volta.packages} == {"auto-gptq"}
    assert not narrowed(shipped, Wanted("torch", "==2.9.1")).packages
    with pytest.raises(UsageError) as caught:
        read_release("gptqmodel==99", shipped)
    assert caught.value.next_step.startswith("It has 7.7.0")
