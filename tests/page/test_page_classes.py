"""Where the shipped rows leave little to tell apart: the order of preference, and the bounds between drivers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bnbenv.cli.page import make_page
from bnbenv.facts.model import Driver, Gpu, HostFacts, Platform
from bnbenv.matrix.drivers import at_least, unsupported
from bnbenv.matrix.load import load_matrix
from bnbenv.matrix.model import BitsandbytesWheel, Matrix
from bnbenv.solve.grid import draw_grid
from bnbenv.solve.model import Availability, Request
from bnbenv.solve.solver import choose

pytestmark = pytest.mark.xdist_group("page")  # one page and one browser for all

H100 = HostFacts(
    platform=Platform("linux", "x86_64"),
    driver=Driver("ok", "580.65.06"),
    gpus=(Gpu(0, "GPU-0", "NVIDIA H100", "9.0", 0),),
)
PICKS = {"platform": "linux-x86_64", "state": "ok", "driver": "580.65.06", "gpus": [{"arch": "sm_90"}], "libc": None}
CHOICE = """\
(() => {
  const { choice, lookup } = answer(%s), wheel = lookup.rows.wheels[choice.wheel];
  return [wheel.version, lookup.rows.torch[choice.torch.row].version, wheel.libraries[choice.library].words.library];
})()"""


@pytest.fixture(scope="module")
def shipped() -> Matrix:
    return load_matrix()


@pytest.fixture
def small(shipped: Matrix) -> Callable[..., Matrix]:
    """The matrix with two wheels, changed as wanted, and torch 2.15.0 and 2.10.0 from the default index."""

    def build(newer: Callable[[BitsandbytesWheel], BitsandbytesWheel]) -> Matrix:
        wheels = {row.version: row for row in shipped.bitsandbytes if (row.os, row.machine) == ("linux", "x86_64")}
        torch = [row for row in shipped.torch if row.version in ("2.15.0", "2.10.0") and row.source == "default-index"]
        rows = (newer(wheels["0.50.2"]), wheels["0.50.1"])
        return msgspec.structs.replace(shipped, bitsandbytes=rows, torch=tuple(torch))

    return build


def needs_older_torch(wheel: BitsandbytesWheel) -> BitsandbytesWheel:
    return msgspec.structs.replace(wheel, requires_dist=("torch<2.12",))


def has_native_code_where_it_is_not_loaded(wheel: BitsandbytesWheel) -> BitsandbytesWheel:
    """For an H100: PTX in what is loaded by itself, SASS in one library that has to be named."""
    libraries = tuple(
        msgspec.structs.replace(one, sass=("sm_90",) if "cuda126" in one.name else ("sm_80",), ptx=("compute_80",))
        for one in wheel.libraries
        if "_cuda12" in one.name or "_cuda13" in one.name
    )
    return msgspec.structs.replace(wheel, libraries=libraries)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (needs_older_torch, ["0.50.2", "2.10.0", "libbitsandbytes_cuda128.so"]),  # the newest bitsandbytes first
        (has_native_code_where_it_is_not_loaded, ["0.50.2", "2.10.0", "libbitsandbytes_cuda126.so"]),  # SASS first
    ],
)
def test_the_order_of_preference(
    change: Any, expected: list[str], small: Callable[..., Matrix], browser: Any, tmp_path: Path
) -> None:
    matrix = small(change)
    if change is has_native_code_where_it_is_not_loaded:
        matrix = msgspec.structs.replace(matrix, bitsandbytes=matrix.bitsandbytes[:1])
    solution = choose(H100, matrix, Request(), Availability())
    assert solution is not None
    chosen = solution.choice
    assert [chosen.bitsandbytes.version, chosen.torch.version, chosen.bitsandbytes.library] == expected
    page = tmp_path / "page.html"
    page.write_text(make_page(draw_grid(matrix)), encoding="utf-8")
    browser.open(page.as_uri())
    assert browser(CHOICE % json.dumps(PICKS)) == expected


def test_drivers_of_a_class_are_alike_to_every_rule(shipped: Matrix, browser: Any, page_file: Path) -> None:
    """Every branch, and every release in the matrix with its neighbours."""
    browser.open(page_file.as_uri())
    drivers = browser("D.drivers")
    for name, own in drivers.items():
        windows = name == "windows"
        asked = [f"{branch}.{minor}" for branch in range(350, 640) for minor in ("00", "45.9")]
        asked += [text + more for text in own["known"] for more in ("", ".0", ".1")]
        bounds = browser(
            f"{json.dumps(asked)}.map((one) => D.drivers.{name}.bounds[classOf(D.drivers.{name}.bounds, one)])"
        )
        for version, bound in zip(asked, bounds, strict=True):
            assert at_least(version, bound)
            for arch in shipped.archs:
                told = [unsupported(arch, one, windows) is None for one in (version, bound)]
                assert told[0] == told[1], (arch.arch, version, bound)
            for row in shipped.drivers:
                needs = (
                    (row.family_min_windows, row.bundled_windows)
                    if windows
                    else (row.family_min_linux, row.bundled_linux)
                )
                for need in filter(None, needs):
                    assert at_least(version, need) == at_least(bound, need), (need, version, bound)
