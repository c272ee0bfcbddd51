"""Listing a project's wheels, and downloading them."""

from __future__ import annotations

import json
import time

import pytest
from pypi_simple import PYPI_SIMPLE_ENDPOINT

from bnbenv.errors import Failed, SourceUnreachable
from bnbenv.matrix.index import (
    IndexFile,
    index_endpoint,
    index_session,
    list_project,
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
    file = {
        "filename": WHEEL,
        "url": "../../files/" + WHEEL,
        "hashes": {"sha256": "ab" * 32},
        "requires-python": ">=3.9",
    }
    unhashed = {**file, "hashes": {}, "filename": "demo-1.1-py3-none-any.whl"}
    page = {"meta": {"api-version": "1.0"}, "name": "demo", "files": [file, unhashed]}
    local_index.pages["demo"] = ("application/vnd.pypi.simple.v1+json", json.dumps(page).encode())
    assert project_files(session, local_index.endpoint, "demo") == (
        IndexFile(WHEEL, local_index.url(WHEEL), "ab" * 32, ">=3.9", False),
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


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("text/html", b"<html><a href='/login'>Please log in</a></html>"),
        ("text/html", b""),
        ("application/vnd.pypi.simple.v1+json", b'{"files": [{"filename": "tor'),
        ("application/vnd.pypi.simple.v1+json", b'["files"]'),
        ("application/vnd.pypi.simple.v1+json", b'{"meta": {"api-version": "9.0"}, "name": "demo", "files": []}'),
        ("text/html", b'<html><head><meta name="pypi:repository-version" content="9.0"></head></html>'),
        ("application/octet-stream", b"PK"),
    ],
)
def test_a_page_of_another_shape_is_no_index(local_index, session, kind, body):
    local_index.pages["demo"] = (kind, body)
    with pytest.raises(SourceUnreachable, match="no package index"):
        project_files(session, local_index.endpoint, "demo")


def test_a_project_without_files_is_one(local_index, session):
    page = {"meta": {"api-version": "1.1"}, "name": "demo", "files": []}
    local_index.pages["demo"] = ("application/vnd.pypi.simple.v1+json", json.dumps(page).encode())
    assert project_files(session, local_index.endpoint, "demo") == ()


def test_a_status_and_a_page_that_breaks_off(local_index, session):
    local_index.add("demo", {WHEEL: b"data"})
    local_index.twist = lambda path, span, answer: (403, {}, b"no")
    with pytest.raises(SourceUnreachable, match="answers with HTTP 403"):
        project_files(session, local_index.endpoint, "demo")
    local_index.twist = lambda path, span, answer: (200, {**answer[1], "Content-Length": "9999"}, answer[2])
    with pytest.raises(SourceUnreachable, match="the connection was dropped"):
        project_files(session, local_index.endpoint, "demo")


def test_a_page_without_end_is_not_read(local_index, session):
    local_index.pages["demo"] = ("text/html", b"<a>" * (3 << 20))
    with pytest.raises(SourceUnreachable, match="does not end"):
        project_files(session, local_index.endpoint, "demo")


def test_a_busy_server_is_asked_again_and_does_not_say_when(local_index):
    local_index.add("demo", {WHEEL: b"new"})
    busy = iter([(503, {"Retry-After": "3600"}, b"")])
    local_index.twist = lambda path, span, answer: next(busy, answer)
    began = time.monotonic()
    with index_session(retries=1) as session:
        assert len(project_files(session, local_index.endpoint, "demo")) == 1
    assert time.monotonic() - began < 60


def test_the_hash_of_the_metadata_is_read_and_files_without_a_hash_are_named(local_index, session):
    sha, of_metadata = "ab" * 32, "cd" * 32
    local_index.pages["demo"] = (
        "text/html",
        f'<!DOCTYPE html><a href="/files/{WHEEL}#sha256={sha}" data-core-metadata="sha256={of_metadata}">{WHEEL}</a>'
        f'<a href="demo-1.1-py3-none-any.whl#md5=ab">demo-1.1-py3-none-any.whl</a>'
        f'<a href="demo-1.2-py3-none-any.whl#sha256=short">demo-1.2-py3-none-any.whl</a>'.encode(),
    )
    listing = list_project(session, local_index.endpoint, "demo")
    assert [(one.url.partition("#")[0], one.metadata_sha256) for one in listing.files] == [
        (local_index.url(WHEEL), of_metadata)
    ]
    assert listing.unhashed == ("demo-1.1-py3-none-any.whl", "demo-1.2-py3-none-any.whl")
