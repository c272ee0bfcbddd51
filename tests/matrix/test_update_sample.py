"""A sample of the shipped rows, measured anew on the package index: the whole way, from the listing to the row."""

from __future__ import annotations

import os

import pytest
from msgspec.structs import replace
from packaging.specifiers import SpecifierSet

from bnbenv.errors import BnbenvError
from bnbenv.matrix.index import index_endpoint, index_session
from bnbenv.matrix.load import load_matrix
from bnbenv.matrix.news import Place, sha256_of
from bnbenv.matrix.store import Store
from bnbenv.matrix.update import Wish, look, refresh
from bnbenv.progress import Quiet

pytestmark = pytest.mark.real


@pytest.fixture
def measured(tmp_path):
    def measured(bitsandbytes, torch, platform):
        place = Place(index_endpoint(os.environ))
        ranges = [text and SpecifierSet(text) for text in (bitsandbytes, torch)]
        try:
            found = look(Wish(*ranges, place, platform=platform), (), (), index_session)
        except BnbenvError as error:
            pytest.skip(f"needs a package index: {error}")
        if not found.tasks:
            pytest.skip(f"needs a package index that has {bitsandbytes or torch}")
        store = Store(tmp_path)
        report = refresh(found, store, index_session, Quiet(), 2)
        assert report.failed == []
        return store, report

    return measured


def test_a_bitsandbytes_wheel(measured):
    """Of this one nearly all is read, so it is loaded whole and its hash checked."""
    store, report = measured("==0.50.2", None, ("windows", "aarch64"))
    (row,) = store.wheels()
    (shipped,) = (one for one in load_matrix().bitsandbytes if one.sha256 == row.sha256)
    assert replace(row, evidence=shipped.evidence) == shipped
    assert row.evidence.source == f"{row.filename} sha256:{row.sha256}"
    assert report.fetched == row.size


def test_a_torch_build(measured):
    """A wheel of 620 MB, of which its directory and three members are read."""
    store, report = measured(None, "==2.0.1", ("linux", "x86_64"))
    (row,) = store.builds()
    (shipped,) = (
        one
        for one in load_matrix().torch
        if one.source == "default-index" and sha256_of(one.evidence) == sha256_of(row.evidence)
    )
    assert replace(row, evidence=shipped.evidence) == shipped
    assert row.arch_list[-1] == "sm_86"
    assert report.fetched < 9_000_000
