"""Every decoder and parser, on edited documents: a value, or one sentence, soon. The same table as scripts/fuzz.py."""

from __future__ import annotations

import warnings
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

EDIT = st.tuples(st.integers(0, 2**16 - 1), st.integers(0, 2**20 - 1), st.integers(0, 2**16 - 1))


def test_what_is_valid_is_read(target: Any, fuzzed: ModuleType) -> None:
    """Otherwise edits of it would never come far."""
    read = [fuzzed.check(target, seed) is None for seed in target.seeds]
    assert sum(read) > len(read) / 2


def test_edited_documents(target: Any, fuzzed: ModuleType) -> None:
    count = len(target.seeds)

    @settings(
        max_examples=25 if target.slow else 100,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.integers(0, count - 1), st.lists(EDIT, max_size=4))
    def run(number: int, edits: list[tuple[int, int, int]]) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a zip file with two members of one name
            data = fuzzed.edited(target.kind, target.seeds[number], [fuzzed.Edit(*e) for e in edits], target.seeds)
        fuzzed.check(target, data)

    run()


def test_any_bytes(target: Any, fuzzed: ModuleType) -> None:
    @settings(
        max_examples=10 if target.slow else 30,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.binary(max_size=80) | st.text(max_size=40).map(lambda text: text.encode("utf-8", "surrogatepass")))
    def run(data: bytes) -> None:
        fuzzed.check(target, data)

    run()


@pytest.mark.parametrize("size", [40_000])
def test_large_inputs_end_soon(size: int, target: Any, fuzzed: ModuleType) -> None:
    for data in fuzzed.large(target, size):
        fuzzed.check(target, data)
