"""Which code runs on which compute capability."""

from __future__ import annotations

import pytest

from bnbenv.solve.coverage import ptx_for, sass_for


@pytest.mark.parametrize(
    ("capability", "names", "code"),
    [
        ((8, 9), "sm_80 sm_86 sm_90", "sm_86"),  # the closest of its major that is not above it
        ((8, 0), "sm_86", None),
        ((10, 0), "sm_90", None),
        ((9, 0), "sm_90a", "sm_90a"),
        ((10, 3), "sm_100a", None),  # runs on exactly its own
        ((10, 3), "sm_100f", "sm_100f"),  # runs within its family
        ((12, 0), "sm_100f", None),
        ((8, 7), "sm_80 sm_86", None),  # a Jetson's GPU runs its own alone, and nothing else runs that
        ((8, 7), "sm_80 sm_87", "sm_87"),
        ((8, 9), "sm_87", None),
        ((10, 3), "sm_100 sm_101", "sm_100"),  # a B300 by CUDA 12.8: sm_101 is Thor, as it was called before CUDA 13
    ],
)
def test_native_code(capability: tuple[int, int], names: str, code: str | None) -> None:
    assert sass_for(capability, tuple(names.split())) == code


@pytest.mark.parametrize(
    ("capability", "names", "code"),
    [
        ((12, 0), "compute_75 compute_90", "compute_90"),
        ((8, 9), "compute_90", None),
        ((10, 0), "compute_90a", None),
        ((9, 0), "compute_90a", "compute_90a"),
        ((10, 3), "compute_100f", "compute_100f"),
        ((12, 0), "compute_100f", None),
        ((9, 0), "sm_90", None),
    ],
)
def test_code_that_the_driver_compiles(capability: tuple[int, int], names: str, code: str | None) -> None:
    assert ptx_for(capability, tuple(names.split())) == code
