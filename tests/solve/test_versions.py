"""What people write as a version or a specifier, and how dotted numbers compare."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnbenv.errors import InputError
from bnbenv.matrix.drivers import at_least, number
from bnbenv.solve.situation import read_gpus
from bnbenv.solve.versions import admits, apart, is_version, read_specifier, requirement_on


@pytest.mark.parametrize(
    ("text", "spec", "admitted", "not_admitted"),
    [
        ("*", "*", ["1.0", "2.13.0+cpu"], ["2.15.0rc1", "2.16.0.dev20261101+cu130"]),
        (">=2.8", ">=2.8", ["2.8.0"], ["2.15.0rc1"]),
        (">=2.15.0rc1", ">=2.15.0rc1", ["2.15.0rc2", "2.15.0"], ["2.14.0"]),
        ("", "*", ["1.0"], []),
        (" 2.9 ", "==2.9.*", ["2.9.0", "2.9.1", "2.9.1+cu128"], ["2.10.0", "2.8.9"]),
        ("2", "==2.*", ["2.0.0", "2.13.0"], ["3.0", "1.9"]),
        ("2.9.1", "==2.9.1", ["2.9.1", "2.9.1+cu128"], ["2.9.0", "2.9.1.post1"]),
        ("2.9.*", "==2.9.*", ["2.9.0"], ["2.10.0"]),
        ("2.13.0+cpu", "==2.13.0+cpu", ["2.13.0+cpu"], ["2.13.0", "2.13.0+cu126"]),
        ("2.9.post1", "==2.9.post1", ["2.9.post1"], ["2.9", "2.9.1"]),
        ("2.9r", "==2.9.post0", ["2.9.post0"], ["2.9.1"]),
        ("02.09", "==2.9.*", ["2.9.1"], ["2.10.0"]),
        ("2.10.0rc1", "==2.10.0rc1", ["2.10.0rc1"], ["2.10.0"]),
        (">=2.8,<2.11", "<2.11,>=2.8", ["2.8.0", "2.10.0"], ["2.11.0", "2.7.1", "2.11.0rc1"]),
        ("~=2.8.0", "~=2.8.0", ["2.8.1"], ["2.9.0"]),
        ("!=2.9.0", "!=2.9.0", ["2.9.1"], ["2.9.0"]),
    ],
)
def test_a_wish_admits_what_it_says(text: str, spec: str, admitted: list[str], not_admitted: list[str]) -> None:
    read = read_specifier(text, "--torch", "")
    assert read == spec
    assert [one for one in admitted if not admits(read, one)] == []
    assert [one for one in not_admitted if admits(read, one)] == []


@pytest.mark.parametrize("text", [">>1", "latest", "2.x", "2,3", ">=", "v2 or so", "=2.9", "2.9\n3", "²", "1" * 5000])
def test_what_is_no_version_is_told_with_its_place(text: str) -> None:
    with pytest.raises(InputError, match="expected a version specifier") as caught:
        read_specifier(text, "bnbenv.toml", "envs.bnb.torch")
    assert caught.value.message.startswith("bnbenv.toml: envs.bnb.torch: ")
    assert len(caught.value.message) < 200


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ("all", ("all",)),
        ([0, 1], ("0", "1")),
        ("0,1, 1", ("0", "1")),
        (["GPU-6f2c", "MIG-1"], ("GPU-6f2c", "MIG-1")),
        (" 3 ", ("3",)),
    ],
)
def test_a_wish_for_gpus(wish: str | list[str | int], words: tuple[str, ...]) -> None:
    assert read_gpus(wish, "--gpus", "") == words


@pytest.mark.parametrize("wish", ["", ",", "first", "-1", "0.5", "²", "٣", "all,0", "9" * 5000, [], ["all", 0], [""]])
def test_what_is_no_gpu_is_refused(wish: str | list[str | int]) -> None:
    with pytest.raises(InputError, match="--gpus: expected") as caught:
        read_gpus(wish, "--gpus", "")
    assert len(caught.value.message) < 200


@pytest.mark.parametrize(
    ("have", "need", "enough"),
    [
        ("580.65.06", "580", True),
        ("580", "580.65.06", False),
        ("525.60.13", "525.60.13", True),
        ("525.60.9", "525.60.13", False),
        ("2.28", "2.5", True),
        ("13.0", "13", True),
        ("550.54.15-server", "550.54.15", True),
    ],
)
def test_dotted_numbers_compare_place_by_place(have: str, need: str, enough: bool) -> None:
    assert at_least(have, need) is enough


def test_a_requirement_in_a_wheel_is_found_without_extras() -> None:
    requires = ("not a requirement !", "numpy>=1.17", 'torch<3; extra == "test"', "torch<3,>=2.4", "torchvision")
    assert requirement_on("torch", requires) == "<3,>=2.4"
    assert requirement_on("triton", requires) is None


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=12) | st.text("0123456789.,<>=!~*+ abrcposdevx", max_size=12))
def test_any_text_is_a_specifier_or_an_error(text: str) -> None:
    try:
        read = read_specifier(text, "--torch", "")
    except InputError as error:
        assert error.message.startswith("--torch: expected a version specifier")
    else:
        assert isinstance(admits(read, "2.9.1"), bool)


@settings(max_examples=200, deadline=None)
@given(
    st.text(max_size=12) | st.text("0123456789,GPUMI-al ²", max_size=12) | st.lists(st.integers() | st.text(max_size=5))
)
def test_any_wish_for_gpus_is_read_or_refused(wish: str | list[str | int]) -> None:
    try:
        words = read_gpus(wish, "--gpus", "")
    except InputError as error:
        assert error.message.startswith("--gpus: expected")
    else:
        assert words == ("all",) or all(word.startswith(("GPU-", "MIG-")) or int(word) >= 0 for word in words)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 999), min_size=1, max_size=4), st.lists(st.integers(0, 999), min_size=1, max_size=4))
def test_at_least_orders_as_numbers_do(left: list[int], right: list[int]) -> None:
    have, need = ".".join(map(str, left)), ".".join(map(str, right))
    assert number(have) == tuple(left)
    assert at_least(have, have)
    assert at_least(have, need) or at_least(need, have)
    width = max(len(left), len(right))
    padded = [one + [0] * (width - len(one)) for one in (left, right)]
    assert at_least(have, need) == (padded[0] >= padded[1])


def test_how_near_a_version_is() -> None:
    """That very one, another build, the same series, the next series up, the next one down, and so on."""
    nearest = ["2.9.0+cu128", "2.9.0", "2.9.1", "2.10.0", "2.8.0", "2.11.0", "2.7.1", "3.0.0", "1.13.1"]
    keys = [apart("2.9.0+cu128", other) for other in nearest]
    assert keys == sorted(set(keys))


@pytest.mark.parametrize(("text", "known"), [("2.9.0+cu128", True), ("3.12", True), ("", False), ("newest", False)])
def test_what_is_a_version(text: str, known: bool) -> None:
    assert is_version(text) is known
