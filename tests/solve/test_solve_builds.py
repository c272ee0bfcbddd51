"""What can be compiled here decides over a source build: toolkits, sources, and what was compiled before."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from bnbenv.facts.model import Libc
from bnbenv.matrix.model import BitsandbytesWheel, Evidence, Matrix, NativeLibrary
from bnbenv.solve.model import Availability, Buildable, Existing, Refusal, Request, Solution
from bnbenv.solve.solver import solve
from bnbenv.solve.versions import public

BUILD = Request(build="always")
NO_NVCC = "CUDA 12.6 has no packages, and no toolkit of it is on this machine"


def found(toolkits: dict[str, str], releases: set[str] | None = None, no_source: str = "") -> Availability:
    return Availability(builds=Buildable(toolkits, None if releases is None else frozenset(releases), no_source))


@pytest.fixture
def matrix(rows: Any, shipped: Matrix) -> Matrix:
    """A torch for CUDA 12.6, and one release with each of the two loaders."""
    parts = (
        rows.torch("2.9.0", cuda="12.6", archs="sm_70 sm_80"),
        rows.wheel("0.50.0", {"cuda118": "sm_60"}),
        rows.wheel("0.49.2", {"cuda118": "sm_60"}),
    )
    known = {"toolkits": shipped.toolkits, "source_releases": shipped.source_releases}
    made: Matrix = msgspec.structs.replace(rows.matrix(*parts), **known)
    return made


def chosen(answer: Solution | Refusal) -> tuple[str, str, dict[str, str]]:
    assert isinstance(answer, Solution), answer
    choice = answer.choice
    return choice.bitsandbytes.version, choice.bitsandbytes.library, choice.environment


@pytest.mark.parametrize(
    ("toolkits", "taken"),
    [
        ({"12.6": "", "12.8": ""}, "126"),  # torch's own
        ({"12.6": NO_NVCC, "12.4": "", "12.1": "", "12.8": ""}, "124"),  # the highest not above torch's
        ({"12.8": "", "12.9": "", "12.4": "too old a compiler"}, "128"),  # the lowest above it
    ],
)
def test_the_toolkit_is_torch_s_or_one_of_its_major(
    rows: Any, matrix: Matrix, toolkits: dict[str, str], taken: str
) -> None:
    facts = rows.host("7.0")
    version, library, needs = chosen(solve(facts, matrix, BUILD, found(toolkits)))
    assert (version, library, needs) == ("0.50.0", f"libbitsandbytes_cuda{taken}.so", {})  # its loader finds it
    answer = solve(facts, matrix, Request(build="always", bitsandbytes="<0.50"), found(toolkits))
    version, library, needs = chosen(answer)  # this one's loads exactly torch's
    assert (version, library) == ("0.49.2", f"libbitsandbytes_cuda{taken}.so")
    assert needs == ({} if taken == "126" else {"BNB_CUDA_VERSION": taken})
    assert isinstance(answer, Solution)
    assert f"compiler of CUDA {taken[:2]}.{taken[2]}" in [line.about for line in answer.evidence]


@pytest.mark.parametrize("toolkits", [{"12.6": NO_NVCC, "13.0": ""}, {"13.0": "", "12.6": NO_NVCC, "12.4": "no gcc"}])
def test_without_a_toolkit_there_is_no_build(rows: Any, matrix: Matrix, toolkits: dict[str, str]) -> None:
    answer = solve(rows.host("7.0"), matrix, Request(), found(toolkits))
    assert isinstance(answer, Refusal)
    rules = {part.rule: part.because for part in answer.conflict}
    assert rules["build-toolkit"] == f"bitsandbytes cannot be compiled here for a torch of CUDA 12.6: {NO_NVCC}"


def test_without_a_source_there_is_no_build(rows: Any, matrix: Matrix) -> None:
    answer = solve(rows.host("7.0"), matrix, BUILD, found({"12.6": ""}, set(), "the repository does not answer"))
    assert isinstance(answer, Refusal)
    (part,) = answer.conflict
    assert (part.rule, part.because) == (
        "build-source",
        "bitsandbytes cannot be compiled here: the repository does not answer",
    )


def test_the_newest_release_that_the_source_has(rows: Any, matrix: Matrix) -> None:
    answer = solve(rows.host("7.0"), matrix, BUILD, found({"12.6": ""}, {"0.49.2", "0.44.1"}))
    assert chosen(answer)[0] == "0.49.2"
    answer = solve(
        rows.host("7.0"), matrix, Request(build="always", bitsandbytes="==0.50.0"), found({"12.6": ""}, {"0"})
    )
    assert isinstance(answer, Refusal)
    assert "the source that is asked has no bitsandbytes 0.50.0" in answer.conflict[-1].because


def test_a_tree_between_two_releases_is_taken_as_the_one_before_it(rows: Any, matrix: Matrix) -> None:
    other = {"12.6": NO_NVCC, "12.4": ""}
    for version, needs in (("0.50.2.dev0", {}), ("0.49.3.dev1", {"BNB_CUDA_VERSION": "124"}), ("0.60.0", {})):
        answer = solve(rows.host("7.0"), matrix, BUILD, found(other, {version}))
        assert chosen(answer) == (version, "libbitsandbytes_cuda124.so", needs)
        assert isinstance(answer, Solution) and any("taken to be as" in line.source for line in answer.evidence)
    release = solve(rows.host("7.0"), matrix, BUILD, found(other, {"0.49.2", "0.60.0"}))
    assert chosen(release)[0] == "0.49.2"  # where it has one that is known, that is taken
    wish = Request(build="always", bitsandbytes="<0.50")
    assert isinstance(solve(rows.host("7.0"), matrix, wish, found(other, {"0.50.2.dev0"})), Refusal)


def test_a_source_takes_only_some_releases_of_cuda(rows: Any, shipped: Matrix) -> None:
    """0.47.0 ends before CUDA 13; 0.50.9 is taken to be as the newest release that was read."""
    parts = (rows.torch("2.11.0", archs="sm_80"), rows.wheel("0.47.0", {"cuda118": "sm_60"}))
    known: Any = {"toolkits": shipped.toolkits, "source_releases": shipped.source_releases}
    facts = rows.host("8.0")
    answer = solve(facts, msgspec.structs.replace(rows.matrix(*parts), **known), Request())
    assert isinstance(answer, Refusal)
    assert "build-cuda" in [part.rule for part in answer.conflict]
    parts = (parts[0], rows.wheel("0.50.9", {"cuda118": "sm_60"}))
    answer = solve(facts, msgspec.structs.replace(rows.matrix(*parts), **known), Request())
    assert chosen(answer)[:2] == ("0.50.9", "libbitsandbytes_cuda130.so")
    assert isinstance(answer, Solution)
    (line,) = [line for line in answer.evidence if line.about == "bitsandbytes 0.50.9"]
    assert line.level == "declared" and "taken to be as that of 0.50.1" in line.source


@pytest.mark.parametrize("platform", [{"os": "windows", "libc": None}, {"libc": Libc("musl", "1.2.5")}])
def test_bnbenv_compiles_on_linux_with_glibc(rows: Any, matrix: Matrix, platform: dict[str, Any]) -> None:
    facts = rows.host("7.0")
    facts = msgspec.structs.replace(facts, platform=msgspec.structs.replace(facts.platform, **platform))
    here: Any = [msgspec.structs.replace(row, os=facts.platform.os, libc_tag=None) for row in matrix.torch]
    answer = solve(facts, msgspec.structs.replace(matrix, torch=tuple(here)), BUILD)
    assert isinstance(answer, Refusal)
    (part,) = answer.conflict
    assert part.rule in ("build", "libc")
    assert "on Linux only, and this is windows" in part.because or "for glibc, as torch is" in part.because


def test_what_was_published_for_other_machines_is_compiled(shipped: Matrix, rows: Any) -> None:
    """0.45.5 has no wheel for aarch64; and a B300 gets no code for Thor, which CUDA 12.8 calls sm_101."""
    facts = rows.host("10.3", driver="580.95.05", machine="aarch64")
    wish = Request(bitsandbytes="==0.45.5", torch="==2.11.*")
    answer = solve(facts, shipped, wish)
    assert chosen(answer)[:2] == ("0.45.5", "libbitsandbytes_cuda128.so")
    assert isinstance(answer, Solution)
    assert [cover.bitsandbytes for cover in answer.covers] == ["sass sm_100"]
    said = "bitsandbytes ==0.45.5 was asked for, and none such was published for linux on aarch64"
    assert f"no published wheel fits: {said}" in answer.notes


def test_a_release_that_is_too_old_to_be_compiled_is_said_to_be(shipped: Matrix, rows: Any) -> None:
    answer = solve(rows.host("8.0"), shipped, Request(bitsandbytes="<0.45", build="always"))
    assert isinstance(answer, Refusal)
    (part,) = answer.conflict
    newest = max((row.version for row in shipped.bitsandbytes), key=public)
    assert part.because == f"bitsandbytes <0.45 was asked for, and only 0.45.0 to {newest} can be compiled"


def built(version: str, library: str, sass: str) -> BitsandbytesWheel:
    """The row of a wheel that was compiled here."""
    return BitsandbytesWheel(
        version=version,
        filename=f"bitsandbytes-{version}-py3-none-manylinux_2_17_aarch64.whl",
        sha256="0" * 64,
        size=1,
        os="linux",
        machine="aarch64",
        libc_tag="2.17",
        requires_python=">=3.10",
        requires_dist=("torch>=2.4,<3",),
        libraries=(NativeLibrary(library, "cuda", (sass,)), NativeLibrary("libbitsandbytes_cpu.so", "cpu")),
        evidence=Evidence("measured", "what was compiled", "2026-11-21"),
    )


def test_what_was_compiled_here_is_judged_as_its_release(rows: Any, shipped: Matrix) -> None:
    """By the loader's rules and the advisories of 0.49.2, and on a Jetson, where published wheels do not run."""
    facts = rows.host("8.7", driver="540.4.0", machine="aarch64")
    facts = msgspec.structs.replace(facts, platform=msgspec.structs.replace(facts.platform, jetson="36.4"))
    torch = rows.torch("2.5.0a0+872d972e41.nv24.08", cuda="12.6", archs="sm_87", source="existing")
    torch = msgspec.structs.replace(torch, machine="aarch64", path="there", libc_tag=None)
    there = Availability(existing=Existing(torch, "3.12.3"))
    wheel = built("0.49.2+bnbenv.cu126.sm87", "libbitsandbytes_cuda126.so", "sm_87")
    matrix = msgspec.structs.replace(shipped, bitsandbytes=(wheel, *shipped.bitsandbytes))
    pinned = Request(torch="keep", build="never", bitsandbytes=f"==={wheel.version}")
    answer = solve(facts, matrix, pinned, there)
    assert isinstance(answer, Solution), answer
    assert (answer.choice.bitsandbytes.source, answer.choice.bitsandbytes.filename) == ("build", wheel.filename)
    other = built("0.49.2+bnbenv.cu124.sm87", "libbitsandbytes_cuda124.so", "sm_87")
    matrix = msgspec.structs.replace(shipped, bitsandbytes=(other, *shipped.bitsandbytes))
    answer = solve(facts, matrix, Request(torch="keep", build="never", bitsandbytes=f"==={other.version}"), there)
    assert isinstance(answer, Solution)
    assert answer.choice.environment == {"BNB_CUDA_VERSION": "124"}
    bad = built("0.49.2+bnbenv.cu130.sm87", "libbitsandbytes_cuda130.so", "sm_87")
    matrix = msgspec.structs.replace(shipped, bitsandbytes=(bad, *shipped.bitsandbytes))
    later = Existing(msgspec.structs.replace(torch, version="2.11.0", cuda="13.0"), "3.12.3")
    pinned = Request(torch="keep", build="never", bitsandbytes=f"==={bad.version}", driver="580.65.06")
    answer = solve(facts, matrix, pinned, Availability(existing=later))
    assert isinstance(answer, Refusal)
    assert "advisory:nvjitlink-13" in [part.rule for part in answer.conflict]
