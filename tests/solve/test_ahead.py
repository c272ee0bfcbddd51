"""What a driver that is asked about would change against the one that is there, in one sentence."""

from __future__ import annotations

from typing import Any

import pytest

from bnbenv.solve.ahead import driver_change
from bnbenv.solve.model import Availability, Request
from bnbenv.solve.solver import solve


def said(facts: Any, matrix: Any, driver: str | None) -> str | None:
    request = Request(driver=driver)
    return driver_change(facts, matrix, request, Availability(), solve(facts, matrix, request))


@pytest.fixture
def matrix(rows: Any) -> Any:
    return rows.matrix(
        rows.torch("2.15.0", cuda="13.2", archs="sm_80 sm_120"),
        rows.torch("2.9.0", cuda="12.6", archs="sm_70 sm_80"),
        rows.wheel("0.50.0", {"cuda130": "sm_80 sm_120", "cuda126": "sm_70 sm_80", "cpu": ""}),
    )


@pytest.mark.parametrize(
    ("gpus", "present", "asked", "sentence"),
    [
        (
            ("7.0",),
            "580.65.06",
            "590.44.01",
            "driver 590.44.01 instead of 580.65.06: GPU 0 (GPU of 7.0) is lost, since it no longer supports Volta; "
            "nothing fits any more, today bitsandbytes 0.50.0 with torch 2.9.0 (CUDA 12.6), Python 3.12 does",
        ),
        (
            ("8.0",),
            "535.183.01",
            "580.65.06",
            "driver 580.65.06 instead of 535.183.01: "
            "today bitsandbytes 0.50.0 with torch 2.9.0 (CUDA 12.6), Python 3.12 is chosen",
        ),
        (("8.0",), "580.65.06", "590.44.01", "driver 590.44.01 instead of 580.65.06: the same is chosen as today"),
        (
            ("12.0",),
            "560.28.03",
            "580.65.06",
            "driver 580.65.06 instead of 560.28.03: GPU 0 (GPU of 12.0) can be used; "
            "bitsandbytes 0.50.0 with torch 2.15.0 (CUDA 13.2), Python 3.12 fits, today nothing does",
        ),
        (
            ("12.0",),
            "580.65.06",
            "560.28.03",
            "driver 560.28.03 instead of 580.65.06: GPU 0 (GPU of 12.0) is lost, since it does not support Blackwell "
            "yet; nothing fits any more, today bitsandbytes 0.50.0 with torch 2.15.0 (CUDA 13.2), Python 3.12 does",
        ),
        (("7.0",), "590.44.01", "595.58.03", "driver 595.58.03 instead of 590.44.01: nothing fits, as today"),
        (("3.7",), "470.256.02", "460.32.03", "driver 460.32.03 instead of 470.256.02: nothing fits, as today"),
    ],
)
def test_gains_losses_and_the_choice(
    rows: Any, matrix: Any, gpus: tuple[str, ...], present: str, asked: str, sentence: str
) -> None:
    assert said(rows.host(*gpus, driver=present), matrix, asked) == sentence


def test_none_is_asked_about(rows: Any, matrix: Any) -> None:
    assert said(rows.host("8.0"), matrix, None) is None


def test_a_branch_means_its_newest_release(rows: Any, matrix: Any) -> None:
    assert str(said(rows.host("8.0"), matrix, "590")).startswith("driver 590.")
