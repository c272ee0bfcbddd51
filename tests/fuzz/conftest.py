"""Loads the table of targets, which scripts/fuzz.py shares, and gives each of them to the tests that want one."""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parent / "fuzzed"


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "fuzzed", FOLDER / "__init__.py", submodule_search_locations=[str(FOLDER)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fuzzed"] = module
    spec.loader.exec_module(module)
    return module


_TABLE = _load()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "target" in metafunc.fixturenames:
        metafunc.parametrize("target", list(_TABLE.TARGETS.values()), ids=list(_TABLE.TARGETS))


@pytest.fixture(scope="session")
def fuzzed() -> ModuleType:
    """The package of targets."""
    return _TABLE


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Parsers of web pages log that bytes are no text."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)
