"""What is read off index pages, and what is refused as no such page."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnbenv.envs.listing import NoIndexPage, parse_links_page, parse_project_page

BASE = "https://me:pa55-w0rd@host.example/simple/torch/"
WHEEL = "torch-2.13.0%2Bcpu-cp311-cp311-manylinux_2_28_x86_64.whl"


@pytest.mark.parametrize("text", [WHEEL.replace("%2B", "+"), "Download", ""])
def test_a_link_is_read_whatever_its_text(text: str) -> None:
    page = f'<a href="../../f/{WHEEL}#sha256={"0" * 64}" data-requires-python="&gt;=3.10" data-yanked="bad">{text}</a>'
    (offer,) = parse_project_page(page.encode(), "text/html", BASE, "torch")
    assert (offer.version, offer.filename) == ("2.13.0+cpu", WHEEL.replace("%2B", "+"))
    assert offer.url.startswith(f"https://host.example/f/{WHEEL}")
    assert (offer.sha256, offer.requires_python, offer.yanked) == ("0" * 64, ">=3.10", True)
    assert parse_links_page(page.encode(), BASE, ["torch"]) == (offer,)


def test_only_wheels_of_the_project_count() -> None:
    page = '<a href="torch-1.0.tar.gz">x</a><a href="torchvision-1.0-py3-none-any.whl">x</a><a href="/about">x</a>'
    assert parse_project_page(page.encode(), "text/html", BASE, "torch") == ()


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b'{"meta": {"api-version": "1.0"}, "name": "torch", "files": []}', "application/vnd.pypi.simple.v1+json"),
        (b'<meta name="pypi:repository-version" content="1.0"><h1>Links for torch</h1>', "text/html"),
    ],
)
def test_an_index_may_say_that_it_has_none(body: bytes, content_type: str) -> None:
    assert parse_project_page(body, content_type, BASE, "torch") == ()


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"", "text/html"),
        (b"<h1>It works!</h1>", "text/html"),
        (b'{"detail": "Not found"}', "application/json"),
        (b"[]", "application/json"),
        (b'{"meta": {"api-version": "9.0"}, "name": "torch", "files": []}', "application/vnd.pypi.simple.v9+json"),
        (b"\xff\xfe\x00", "application/json"),
    ],
)
def test_other_pages_are_refused(body: bytes, content_type: str) -> None:
    with pytest.raises(NoIndexPage):
        parse_project_page(body, content_type, BASE, "torch")


@settings(deadline=None)
@given(st.binary(max_size=300), st.sampled_from(["text/html", "application/json"]))
def test_garbage_is_refused_or_offers_nothing(body: bytes, content_type: str) -> None:
    for parse in (
        lambda: parse_project_page(body, content_type, BASE, "torch"),
        lambda: parse_links_page(body, BASE, ["torch"]),
    ):
        with contextlib.suppress(NoIndexPage):
            assert parse() == ()
