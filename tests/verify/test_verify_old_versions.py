"""Versions of bitsandbytes that are too old to be verified are said to be, whatever else is there."""

from __future__ import annotations

import io

import pytest

from bnbenv.verify.standalone.protocol import Broken, Reporter, Step
from bnbenv.verify.standalone.target import Target, check_library


@pytest.mark.parametrize("version", [(0, 37, 0), (0, 40, 0), (0, 41, 3)])
def test_what_came_before_0_42_cannot_be_verified(version: tuple[int, ...]) -> None:
    text = ".".join(map(str, version))
    with pytest.raises(Broken, match=f"bitsandbytes {text} cannot be verified: bnbenv knows how from 0.42 on"):
        check_library(Step(), Target("cuda", (8, 0), version), Reporter(io.StringIO()))
