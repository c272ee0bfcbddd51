"""What is new on an index, from its listing and the rows that are known."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from packaging.specifiers import SpecifierSet

from bnbenv.matrix.index import IndexFile, Listing, index_session
from bnbenv.matrix.load import load_matrix
from bnbenv.matrix.model import Evidence
from bnbenv.matrix.news import Place, new_builds
from bnbenv.matrix.store import Store
from bnbenv.matrix.update import Wish, look

PLACE = Place("")


@pytest.fixture
def build():
    """A measured torch of the default index for two Pythons."""
    row = next(row for row in load_matrix().torch if row.os == "linux" and row.evidence.level == "measured")
    evidence = Evidence("measured", f"torch-{row.version}.whl sha256:{'1' * 64}", "2026-01-01")
    return replace(row, pythons=("cp310", "cp311"), libc_tag="2.28", machine="x86_64", evidence=evidence)


def wheel(build, tag, sha256):
    filename = f"torch-{build.version}-{tag}-{tag}-manylinux_2_28_x86_64.whl"
    return IndexFile(filename, "", sha256, None, False)


def test_a_mirror_with_other_pythons_adds_them_and_takes_none_away(build):
    listing = Listing((wheel(build, "cp311", "1" * 64), wheel(build, "cp312", "2" * 64)))
    news = new_builds(listing, [build], PLACE, SpecifierSet())
    assert news.tasks == ()
    assert [(row.pythons, because) for row, because in news.changed] == [
        (("cp310", "cp311", "cp312"), "there are wheels for cp312 now")
    ]


def test_a_build_is_kept_once(build, tmp_path):
    """Another row about the same build, with one Python more, takes its place; that of another machine does not."""
    store = Store(tmp_path)
    grown, other = replace(build, pythons=(*build.pythons, "cp312")), replace(build, machine="aarch64")
    for row in (build, other, grown):
        store.add(row)
    assert sorted(store.builds(), key=lambda row: row.machine) == [other, grown]


def test_only_an_index_that_there_are_rows_of_is_missed_when_it_is_silent(build, local_index):
    """That of a CUDA release which may have none yet is only tried."""
    local_index.pages["torch"] = ("text/html", b'<meta name="pypi:repository-version" content="1.0">')
    nowhere = "http://127.0.0.1:9/whl"
    variants = tuple(Place(nowhere, "pytorch-index", one) for one in ("cu126", "cu139"))
    known = replace(build, source="pytorch-index", index="cu126")
    wish = Wish(None, SpecifierSet(), Place(local_index.endpoint), variants)
    found = look(wish, [], [known], lambda: index_session(retries=0))
    assert [one.filename for one in found.silent] == ["cu126"]
