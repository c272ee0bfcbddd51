"""Wrong facts are refused with their place, odd ones are read: what was read can be solved and shown."""

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

H200 = Path(__file__).parent.parent / "hosts" / "linux-x86_64__580.65.06__h200-sm90" / "facts.json"
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


def changed(*steps: Any, value: Any = ...) -> str:
    """The facts of an H200 with one value changed, or taken out."""
    document = json.loads(H200.read_bytes())
    place = document
    for step in steps[:-1]:
        place = place[step]
    if value is ...:
        place.pop(steps[-1])
    else:
        place[steps[-1]] = value
    return json.dumps(document)


def twice() -> str:
    document = json.loads(H200.read_bytes())
    document["gpus"].append(copy.deepcopy(document["gpus"][0]))
    return json.dumps(document)


GPU = ("gpus", 0)
FACTS = [
    ("", "no JSON document: input data was truncated"),
    ("{", "no JSON document: "),
    ("driver: ok", "no JSON document: invalid character (byte 0)"),
    (b"\xff\xfe{}", "no JSON document: "),
    ("[]", "expected an object, found a list [...]"),
    ('{"a":' * 100000, "no JSON document that can be read: nested too deeply"),
    (changed("schema", value="bnbenv.facts/2"), 'schema: expected "bnbenv.facts/1", found "bnbenv.facts/2"'),
    (changed("schema", value=1), "schema: expected text in quotes, found a whole number"),
    (changed("platform"), "platform: missing required field"),
    (changed(*GPU, "uuid"), "gpus[0].uuid: missing required field"),
    (changed("driver", "state"), "driver.state: missing required field"),
    (changed("gpus", value=None), "gpus: expected a list [...], found null"),
    (changed("driver", "state", value="fine"), 'driver.state: expected "ok", "absent", "mismatch" or "error", found'),
    (
        changed(*GPU, "compute_capability", value=9.0),
        "gpus[0].compute_capability: expected text in quotes, found a num",
    ),
    (changed(*GPU, "compute_capability", value="sm_90"), 'gpus[0].compute_capability: expected "9.0" or the like, fou'),
    (changed(*GPU, "compute_capability", value="9" * 5000 + ".0"), 'gpus[0].compute_capability: expected "9.0" or th'),
    (changed(*GPU, "compute_capability", value="9.٣"), 'gpus[0].compute_capability: expected "9.0" or the like, foun'),
    (changed(*GPU, "index", value="0"), "gpus[0].index: expected a whole number, found text in quotes"),
    (changed(*GPU, "index", value=-1), "gpus[0].index: index -1 is negative"),
    (changed(*GPU, "memory_total", value=-1), "gpus[0].memory_total: expected bytes, found -1"),
    (changed(*GPU, "mig", value={"devices": [{"name": "x"}]}), "gpus[0].mig.devices[0].uuid: missing required field"),
    (changed("driver", "version", value="new"), 'driver.version: expected a version number, found "new"'),
    (changed("driver", "version", value="5" * 5000), 'driver.version: expected a version number, found "5555'),
    (changed("driver", "cuda", value="1" * 5000), "driver.cuda: expected a version number"),
    (changed("platform", "libc", "version", value=""), 'platform.libc.version: expected a version number, found ""'),
    (
        changed("pythons", value=[{"path": "/p", "version": 3}]),
        "pythons[0].version: expected text in quotes, found a w",
    ),
    (
        changed("environment", value={"BNB_CUDA_VERSION": 128}),
        "environment.BNB_CUDA_VERSION: expected text in quotes, ",
    ),
    (twice(), "gpus[1].index: index 0 stands twice"),
]


@pytest.mark.parametrize(("text", "expected"), FACTS, ids=[expected[:40] for _, expected in FACTS])
def test_wrong_facts(text: str | bytes, expected: str, refused: Any, tmp_path: Path) -> None:
    file = tmp_path / "facts.json"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert refused("solve", "--facts", str(file)).startswith(f"{file}: {expected}")


@pytest.mark.parametrize("command", ["check", "list"])
def test_what_is_wrong_in_recorded_facts_breaks_no_fast_command(command: str, bnbenv: Any, tmp_path: Path) -> None:
    """They read less of it, or nothing."""
    file = tmp_path / "facts.json"
    for text, expected in FACTS:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        ran = bnbenv(command, BNBENV_FACTS=str(file))
        assert ran.code in ((0,) if command == "list" else (2, 3)), (expected, ran)


def test_facts_that_are_no_file(refused: Any, tmp_path: Path) -> None:
    missing = tmp_path / "none.json"
    reason = "cannot be read (No such file or directory)"
    assert refused("facts", "--facts", str(missing), step="bnbenv facts --json") == f"{missing}: {reason}"
    assert refused("check", BNBENV_FACTS=str(missing)) == f"{missing}: {reason}"
    assert refused("plan", BNBENV_FACTS=str(missing)) == f"{missing}: {reason}"
    assert refused("solve", "--facts", str(tmp_path)) == f"{tmp_path}: cannot be read (Is a directory)"
    assert refused("solve", "--facts", "-", stdin=b"nonsense").startswith("standard input: no JSON document")
    assert refused("facts", "--facts", "") == "--facts: expected the name of a file, found nothing"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le"])
def test_facts_that_windows_powershell_has_redirected(encoding: str, bnbenv: Any, tmp_path: Path) -> None:
    file = tmp_path / "facts.json"
    text = H200.read_text()
    file.write_bytes(("\ufeff" + text if encoding == "utf-16-le" else text).encode(encoding))
    ran = bnbenv("facts", "--json", "--facts", str(file))
    assert (ran.code, ran.document["gpus"][0]["name"]) == (0, "NVIDIA H200")
