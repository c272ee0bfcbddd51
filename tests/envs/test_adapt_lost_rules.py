"""Which GPUs a record's generation lost, by what is seen now; and what the quick fingerprint cannot tell is no loss."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bnbenv.envs.lost import Sight, driver_reasons, find_loss
from bnbenv.envs.record import Record
from bnbenv.matrix.load import load_hardware

_, ARCHS = load_hardware()
A100, V100 = ("GPU-a", "NVIDIA A100", "8.0"), ("GPU-v", "Tesla V100", "7.0")
SEEN = Sight("580.65.06", frozenset({"GPU-a", "GPU-v"}))


def record(*gpus: tuple[str, str, str], host: dict[str, str] | None = None, backend: str = "cuda") -> Record:
    tables = [
        {"index": index, "uuid": uuid, "name": name, "compute_capability": capability}
        for index, (uuid, name, capability) in enumerate(gpus)
    ]
    facts: dict[str, Any] = {"platform": {"os": "linux"}, "driver": {"version": "580.65.06"}, "gpus": tables}
    decision: dict[str, Any] = {
        "backend": backend,
        "covers": [{"gpu": index} for index in range(len(gpus))],
        "choice": {"torch": {"version": "2.13.0", "cuda": "13.0"}},
    }
    return Record(1, "", "", "", None, [], "", host or {}, facts, {}, {}, decision, True, {})


def lost(sight: Sight, wished: tuple[str, ...] = ("all",)) -> tuple[list[int], bool] | None:
    loss = find_loss(record(A100, V100), sight, ARCHS, wished)
    return ([one.gpu.index for one in loss.lost], loss.stops) if loss else None


@pytest.mark.parametrize(
    ("sight", "expected"),
    [
        (SEEN, None),
        (replace(SEEN, driver="590.48.01"), ([1], True)),  # listed, and known not to run
        (replace(SEEN, driver="590.48.01", windows=True), ([1], True)),
        (replace(SEEN, driver="581.57", windows=True), None),  # of R580
        (replace(SEEN, driver="445.87"), ([0], True)),  # before the A100's first
        (replace(SEEN, uuids=frozenset({"GPU-a"})), ([1], False)),  # taken out
        (replace(SEEN, uuids=frozenset({"GPU-a"}), hidden=True), ([1], False)),
        (replace(SEEN, driver="575.57.08", uuids=frozenset({"GPU-a"})), ([1], True)),  # under another driver
        (replace(SEEN, uuids=frozenset({"GPU-x"})), ([0, 1], False)),  # all replaced
        (replace(SEEN, driver="575.57.08", uuids=frozenset({"GPU-x"})), ([0, 1], False)),  # another machine
        (replace(SEEN, driver="575.57.08", uuids=frozenset({"GPU-x"}), hidden=True), ([0, 1], True)),
        (replace(SEEN, driver="580.95.05", uuids=frozenset({"GPU-a"})), ([1], False)),  # a branch takes none away
        (replace(SEEN, driver="580.95.05", uuids=frozenset({"GPU-v", "GPU-x"})), ([0], False)),  # another job's GPUs
        (replace(SEEN, driver="580.95.05", uuids=frozenset({"GPU-a"}), hidden=True), ([1], False)),
        (replace(SEEN, driver="580.95.05", uuids=frozenset()), ([0, 1], True)),
        (replace(SEEN, driver="581.57", uuids=frozenset({"GPU-a"}), windows=True), ([1], False)),
        (replace(SEEN, driver="576.02", uuids=frozenset({"GPU-a"}), windows=True), ([1], True)),
        (replace(SEEN, uuids=frozenset()), ([0, 1], True)),
        (replace(SEEN, uuids=frozenset(), nameless=2), None),  # unknown is never no
        (replace(SEEN, driver=None, uuids=frozenset(), trouble="it hangs"), ([0, 1], True)),
        (replace(SEEN, driver=None), None),
    ],
)
def test_what_is_lost_and_whether_it_stops(sight: Sight, expected: tuple[list[int], bool] | None) -> None:
    assert lost(sight) == expected


@pytest.mark.parametrize(
    ("wished", "expected"),
    [
        (("0",), None),
        (("GPU-a",), None),
        (("1",), ([1], True)),
        (("GPU-v",), ([1], True)),
        (("0", "GPU-v"), ([1], True)),
    ],
)
def test_only_what_is_wished_for_can_be_lost(wished: tuple[str, ...], expected: Any) -> None:
    assert lost(replace(SEEN, driver="590.48.01"), wished) == expected


def test_equal_gpus_share_a_sentence_and_each_reason_has_its_own() -> None:
    gpus = (V100, ("GPU-w", "Tesla V100", "7.0"), A100)
    loss = find_loss(record(*gpus), Sight("590.48.01", frozenset({"GPU-v"})), ARCHS)
    assert loss is not None
    assert loss.sentences() == [
        "GPU 0, 1 (Tesla V100) are lost: driver 590.48.01 no longer supports Volta (compute capability 7.0); 580 is the"
        " last branch",
        "GPU 2 (NVIDIA A100) is lost: driver 590.48.01 does not answer for it, and 580.65.06 did",
    ]
    assert loss.remedies == "go back to a driver of branch 580, go back to driver 580.65.06"


def test_under_a_driver_of_the_same_branch_it_is_not_the_driver_that_is_blamed() -> None:
    fewer = find_loss(record(A100, V100), Sight("580.95.05", frozenset({"GPU-a"})), ARCHS)
    none = find_loss(record(A100, V100), Sight("580.95.05", frozenset()), ARCHS)
    assert fewer is not None
    assert none is not None
    assert fewer.sentences() == ["GPU 1 (Tesla V100) is lost: it is not there any more"]
    assert none.remedies == "go back to driver 580.65.06"


@pytest.mark.parametrize(("windows", "stops"), [(False, True), (True, False)])
def test_a_branch_is_one_number_on_linux_and_ten_on_windows(windows: bool, stops: bool) -> None:
    gpus = (A100, ("GPU-b", "NVIDIA A100", "8.0"))
    loss = find_loss(record(*gpus), Sight("585.10", frozenset({"GPU-a"}), windows=windows), ARCHS)
    assert loss is not None
    assert loss.stops is stops


def test_only_a_gpu_that_the_solution_covers_can_be_lost() -> None:
    made = record(A100, V100)
    narrow = made._replace(decision={**made.decision, "covers": [{"gpu": 0}]})
    gone = replace(SEEN, uuids=frozenset({"GPU-x"}))
    assert [[one.gpu.index for one in loss.lost] for loss in (find_loss(narrow, gone, ARCHS),) if loss] == [[0]]
    assert find_loss(narrow, replace(SEEN, driver="590.48.01"), ARCHS) is None


@pytest.mark.parametrize(("word", "expected"), [("MIG-b", [1]), ("MIG-c", []), ("GPU-v", [1])])
def test_a_slice_that_is_wished_for_is_its_gpu(word: str, expected: list[int]) -> None:
    made = record(A100, V100)
    first, second = made.facts["gpus"]
    sliced = {**second, "mig": {"devices": [{"uuid": "MIG-a1"}, {"uuid": "MIG-b1"}]}}
    loss = find_loss(
        made._replace(facts={**made.facts, "gpus": [first, sliced]}), replace(SEEN, driver="590.48.01"), ARCHS, (word,)
    )
    assert ([one.gpu.index for one in loss.lost] if loss else []) == expected


FILES = {"driver module": "580.65.06", "GPU 0000:01:00.0": "NVIDIA A100", "GPU 0000:01:00.0 UUID": "GPU-a"}
NEWER = {**FILES, "driver module": "595.45.04"}


@pytest.mark.parametrize(
    ("before", "now", "codes"),
    [
        (FILES, NEWER, []),
        (FILES, {"driver module": "595.45.04"}, ["gpu-lost"]),
        (FILES, {**NEWER, "GPU 0000:01:00.0 UUID": "unknown"}, []),  # not used since boot
        ({**FILES, "GPU 0000:01:00.0 UUID": "unknown"}, NEWER, []),
        ({**FILES, "GPU 0000:01:00.0 UUID": "unknown"}, {"driver module": "595.45.04"}, ["gpu-lost"]),
        ({"driver module": "580.65.06"}, {"driver module": "595.45.04"}, []),  # these files never told of GPUs
        (FILES, {**FILES, "driver module": "570.26"}, ["driver-too-old"]),
        ({"driver": "580.65.06", "GPU GPU-a": "NVIDIA A100 (8.0)"}, {"driver": "580.95.05"}, ["gpu-lost"]),
    ],
)
def test_what_the_quick_fingerprint_tells(before: dict[str, str], now: dict[str, str], codes: list[str]) -> None:
    found = driver_reasons(record(A100, host=before), "ok", now)
    assert [code for code, _ in found] == codes


@pytest.mark.parametrize("state", ["absent", "error"])
def test_a_driver_that_does_not_answer(state: str) -> None:
    assert [code for code, _ in driver_reasons(record(A100, host=FILES), state, {})] == ["gpu-lost"]
    assert driver_reasons(record(A100, host=FILES, backend="cpu"), state, {}) == []


@pytest.mark.parametrize("damage", [{"gpus": None}, {"gpus": [1, {"uuid": 5}]}, {"driver": "580"}, {"platform": 1}, {}])
def test_a_record_that_tells_too_little_is_no_loss(damage: dict[str, Any]) -> None:
    one = record(A100)
    broken = one._replace(facts={**one.facts, **damage} if damage else {})
    loss = find_loss(broken, replace(SEEN, driver="580.95.05"), ARCHS)
    assert loss is None or not loss.stops
