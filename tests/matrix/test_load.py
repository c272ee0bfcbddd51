"""Loading the matrix: the shipped tables, damaged ones, and rows of the user laid over them."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest

from bnbenv.errors import Exit, InputError
from bnbenv.matrix import load
from bnbenv.matrix.load import find_data, load_matrix
from bnbenv.matrix.model import BitsandbytesWheel, Evidence, Matrix, TorchBuild

TABLES = (
    load.BITSANDBYTES,
    load.TORCH,
    load.TORCH_DECLARED,
    load.LOADERS,
    load.DRIVERS,
    load.GPUS,
    load.ADVISORIES,
    load.SOURCES,
    load.TOOLKITS,
    load.FAMILIES,
    load.SOURCE_RELEASES,
    load.PACKAGES,
    load.PACKAGE_ADVISORIES,
)


@pytest.fixture(scope="module")
def shipped() -> Matrix:
    return load_matrix()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A copy of the shipped tables, to be damaged."""
    folder = tmp_path / "data"
    folder.mkdir()
    for name in TABLES:
        shutil.copy(find_data() / name, folder)
    return folder


def write(path: Path, schema: str, rows: list[BitsandbytesWheel] | list[TorchBuild]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(msgspec.json.encode({"schema": schema, "rows": rows}))


def replaced_evidence(row: BitsandbytesWheel, level: str, date: str) -> BitsandbytesWheel:
    evidence = msgspec.convert({"level": level, "source": "here", "date": date}, Evidence)
    return msgspec.structs.replace(row, size=row.size + 1, evidence=evidence)


def test_every_table_of_the_shipped_matrix_has_rows(shipped: Matrix) -> None:
    for rows in (
        shipped.bitsandbytes,
        shipped.torch,
        shipped.loaders,
        shipped.drivers,
        shipped.archs,
        shipped.advisories,
        shipped.toolkits,
        shipped.families,
        shipped.source_releases,
    ):
        assert rows
    assert shipped.pytorch_index.startswith("https://")
    assert shipped.upstream.endswith("/bitsandbytes")


def test_data_in_the_package_comes_before_data_beside_it(tmp_path: Path) -> None:
    package = tmp_path / "bnbenv"
    beside, inside = tmp_path / "matrices", package / "matrices"
    for folder in (beside, inside):
        folder.mkdir(parents=True)
    (beside / load.LOADERS).touch()
    assert find_data(package) == beside
    (inside / load.LOADERS).touch()
    assert find_data(package) == inside


def test_data_in_neither_place_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="matrix is missing") as caught:
        find_data(tmp_path / "bnbenv")
    assert caught.value.exit is Exit.USAGE
    assert caught.value.next_step


@pytest.mark.parametrize("name", TABLES)
def test_a_missing_table_is_named(data: Path, name: str) -> None:
    (data / name).unlink()
    with pytest.raises(InputError) as caught:
        load_matrix(data=data)
    assert caught.value.file == str(data / name)
    assert "cannot be read" in caught.value.expected


@pytest.mark.parametrize("name", TABLES)
def test_a_table_that_is_cut_off_is_named(data: Path, name: str) -> None:
    content = (data / name).read_bytes().rstrip()
    (data / name).write_bytes(content[:-1])
    with pytest.raises(InputError) as caught:
        load_matrix(data=data)
    assert caught.value.file == str(data / name)
    assert ("this is not TOML" if name.endswith(".toml") else "no JSON document") in caught.value.expected


@pytest.mark.parametrize(
    ("name", "old", "new", "where"),
    [
        (load.DRIVERS, 'cuda = "10.2"', "cuda = 10.2", "cuda[0].cuda"),
        (load.GPUS, "last_branch = 470", "last_brunch = 470", "arch[0].last_brunch"),
        (load.LOADERS, 'rule = "libcudart"', 'rule = "guess"', "loader[0].rule"),
        (load.ADVISORIES, "remedy = ", "remedies = ", "advisory[0].remedies"),
        (load.FAMILIES, "why = ", "reason = ", "family[0].reason"),
        (load.PACKAGES, '"kind":"sdist"', '"kind":"egg"', "rows[0].kind"),
        (load.PACKAGE_ADVISORIES, "remedy = ", "remedies = ", "advisory[0].remedies"),
        (load.SOURCES, "url", "address", "pytorch_index.address"),
        (load.BITSANDBYTES, '"size":', '"size":"big","was":', "rows[0].size"),
        (load.TORCH, "bnbenv.matrix.torch/1", "bnbenv.matrix.torch/2", "schema"),
        (load.TORCH_DECLARED, '"level":"declared"', '"level":"hoped"', "rows[0].evidence.level"),
    ],
)
def test_a_wrong_value_is_named_with_its_path(data: Path, name: str, old: str, new: str, where: str) -> None:
    text = (data / name).read_text()
    assert old in text
    (data / name).write_text(text.replace(old, new, 1))
    with pytest.raises(InputError) as caught:
        load_matrix(data=data)
    assert (caught.value.file, caught.value.where) == (str(data / name), where)


def test_an_empty_overlay_changes_nothing(shipped: Matrix, tmp_path: Path) -> None:
    assert load_matrix(tmp_path) == shipped
    assert load_matrix(tmp_path / "absent") == shipped


@pytest.mark.parametrize(
    ("level", "date", "holds"),
    [
        ("verified", "2020-01-01", True),
        ("measured", "2099-01-01", True),
        ("measured", "2020-01-01", False),
        ("declared", "2099-01-01", False),
    ],
)
def test_the_row_with_the_higher_evidence_holds_then_the_later(
    shipped: Matrix, tmp_path: Path, level: str, date: str, holds: bool
) -> None:
    row = shipped.bitsandbytes[0]
    own = replaced_evidence(row, level, date)
    write(tmp_path / load.BITSANDBYTES, "bnbenv.matrix.bitsandbytes/1", [own])
    wheels = load_matrix(tmp_path).bitsandbytes
    assert len(wheels) == len(shipped.bitsandbytes)
    assert (own in wheels, row in wheels) == (holds, not holds)


def test_a_new_wheel_in_the_overlay_is_added(shipped: Matrix, tmp_path: Path) -> None:
    new = msgspec.structs.replace(shipped.bitsandbytes[0], version="99.0", sha256="0" * 64)
    write(tmp_path / load.BITSANDBYTES, "bnbenv.matrix.bitsandbytes/1", [new])
    assert load_matrix(tmp_path).bitsandbytes == (*shipped.bitsandbytes, new)


def test_a_torch_build_is_replaced_when_it_gained_a_python(shipped: Matrix, tmp_path: Path) -> None:
    row = next(one for one in shipped.torch if one.source == "default-index")
    evidence = Evidence("measured", "here sha256:0", "2099-01-01")
    own = msgspec.structs.replace(row, pythons=(*row.pythons, "cp399"), evidence=evidence)
    write(tmp_path / load.TORCH, "bnbenv.matrix.torch/1", [own])
    builds = load_matrix(tmp_path).torch
    assert own in builds
    assert row not in builds
    assert len(builds) == len(shipped.torch)


def test_a_measured_row_of_the_user_takes_the_place_of_a_declared_one(shipped: Matrix, tmp_path: Path) -> None:
    row = next(one for one in shipped.torch if one.source == "pytorch-index" and one.cuda)
    evidence = Evidence("measured", "here sha256:0", "2020-01-01")
    own = msgspec.structs.replace(row, arch_list=("sm_90",), evidence=evidence)
    write(tmp_path / load.TORCH, "bnbenv.matrix.torch/1", [own])
    builds = load_matrix(tmp_path).torch
    assert own in builds
    assert row not in builds


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ('{"schema": "bnbenv.matrix.torch/1", "rows": [{}]}', "rows[0].version"),
        ('{"schema": "bnbenv.matrix.torch/2", "rows": []}', "schema"),
        ("", ""),
    ],
)
def test_a_damaged_overlay_is_named_and_no_reason_to_install_again(text: str, where: str, tmp_path: Path) -> None:
    (tmp_path / load.TORCH).write_text(text)
    with pytest.raises(InputError) as caught:
        load_matrix(tmp_path)
    assert caught.value.file == str(tmp_path / load.TORCH)
    assert caught.value.where == where
    assert caught.value.next_step.startswith("Move it away; ")
