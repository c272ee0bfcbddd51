"""Each table has a JSON schema that says what it holds, and all of them travel in the wheel."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import jsonschema
import pytest
import uv

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

REPO = Path(__file__).parents[2]
MATRICES = REPO / "matrices"
TABLE_FILES = sorted(path.name for path in MATRICES.iterdir() if path.suffix in (".json", ".toml"))


def table(name: str) -> dict:
    text = (MATRICES / name).read_text()
    return tomllib.loads(text) if name.endswith(".toml") else json.loads(text)


def schema(name: str) -> dict:
    return json.loads((MATRICES / "schemas" / f"{name.rpartition('.')[0]}.schema.json").read_text())


@pytest.mark.parametrize("name", TABLE_FILES)
def test_a_table_is_what_its_schema_says(name: str) -> None:
    validator = jsonschema.Draft202012Validator(schema(name))
    validator.check_schema(validator.schema)
    assert not [error.message for error in validator.iter_errors(table(name))]


def test_a_schema_refuses_what_the_loader_would_not_read() -> None:
    validator = jsonschema.Draft202012Validator(schema("gpus.toml"))
    row = table("gpus.toml")["arch"][0]
    for wrong in ({**row, "last_brunch": 470}, {**row, "products": "Tesla K80"}, {"arch": "sm_70"}):
        assert not validator.is_valid({"arch": [wrong]})


def test_the_schemas_are_those_of_the_rows() -> None:
    command = [sys.executable, REPO / "scripts" / "write_matrix_schemas.py", "--check"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_a_wheel_holds_every_table_and_schema(tmp_path: Path) -> None:
    command = [uv.find_uv_bin(), "build", "--wheel", "--quiet", "--out-dir", tmp_path, REPO]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    built = list(tmp_path.glob("bnbenv-*.whl"))
    if not built and "hatchling" in done.stderr:
        pytest.skip(f"needs hatchling, from the package index: {done.stderr[-200:]}")
    (wheel,) = built
    with zipfile.ZipFile(wheel) as archive:
        packed = {name.removeprefix("bnbenv/matrices/") for name in archive.namelist() if "/matrices/" in name}
    there = {str(path.relative_to(MATRICES)) for path in MATRICES.rglob("*") if path.is_file()}
    assert packed == there
