"""Listing a project's wheels, and downloading them."""

from __future__ import annotations

import json

import pytest
from pypi_simple import PYPI_SIMPLE_ENDPOINT

from bnbenv.errors import Failed, SourceUnreachable
from bnbenv.matrix.index import (
    IndexFile,
    download,
    index_endpoint,
    index_session,
    project_files,
    without_credentials,
)

WHEEL = "demo-1.0-py3-none-any.whl"


@pytest.fixture
def session():
    with index_session(retries=0) as session:
        yield session


def test_wheels_of_a_page_in_html(local_index, session):
    old = "demo-0.9-py3-none-any.whl"
    local_index.add("demo", {WHEEL: b"new", old: b"old", "demo-1.0.tar.gz": b"source"}, yanked=(old,))
    new, withdrawn = project_files(session, local_index.endpoint, "demo")
    assert new == IndexFile(WHEEL, new.url, local_index.sha256(WHEEL), None, False)
    assert new.url.startswith(local_index.url(WHEEL))
    assert (withdrawn.filename, withdrawn.yanked) == (old, True)


def test_wheels_of_a_page_in_json(local_index, session):
    file = {"filename": WHEEL, "url": "../../files/" + WHEEL, "hashes": {"sha256": "ab"}, "requires-python": ">=3.9"}
    unhashed = {**file, "hashes": {}, "filename": "demo-1.1-py3-none-any.whl"}
    page = {"meta": {"api-version": "1.0"}, "name": "demo", "files": [file, unhashed]}
    local_index.pages["demo"] = ("application/vnd.pypi.simple.v1+json", json.dumps(page).encode())
    assert project_files(session, local_index.endpoint, "demo") == (
        IndexFile(WHEEL, local_index.url(WHEEL), "ab", ">=3.9", False),
    )


def test_no_such_project_no_answer_and_no_index(local_index, session):
    with pytest.raises(Failed) as caught:
        project_files(session, local_index.endpoint, "absent")
    assert caught.value.code == "no-project"
    with pytest.raises(SourceUnreachable) as unreachable:
        project_files(session, "http://user:secret@127.0.0.1:9/simple/", "demo")
    assert "127.0.0.1:9" in unreachable.value.message
    assert "secret" not in unreachable.value.message
    local_index.pages["demo"] = ("image/png", b"\x89PNG")
    with pytest.raises(SourceUnreachable, match="no package index"):
        project_files(session, local_index.endpoint, "demo")


def test_the_index_is_the_one_given_else_the_configured_one():
    assert index_endpoint({}) == PYPI_SIMPLE_ENDPOINT
    assert index_endpoint({"PIP_INDEX_URL": "https://a/simple", "UV_DEFAULT_INDEX": ""}) == "https://a/simple"
    both = {"PIP_INDEX_URL": "https://a/simple", "UV_DEFAULT_INDEX": "mirror=https://b/simple"}
    assert index_endpoint(both) == "https://b/simple"
    assert index_endpoint(both, "https://c/simple") == "https://c/simple"


def test_credentials_are_never_shown():
    assert without_credentials("https://user:pa%40ss@host:8080/simple/?token=1#x") == "https://host:8080/simple/"


def test_a_download_is_compared_with_its_hash(local_index, session, tmp_path):
    local_index.add("demo", {WHEEL: b"data"})
    (file,) = project_files(session, local_index.endpoint, "demo")
    assert download(session, file, tmp_path).read_bytes() == b"data"
    local_index.files[WHEEL] = b"other"
    with pytest.raises(Failed) as caught:
        download(session, file, tmp_path)
    assert caught.value.code == "bad-hash"
    assert not (tmp_path / WHEEL).exists()
    del local_index.files[WHEEL]
    with pytest.raises(SourceUnreachable, match="cannot be downloaded"):
        download(session, file, tmp_path)
