"""The order of preference, a step at a time: two candidates differ in that step, and in later ones the other way."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from bnbenv.facts.model import HostFacts
from bnbenv.matrix.model import BitsandbytesWheel, Matrix, TorchBuild
from bnbenv.solve.model import Availability, Current, Refusal, Request, Solution
from bnbenv.solve.solver import solve


def chosen(facts: HostFacts, matrix: Matrix, request: Request | None = None, **availability: Any) -> Solution:
    answer = solve(facts, matrix, request or Request(), Availability(**availability))
    assert isinstance(answer, Solution), answer
    return answer


def pair(solution: Solution) -> tuple[str, str]:
    return solution.choice.bitsandbytes.version, solution.choice.torch.version


def test_sass_in_torch_before_the_newest_torch(rows: Any) -> None:
    matrix = rows.matrix(
        rows.torch("2.10.0", archs="sm_75 compute_75"),
        rows.torch("2.9.0", archs="sm_80"),
        rows.wheel("0.50.0", {"cuda130": "sm_80"}),
    )
    assert pair(chosen(rows.host("8.0"), matrix)) == ("0.50.0", "2.9.0")


def test_sass_in_the_library_before_the_newest_bitsandbytes(rows: Any) -> None:
    matrix = rows.matrix(
        rows.torch("2.10.0"),
        rows.wheel("0.50.0", {"cuda130": "sm_75 compute_75"}),
        rows.wheel("0.49.0", {"cuda130": "sm_80"}),
    )
    assert pair(chosen(rows.host("8.0"), matrix)) == ("0.49.0", "2.10.0")


def test_sass_for_every_gpu_before_sass_for_one(rows: Any) -> None:
    matrix = rows.matrix(
        rows.torch("2.10.0", archs="sm_90 compute_80"),
        rows.torch("2.9.0", archs="sm_80 sm_90"),
        rows.wheel("0.50.0", {"cuda130": "sm_80 sm_90"}),
    )
    solution = chosen(rows.host("9.0", "8.0"), matrix)
    assert pair(solution) == ("0.50.0", "2.9.0")
    assert [cover.torch for cover in solution.covers] == ["sass sm_90", "sass sm_80"]


def test_ptx_where_there_is_no_sass(rows: Any) -> None:
    matrix = rows.matrix(rows.torch("2.10.0", archs="compute_80"), rows.wheel("0.50.0", {"cuda130": "compute_75"}))
    (cover,) = chosen(rows.host("8.0"), matrix).covers
    assert (cover.torch, cover.bitsandbytes) == ("ptx compute_80", "ptx compute_75")


@pytest.mark.parametrize(("driver", "fits"), [("590.44.01", True), ("590.43.99", False)])
def test_ptx_needs_the_driver_of_the_toolkit_that_wrote_it(rows: Any, driver: str, fits: bool) -> None:
    matrix = rows.matrix(
        rows.torch("2.10.0", cuda="13.1", archs="compute_80"), rows.wheel("0.50.0", {"cuda131": "sm_80"})
    )
    answer = solve(rows.host("8.0", driver=driver), matrix, Request())
    assert isinstance(answer, Solution) == fits
    if isinstance(answer, Refusal):
        assert any("590.44.01" in option.change for option in answer.options if option.solve_args is None)


def test_ptx_of_the_library_is_as_old_as_the_library(rows: Any) -> None:
    """The loader takes cuda130 for CUDA 13.1: the driver of 13.0 compiles its PTX."""
    matrix = rows.matrix(rows.torch("2.10.0", cuda="13.1"), rows.wheel("0.50.0", {"cuda130": "compute_80"}))
    (cover,) = chosen(rows.host("8.0", driver="580.65.06"), matrix).covers
    assert cover.bitsandbytes == "ptx compute_80"


def test_no_override_before_an_override(rows: Any) -> None:
    """0.49 loads exactly cuda131, which only the older wheel has."""
    matrix = rows.matrix(
        rows.torch("2.10.0", cuda="13.1"),
        rows.wheel("0.49.2", {"cuda130": "sm_80"}),
        rows.wheel("0.49.1", {"cuda131": "sm_80"}),
    )
    solution = chosen(rows.host("8.0"), matrix)
    assert pair(solution) == ("0.49.1", "2.10.0")
    assert solution.choice.environment == {}


def test_sass_with_an_override_before_ptx_without(rows: Any) -> None:
    matrix = rows.matrix(
        rows.torch("2.10.0", cuda="13.1"), rows.wheel("0.49.2", {"cuda131": "compute_75", "cuda130": "sm_80"})
    )
    solution = chosen(rows.host("8.0", driver="590.44.01"), matrix)
    assert solution.choice.environment == {"BNB_CUDA_VERSION": "130"}
    assert solution.covers[0].bitsandbytes == "sass sm_80"


def test_an_override_stays_within_the_major(rows: Any) -> None:
    matrix = rows.matrix(rows.torch("2.10.0", cuda="13.1"), rows.wheel("0.49.2", {"cuda129": "sm_80", "cpu": ""}))
    assert isinstance(solve(rows.host("8.0"), matrix, Request()), Refusal)


def test_of_several_overrides_the_highest_not_above_torch(rows: Any) -> None:
    libraries = {"cuda130": "sm_80", "cuda131": "sm_80", "cuda133": "sm_80"}
    matrix = rows.matrix(rows.torch("2.10.0", cuda="13.2"), rows.wheel("0.49.2", libraries))
    assert chosen(rows.host("8.0"), matrix).choice.environment == {"BNB_CUDA_VERSION": "131"}


def test_of_overrides_above_torch_the_lowest(rows: Any) -> None:
    libraries = {"cuda131": "sm_80", "cuda132": "sm_80", "cuda133": "sm_80"}
    matrix = rows.matrix(rows.torch("2.10.0", cuda="13.0"), rows.wheel("0.49.2", libraries))
    assert chosen(rows.host("8.0"), matrix).choice.environment == {"BNB_CUDA_VERSION": "131"}


@pytest.mark.parametrize(
    ("cuda", "libraries", "loaded"),
    [
        ("12.6", "124 126 128", "126"),  # exact
        ("12.6", "121 124 128", "124"),  # the highest lower one
        ("12.6", "118 128 129", "128"),  # the lowest higher one, never another major
        ("12.6", "118 130", None),
    ],
)
def test_what_the_loader_of_0_50_takes(rows: Any, cuda: str, libraries: str, loaded: str | None) -> None:
    wheel = rows.wheel("0.50.0", {f"cuda{number}": "sm_80" for number in libraries.split()})
    answer = solve(rows.host("8.0"), rows.matrix(rows.torch("2.10.0", cuda=cuda), wheel), Request())
    if loaded is None:
        assert isinstance(answer, Refusal)
    else:
        assert isinstance(answer, Solution)
        assert answer.choice.bitsandbytes.library == f"libbitsandbytes_cuda{loaded}.so"
        assert answer.choice.environment == {}


CURRENT = Current(python="3.12", torch="2.9.0", bitsandbytes="0.49.0")


def two_of_each(rows: Any) -> tuple[TorchBuild | BitsandbytesWheel, ...]:
    return (
        rows.torch("2.10.0"),
        rows.torch("2.9.0"),
        rows.wheel("0.50.0", {"cuda130": "sm_80"}),
        rows.wheel("0.49.0", {"cuda130": "sm_80"}),
    )


def test_what_is_there_with_minimal_change(rows: Any) -> None:
    facts, matrix = rows.host("8.0"), rows.matrix(*two_of_each(rows))
    assert pair(chosen(facts, matrix, Request(current=CURRENT))) == ("0.50.0", "2.10.0")
    assert pair(chosen(facts, matrix, Request(current=CURRENT, prefer="minimal-change"))) == ("0.49.0", "2.9.0")


def test_minimal_change_changes_only_what_does_not_fit(rows: Any) -> None:
    """The torch that is there lacks the GPU's architecture: bitsandbytes stays, and so does Python."""
    matrix = rows.matrix(
        rows.torch("2.10.0", pythons=("cp312", "cp313")),
        rows.torch("2.9.0", archs="sm_75"),
        rows.wheel("0.50.0", {"cuda130": "sm_80"}),
        rows.wheel("0.49.0", {"cuda130": "sm_80"}),
    )
    request = Request(current=CURRENT, prefer="minimal-change")
    solution = chosen(rows.host("8.0", pythons=("3.13.1", "3.12.3")), matrix, request)
    assert (pair(solution), solution.choice.python) == (("0.49.0", "2.10.0"), "3.12")


def test_minimal_change_counts_python_too(rows: Any) -> None:
    """torch has to change either way: the build that keeps Python is the smaller change."""
    matrix = rows.matrix(
        rows.torch("2.10.0", pythons=("cp313",)),
        rows.torch("2.9.5", pythons=("cp312",)),
        rows.wheel("0.49.0", {"cuda130": "sm_80"}),
    )
    request = Request(current=CURRENT, prefer="minimal-change")
    solution = chosen(rows.host("8.0", pythons=("3.13.1", "3.12.3")), matrix, request)
    assert (pair(solution), solution.choice.python) == (("0.49.0", "2.9.5"), "3.12")


def test_minimal_change_takes_what_is_nearest(rows: Any) -> None:
    """Of torch another build of the release, then the series, then the next one; of bitsandbytes likewise."""
    offered = ["2.9.0+cu126", "2.9.1", "2.10.0", "2.8.0", "2.15.0"]
    wheels = [rows.wheel(version, {"cuda130": "sm_80"}) for version in ("0.49.2", "0.50.0")]
    request = Request(current=CURRENT, prefer="minimal-change")
    while offered:
        matrix = rows.matrix(*map(rows.torch, offered), *wheels)
        assert pair(chosen(rows.host("8.0"), matrix, request)) == ("0.49.2", offered.pop(0))


def test_minimal_change_keeps_python_before_torch_and_torch_before_bitsandbytes(rows: Any) -> None:
    python, torch = rows.torch("2.15.0"), rows.torch("2.9.0", pythons=("cp313",))
    kept, newer = rows.wheel("0.49.0", {"cuda130": "sm_80"}), rows.wheel("0.50.0", {"cuda130": "sm_80"})
    facts = rows.host("8.0", pythons=("3.13.1", "3.12.3"))
    request = Request(current=CURRENT, prefer="minimal-change")
    assert chosen(facts, rows.matrix(python, torch, kept), request).choice.python == "3.12"
    only_newer = rows.wheel("0.49.0", {"cuda130": "sm_80"}, requires="torch>=2.10")
    matrix = rows.matrix(rows.torch("2.9.0"), rows.torch("2.10.0"), only_newer, newer)
    assert pair(chosen(rows.host("8.0"), matrix, request)) == ("0.50.0", "2.9.0")


def test_minimal_change_does_not_buy_an_override(rows: Any) -> None:
    """No override before an override counts more than what is there."""
    matrix = rows.matrix(
        rows.torch("2.9.0", cuda="13.1"),
        rows.wheel("0.49.0", {"cuda130": "sm_80"}),
        rows.wheel("0.50.0", {"cuda130": "sm_80"}),
    )
    request = Request(current=CURRENT, prefer="minimal-change")
    assert pair(chosen(rows.host("8.0"), matrix, request)) == ("0.50.0", "2.9.0")


def test_minimal_change_yields_to_a_wish(rows: Any) -> None:
    request = Request(current=CURRENT, prefer="minimal-change", bitsandbytes=">=0.50")
    assert pair(chosen(rows.host("8.0"), rows.matrix(*two_of_each(rows)), request)) == ("0.50.0", "2.9.0")


def test_the_newest_bitsandbytes_before_the_newest_torch(rows: Any) -> None:
    matrix = rows.matrix(
        rows.torch("2.10.0"),
        rows.torch("2.9.0"),
        rows.wheel("0.50.0", {"cuda130": "sm_80"}, requires="torch<2.10"),
        rows.wheel("0.49.0", {"cuda130": "sm_80"}),
    )
    assert pair(chosen(rows.host("8.0"), matrix)) == ("0.50.0", "2.9.0")


def test_versions_are_numbers(rows: Any) -> None:
    """2.10 is newer than 2.9, and 0.50.10 than 0.50.9."""
    wheels = [rows.wheel(version, {"cuda130": "sm_80"}) for version in ("0.50.9", "0.50.10", "0.50.2")]
    builds = [rows.torch(version) for version in ("2.9.1", "2.10.0", "2.9.0")]
    assert pair(chosen(rows.host("8.0"), rows.matrix(*builds, *wheels))) == ("0.50.10", "2.10.0")


def test_the_newest_torch_before_the_higher_evidence(rows: Any) -> None:
    matrix = rows.matrix(
        rows.torch("2.10.0", level="declared"), rows.torch("2.9.0"), rows.wheel("0.50.0", {"cuda130": "sm_80"})
    )
    assert pair(chosen(rows.host("8.0"), matrix)) == ("0.50.0", "2.10.0")


def test_the_higher_evidence_before_the_default_index(rows: Any) -> None:
    matrix = rows.matrix(
        rows.torch("2.10.0", level="declared"),
        rows.torch("2.10.0+cu130", source="pytorch-index", index="cu130", level="verified"),
        rows.wheel("0.50.0", {"cuda130": "sm_80"}),
    )
    assert chosen(rows.host("8.0"), matrix).choice.torch.source == "pytorch-index"


def test_the_default_index_at_equal_version_and_evidence(rows: Any) -> None:
    matrix = rows.matrix(
        rows.torch("2.10.0+cu130", source="pytorch-index", index="cu130"),
        rows.torch("2.10.0"),
        rows.wheel("0.50.0", {"cuda130": "sm_80"}),
    )
    assert chosen(rows.host("8.0"), matrix).choice.torch.source == "default-index"


def test_a_cpu_build_of_an_index_before_a_newer_cuda_build(rows: Any) -> None:
    matrix = rows.matrix(
        rows.torch("2.10.0"),
        rows.torch("2.9.0+cpu", cuda=None, source="pytorch-index", index="cpu", level="declared"),
        rows.wheel("0.50.0", {"cpu": "", "cuda130": "sm_80"}),
    )
    assert pair(chosen(rows.host(), matrix)) == ("0.50.0", "2.9.0+cpu")


@pytest.mark.parametrize(("here", "source"), [("2.9.0+cpu", "pytorch-index"), ("2.10.0+cpu", "local")])
def test_a_local_cpu_wheel_before_one_of_an_index_that_is_no_newer(rows: Any, here: str, source: str) -> None:
    matrix = rows.matrix(
        rows.torch("2.10.0+cpu", cuda=None, source="pytorch-index", index="cpu", level="verified"),
        rows.wheel("0.50.0", {"cpu": ""}),
    )
    solution = chosen(rows.host(), matrix, local=(rows.torch(here, cuda=None, source="local"),))
    assert (solution.choice.torch.version, solution.choice.torch.source) == ("2.10.0+cpu", source)


def test_a_local_cpu_wheel_before_a_newer_build_for_cuda(rows: Any) -> None:
    matrix = rows.matrix(rows.torch("2.10.0"), rows.wheel("0.50.0", {"cpu": "", "cuda130": "sm_80"}))
    local = rows.torch("2.9.0+cpu", cuda=None, source="local")
    assert chosen(rows.host(), matrix, local=(local,)).choice.torch.source == "local"


def test_the_cuda_build_where_there_is_no_cpu_build(rows: Any) -> None:
    matrix = rows.matrix(rows.torch("2.10.0"), rows.wheel("0.50.0", {"cpu": "", "cuda130": "sm_80"}))
    solution = chosen(rows.host(), matrix)
    assert (solution.backend, solution.choice.torch.cuda) == ("cpu", "13.0")
    assert solution.choice.bitsandbytes.library == "libbitsandbytes_cpu.so"


def test_a_local_cuda_wheel_serves_a_gpu(rows: Any) -> None:
    matrix = rows.matrix(rows.torch("2.10.0", archs="sm_75"), rows.wheel("0.50.0", {"cuda130": "sm_80"}))
    local = rows.torch("2.9.0+cu130", source="local")
    assert chosen(rows.host("8.0"), matrix, local=(local,)).choice.torch.source == "local"


def test_a_cpu_wheel_at_hand_does_not_serve_a_gpu(rows: Any) -> None:
    matrix = rows.matrix(rows.torch("2.10.0"), rows.wheel("0.50.0", {"cpu": "", "cuda130": "sm_80"}))
    local = rows.torch("2.11.0+cpu", cuda=None, source="local")
    assert pair(chosen(rows.host("8.0"), matrix, local=(local,))) == ("0.50.0", "2.10.0")


def test_the_newest_python_that_is_there_and_fits_both(rows: Any) -> None:
    matrix = rows.matrix(
        rows.torch("2.10.0", pythons=("cp310", "cp311", "cp312")),
        rows.wheel("0.50.0", {"cuda130": "sm_80"}, python=">=3.10,<3.12"),
    )
    assert chosen(rows.host("8.0", pythons=("3.10.1", "3.12.3", "3.11.9", "3.13.0")), matrix).choice.python == "3.11"


def test_a_wheel_can_ask_for_more_than_its_python_tag(rows: Any) -> None:
    picky = msgspec.structs.replace(rows.torch("2.10.0"), requires_python=">=3.12.4")
    matrix = rows.matrix(picky, rows.torch("2.9.0"), rows.wheel("0.50.0", {"cuda130": "sm_80"}))
    assert pair(chosen(rows.host("8.0", pythons=("3.12.3",)), matrix)) == ("0.50.0", "2.9.0")
    assert pair(chosen(rows.host("8.0", pythons=("3.12.4",)), matrix)) == ("0.50.0", "2.10.0")


def test_a_newer_torch_before_the_newest_python(rows: Any) -> None:
    matrix = rows.matrix(
        rows.torch("2.10.0", pythons=("cp310",)),
        rows.torch("2.9.0", pythons=("cp310", "cp312")),
        rows.wheel("0.50.0", {"cuda130": "sm_80"}),
    )
    solution = chosen(rows.host("8.0", pythons=("3.12.3", "3.10.1")), matrix)
    assert (pair(solution), solution.choice.python) == (("0.50.0", "2.10.0"), "3.10")


def test_a_python_that_is_there_before_one_to_download(rows: Any) -> None:
    """An older torch with the interpreter at hand, rather than the newest with a download."""
    matrix = rows.matrix(
        rows.torch("2.10.0", pythons=("cp313",)),
        rows.torch("2.9.0", pythons=("cp312",)),
        rows.wheel("0.50.0", {"cuda130": "sm_80"}),
    )
    solution = chosen(rows.host("8.0"), matrix)
    assert (solution.choice.torch.version, solution.choice.python, solution.notes) == ("2.9.0", "3.12", ())


def test_no_python_is_downloaded_where_that_is_not_allowed(rows: Any) -> None:
    matrix = rows.matrix(rows.torch("2.10.0", pythons=("cp313",)), rows.wheel("0.50.0", {"cuda130": "sm_80"}))
    assert chosen(rows.host("8.0"), matrix).choice.python == "3.13"
    answer = solve(rows.host("8.0"), matrix, Request(), Availability(managed_python=False))
    assert isinstance(answer, Refusal)
    assert [part.rule for part in answer.conflict] == ["python"]


def test_the_order_of_the_rows_does_not_matter(shipped: Matrix, rows: Any) -> None:
    turned = msgspec.structs.replace(shipped, bitsandbytes=shipped.bitsandbytes[::-1], torch=shipped.torch[::-1])
    for facts in (rows.host("9.0"), rows.host("7.0"), rows.host("8.6", "6.1"), rows.host(), rows.host("3.7")):
        assert solve(facts, shipped, Request()) == solve(facts, turned, Request())
