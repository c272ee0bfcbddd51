"""Facts of any content: they are read, or refused with the file's name; what was read can be solved and shown."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnbenv.cli.render.facts import render as show_facts
from bnbenv.cli.render.solve import render as show_answer
from bnbenv.errors import InputError, RebootRequired
from bnbenv.facts.model import decode_facts, encode_facts
from bnbenv.matrix.load import load_matrix
from bnbenv.matrix.model import Matrix
from bnbenv.solve.model import Request
from bnbenv.solve.solver import solve

MIXED = Path(__file__).parent.parent / "hosts" / "linux-x86_64__550.54.15__a6000-sm86+gt1030-sm61" / "facts.json"
DOCUMENT = json.loads(MIXED.read_bytes())

ODD = ["", "x", "9", ".", "1.", "1..2", "999.999", "0.0", "\u00b2", "9" * 5000, "a\nb", "\x1b[31m", "GPU-", None, 0, -1]
ODD += [1.5, True, 2**70, [], {}, [{}], {"mode": "enabled", "devices": []}]


@pytest.fixture(scope="module")
def matrix() -> Matrix:
    return load_matrix()


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, below in inner for place in [(*path, key), *_places(below, (*path, key))]]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(_places(DOCUMENT)), st.sampled_from([*ODD, ...]))
def test_one_odd_value(matrix: Matrix, path: tuple[Any, ...], value: object) -> None:
    document = copy.deepcopy(DOCUMENT)
    place = document
    for step in path[:-1]:
        place = place[step]
    if value is ...:
        place.pop(path[-1])
    else:
        place[path[-1]] = value
    try:
        facts = decode_facts(json.dumps(document), "facts.json")
    except InputError as error:
        assert error.message.startswith("facts.json")
        assert len(error.message) < 300
        return
    assert show_facts(json.loads(encode_facts(facts)))
    try:
        answer = solve(facts, matrix, Request())
    except RebootRequired:
        assert facts.driver.state == "mismatch"
    else:
        assert show_answer(answer.document())


@settings(max_examples=200, deadline=None)
@given(
    st.binary(max_size=60) | st.text(max_size=60).map(str.encode) | st.recursive(st.none(), st.lists).map(json.dumps)
)
def test_any_bytes(data: bytes | str) -> None:
    with pytest.raises(InputError) as caught:
        decode_facts(data, "facts.json")
    assert caught.value.message.startswith("facts.json")
