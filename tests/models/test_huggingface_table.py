"""What releases of transformers take: the table is sound, and says what the real ones say of themselves."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bnbenv.errors import InputError
from bnbenv.matrix.huggingface import api_for, minor
from bnbenv.matrix.load import load_huggingface

ASK = """
import inspect, json, transformers
from transformers import BitsAndBytesConfig, PreTrainedModel
init = inspect.signature(BitsAndBytesConfig.__init__).parameters.values()
kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
print(json.dumps({
    "version": transformers.__version__,
    "parameters": {one.name: one.default for one in init if one.kind is kind and one.name != "self"},
    "checkpointing": "gradient_checkpointing_kwargs" in
        inspect.signature(PreTrainedModel.gradient_checkpointing_enable).parameters,
}))
"""


def test_each_minor_release_has_one_row_with_the_wheel_that_it_was_read_from() -> None:
    rows = load_huggingface()
    minors = [minor(row.version) for row in rows]
    assert minors == sorted(set(minors)), "one row for each, the oldest first"
    assert minors[0] == (4, 30) and minors[-1] >= (5, 23)
    for row in rows:
        assert row.evidence.source.startswith(f"transformers-{row.version}-py3-none-any.whl sha256:"), row.version
        assert {"load_in_4bit", "load_in_8bit", "bnb_4bit_compute_dtype"} <= set(row.parameters), row.version


@pytest.mark.parametrize(
    ("asked", "row", "argument", "default"),
    [
        (None, "5.23.0", "dtype", "auto"),
        ("5.99.0", "5.23.0", "dtype", "auto"),
        ("5.0.0rc1", "5.0.0", "dtype", "auto"),
        ("4.57.1", "4.57.6", "dtype", "float16"),
        ("4.55.0.dev0", "4.55.4", "torch_dtype", "float16"),
        ("4.12.0", "4.30.2", "torch_dtype", "float16"),
    ],
)
def test_a_release_is_judged_by_its_own_row(asked: str | None, row: str, argument: str, default: str) -> None:
    api = api_for(asked)
    assert (api.version, api.dtype_argument, api.default_dtype) == (row, argument, default)


def test_what_is_no_version_is_refused() -> None:
    with pytest.raises(InputError, match="expected a version"):
        api_for("newest")


@pytest.mark.real
def test_a_row_says_what_the_release_says_of_itself(release: Any) -> None:
    found: dict[str, Any] = json.loads(release.run("-c", ASK))
    api = api_for(found["version"])
    assert api.version == found["version"]
    assert (api.parameters, api.checkpointing_kwargs) == (found["parameters"], found["checkpointing"])
