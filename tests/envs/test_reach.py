"""Whether sources answer, what they offer, and a short reason where they do not."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bnbenv.envs.http import Page
from bnbenv.envs.network import Network
from bnbenv.envs.reach import Reach, SourceReach, answering, check_reach, local_torch_wheels
from bnbenv.envs.sources import PackageSources, Source

LOGIN = "reader:pa55-w0rd"


def only(url: str, kind: Any = "default-index", **rest: Any) -> PackageSources:
    """Sources of one place."""
    source = Source(kind, url, "pip")
    default = source if kind == "default-index" else None
    indexes = (source,) if kind == "index" else ()
    links = (source,) if kind == "find-links" else ()
    return PackageSources(default, indexes, links, pytorch_base="http://localhost:1/whl", **rest)


def answer(url: str, kind: Any = "default-index", limit: float = 20, **rest: Any) -> SourceReach:
    """How one place answers. The limit is wide: none of these tests is about time."""
    (found,) = check_reach(only(url, kind, **rest), limit=limit, patience=limit).results
    assert "pa55-w0rd" not in repr(found)
    return found


@pytest.mark.parametrize("kind", ["simple", "json"])
def test_versions_and_hashes_are_read_off_either_kind_of_page(index: Any, kind: str) -> None:
    torch = index.add("torch", "2.13.0+cpu")
    index.add("torch", "2.12.1")
    index.add("bitsandbytes", "0.50.2")
    index.add("torchvision", "0.20")
    reach = check_reach(only(index.url(kind)), limit=20)
    assert reach.default and reach.default.reachable
    assert sorted((offer.project, offer.version) for offer in reach.default.files) == [
        ("bitsandbytes", "0.50.2"),
        ("torch", "2.12.1"),
        ("torch", "2.13.0+cpu"),
    ]
    (local,) = (offer for _, offer in reach.offers("torch") if offer.version == "2.13.0+cpu")
    assert local.filename == torch.name and local.sha256 and len(local.sha256) == 64
    assert local.path is None


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("status-401", "HTTP 401: user and password are wanted or wrong"),
        ("status-403", "HTTP 403: access denied"),
        ("status-404", "HTTP 404: not there"),
        ("status-407", "HTTP 407: the proxy wants user and password"),
        ("status-418", "HTTP 418"),
        ("status-503", "HTTP 503: the server has a fault"),
        ("drop", "the connection was dropped"),
        ("garbage", "what it answers is no package index"),
        ("cut", "what it answers is no package index"),
        ("huge", "the page is larger than 8 MB"),
        ("loop", "it redirects in a circle"),
    ],
)
def test_each_kind_of_trouble_has_a_short_reason(index: Any, kind: str, reason: str) -> None:
    found = answer(index.url(kind, LOGIN))
    assert (found.reachable, found.reason, found.files) == (False, reason, ())


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://localhost:1/simple", "connection refused"),
        ("http://no-such-host.invalid/simple", "the host name is unknown"),
        ("https://me:pa55-w0rd/x@host/simple", "this is no usable address"),
        ("gopher://host/simple", "this is no usable address"),
        ("http://.bad..host/simple", "this is no usable address"),
    ],
)
def test_addresses_that_lead_nowhere(url: str, reason: str) -> None:
    assert answer(url).reason == reason


@pytest.mark.parametrize("kind", ["slow", "trickle"])
def test_one_that_hangs_costs_the_limit(index: Any, kind: str) -> None:
    begun = time.monotonic()
    found = answer(index.url(kind), limit=1)
    assert time.monotonic() - begun < 15  # the server would take 30 s and more
    assert not found.reachable and found.reason and found.reason.startswith("no answer")


class HalfDead:
    """An HTTP port behind which one host answers and the other hangs."""

    def __init__(self) -> None:
        self.ending = threading.Event()

    def get(self, url: str, accept: str, deadline: float) -> Page:
        if "hung" in url:
            self.ending.wait(60)
        project = url.rstrip("/").rpartition("/")[2]
        return Page(200, "text/html", f"<a href='{project}-1.0-py3-none-any.whl'>x</a>".encode(), url)


def test_the_rest_still_counts_when_one_hangs() -> None:
    hung = Source("index", "http://hung.invalid/simple", "pip")
    good = Source("default-index", "http://good.invalid/simple", "pip")
    http = HalfDead()
    reach = check_reach(PackageSources(good, (hung,), (), pytorch_base=""), http=http, limit=1)
    http.ending.set()
    assert reach.default and [offer.version for offer in reach.default.files] == ["1.0", "1.0"]
    assert [(one.source, one.reason) for one in reach.unreachable] == [(hung, "no answer within 1 s")]


class Late:
    """An HTTP port behind which one host answers after two seconds, and the other never."""

    def __init__(self) -> None:
        self.ending = threading.Event()

    def get(self, url: str, accept: str, deadline: float) -> Page:
        self.ending.wait(60 if "hung" in url else 2)
        return Page(200, "text/html", b"<a href='torch-1.0-py3-none-any.whl'>x</a>", url)


def test_the_default_index_is_waited_for_longer() -> None:
    default = Source("default-index", "http://late.invalid/simple", "pip")
    hung = Source("index", "http://hung.invalid/simple", "pip")
    http = Late()
    reach = check_reach(PackageSources(default, (hung,), (), pytorch_base=""), http=http, limit=0.2, patience=20)
    http.ending.set()
    assert reach.default and reach.default.reachable
    assert [(one.source, one.reason) for one in reach.unreachable] == [(hung, "no answer within 0.2 s")]


def test_after_a_fault_that_passes_it_is_asked_again(index: Any) -> None:
    index.add("torch", "2.13.0")
    index.add("bitsandbytes", "0.50.2")
    assert answer(index.url("flaky")).reachable
    assert [path for path, _ in index.requests].count("/flaky/torch/") == 2
    index.requests.clear()
    answer(index.url("status-503"))
    assert [path for path, _ in index.requests].count("/status-503/torch/") == 4
    index.requests.clear()
    answer(index.url("status-403"))
    assert [path for path, _ in index.requests].count("/status-403/torch/") == 1


def test_an_index_of_ones_own_need_not_carry_torch(index: Any) -> None:
    index.add("other", "1.0")
    extra = answer(index.url("simple"), "index")
    assert extra.reachable and extra.files == ()
    assert not answer(index.url("simple")).reachable


def test_a_login_in_the_address_is_used_and_never_shown(index: Any) -> None:
    index.add("torch", "2.13.0")
    assert answer(index.url("auth", LOGIN)).reachable
    assert all(login for _, login in index.requests)
    refused = answer(index.url("auth", "reader:wrong"))
    assert refused.reason == "HTTP 401: user and password are wanted or wrong"
    assert answer(index.url("token", "t0ken-in-a-link")).reachable
    found = answer(index.url("login-in-links"))
    assert found.files and "t0ken" not in repr(found)


def test_pytorchs_variants_are_asked_for_torch_only(index: Any) -> None:
    index.add("torch", "2.13.0+cpu")
    sources = PackageSources(None, (), (), pytorch_base=index.url("simple").removesuffix("/simple"))
    reach = check_reach(sources, ["simple", "status-403"], limit=20)
    here, gone = reach.pytorch("simple"), reach.pytorch("status-403")
    assert here and here.reachable and [offer.version for offer in here.files] == ["2.13.0+cpu"]
    assert gone and gone.reason == "HTTP 403: access denied"
    assert reach.pytorch("cu126") is None
    assert reach.unreachable == (gone,)
    assert {path for path, _ in index.requests} == {"/simple/torch/", "/status-403/torch/"}


def test_folders_and_pages_of_links(index: Any, tmp_path: Path, wheel_maker: Callable[..., Path]) -> None:
    index.add("torch", "2.13.0")
    index.add("other", "1.0")
    page = answer(index.url("links"), "find-links")
    assert page.reachable and [offer.version for offer in page.files] == ["2.13.0"]
    assert answer(index.url("garbage"), "find-links").reason == "what it answers is no package index"

    folder = tmp_path / "my wheels"
    wheel = wheel_maker(folder, "torch", "2.13.0+cpu")
    (folder / "torch-broken.whl").touch()
    found = answer(folder.as_uri(), "find-links")
    assert found.reachable and [offer.path for offer in found.files] == [wheel]
    assert answer((tmp_path / "gone").as_uri(), "find-links").reason == "no such folder"


def test_an_index_in_folders_and_the_torch_wheels_that_lie_here(
    tmp_path: Path, wheel_maker: Callable[..., Path]
) -> None:
    wheel = wheel_maker(tmp_path / "files", "torch", "2.13.0+cpu")
    (tmp_path / "simple/torch").mkdir(parents=True)
    links = f'<a href="../../files/{wheel.name.replace("+", "%2B")}#sha256={"0" * 64}">{wheel.name}</a>'
    links += '<a href="https://host.example/torch-2.12.0-py3-none-any.whl">torch-2.12.0-py3-none-any.whl</a>'
    (tmp_path / "simple/torch/index.html").write_text(links)
    sources = PackageSources(
        None,
        (Source("index", (tmp_path / "simple").as_uri(), "pip"),),
        (Source("find-links", (tmp_path / "files").as_uri(), "pip"),),
        pytorch_base="https://host.example",
        network=Network(offline="BNBENV_OFFLINE"),
    )
    reach = check_reach(sources, ["cpu"])
    assert [(one.reachable, one.reason, len(one.files)) for one in reach.results] == [
        (True, None, 2),
        (False, "offline (BNBENV_OFFLINE)", 0),
        (True, None, 1),
    ]
    assert local_torch_wheels(reach) == (wheel,)
    gone = answer((tmp_path / "gone").as_uri(), "index")
    assert gone.reason == "no such folder"


def test_no_index_asks_nobody(index: Any) -> None:
    sources = PackageSources(None, (), (), pytorch_base=index.url("simple"), no_index=True)
    (found,) = check_reach(sources, ["cpu"]).results
    assert found.reason == "no-index is set" and index.requests == []


def test_certificates(tls_index: tuple[Any, Path]) -> None:
    served, cert = tls_index
    served.add("torch", "2.13.0")
    url = served.url("simple")
    # A file of certificates without this one, so that it does not matter what this machine trusts.
    import certifi

    assert answer(url, network=Network(cert=certifi.where())).reason == "its TLS certificate is not trusted"
    assert answer(url, network=Network(cert=str(cert))).reachable
    assert answer(url, network=Network(cert=certifi.where(), insecure_hosts=("localhost",))).reachable
    elsewhere = Network(cert=certifi.where(), insecure_hosts=("localhost:1",))
    assert answer(url, network=elsewhere).reason == "its TLS certificate is not trusted"
    assert answer(url.replace("https", "http")).reason == "the connection was dropped"


def test_tls_where_none_is_spoken(index: Any) -> None:
    assert answer(index.url("simple").replace("http:", "https:")).reason == "TLS failed"


def test_pips_proxy_is_used(index: Any) -> None:
    index.add("torch", "2.13.0")
    proxy = Network(proxy=index.url("").rstrip("/"))
    assert answer("http://index.invalid/simple", network=proxy).reachable
    gone = Network(proxy="http://localhost:1")
    assert answer("http://index.invalid/simple", network=gone).reason == "the proxy does not answer"


def test_pips_silent_sources_are_passed_over_and_others_stay() -> None:
    mine, pips = Source("index", "http://a.invalid/", "bnbenv.toml"), Source("index", "http://b.invalid/", "pip")
    default = Source("default-index", "http://c.invalid/", "built-in")
    sources = PackageSources(default, (mine, pips), (), pytorch_base="http://d.invalid")
    reach = Reach(tuple(SourceReach(one, False, "no answer") for one in (default, mine, pips)))
    assert answering(sources, reach) == sources.without([default, pips])


class Broken:
    """An HTTP port that fails in a way nobody foresaw."""

    def get(self, url: str, accept: str, deadline: float) -> Page:
        raise ZeroDivisionError("https://me:pa55-w0rd@host")


def test_an_unforeseen_fault_is_that_sources_fault_alone(tmp_path: Path) -> None:
    reach = check_reach(only("http://host.invalid"), http=Broken(), limit=20)
    assert reach.default and reach.default.reason == "failed (ZeroDivisionError)"
