"""Which environment is meant, and what is read of it without starting its Python."""

from __future__ import annotations

from pathlib import Path

import pytest

from bnbenv.envs.project import Project
from bnbenv.errors import BnbenvError
from bnbenv.models.environment import find_environment


def made(prefix: Path, *installed: str, config: str = "") -> Path:
    """A folder laid out as a virtual environment; returns its Python."""
    site = prefix / "lib" / "python3.12" / "site-packages"
    site.mkdir(parents=True)
    for name in installed:
        (site / f"{name}.dist-info").mkdir()
    (prefix / "bin").mkdir()
    (prefix / "bin" / "python").touch()
    (prefix / "pyvenv.cfg").write_text(config)
    return prefix / "bin" / "python"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "project", tmp_path / "project" / "bnbenv.toml")


def test_versions_are_read_from_the_names_of_folders(project: Project, tmp_path: Path) -> None:
    python = made(tmp_path / "env", "transformers-4.57.6", "torch-2.13.0+cpu", "torchvision-0.3", "Accelerate-1.0")
    for word in (str(python), "env"):
        found = find_environment(project, tmp_path, {}, python=word)
        assert found is not None
        assert found.versions == {"transformers": "4.57.6", "torch": "2.13.0+cpu", "accelerate": "1.0"}


def test_what_is_missing_is_named(project: Project, tmp_path: Path) -> None:
    found = find_environment(project, tmp_path, {}, python=str(made(tmp_path / "env", "torch-2.13.0")))
    assert found is not None
    with pytest.raises(BnbenvError, match="has no transformers and no bitsandbytes"):
        found.require("torch", "transformers", "bitsandbytes")


def test_the_python_below_counts_where_it_is_let_in(project: Project, tmp_path: Path) -> None:
    made(tmp_path / "base", "torch-2.12.0", "transformers-4.50.0")
    below = f"home = {tmp_path}/base/bin\ninclude-system-site-packages = true\n"
    made(tmp_path / "env", "transformers-5.23.0", config=below)
    made(tmp_path / "shut", "transformers-5.23.0", config=below.replace("true", "false"))
    let_in = find_environment(project, tmp_path, {"VIRTUAL_ENV": str(tmp_path / "env")})
    shut = find_environment(project, tmp_path, {"VIRTUAL_ENV": str(tmp_path / "shut")})
    assert let_in is not None and let_in.versions == {"transformers": "5.23.0", "torch": "2.12.0"}
    assert shut is not None and shut.versions == {"transformers": "5.23.0"}


def test_one_that_was_asked_for_and_is_not_there(project: Project, tmp_path: Path) -> None:
    with pytest.raises(BnbenvError) as refused:
        find_environment(project, tmp_path, {}, python="nowhere/bin/python")
    assert refused.value.code == "no-such-python"
    with pytest.raises(BnbenvError) as refused:
        find_environment(project, tmp_path, {}, env="train")
    assert refused.value.code == "no-environment"
