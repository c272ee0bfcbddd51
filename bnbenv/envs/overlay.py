"""Rows of the user's own: where they lie, how they are kept, and over which connections they are measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from bnbenv.envs.hold import hold
from bnbenv.envs.http import RequestsHttp, split_login
from bnbenv.envs.sources import PackageSources
from bnbenv.errors import UsageError
from bnbenv.matrix.store import Store
from bnbenv.paths import data_home
from bnbenv.progress import Progress

if TYPE_CHECKING:
    import requests

WAIT = 30.0  # seconds for another bnbenv to write its row; each takes milliseconds


def overlay(environ: Mapping[str, str]) -> Path | None:
    """The folder of the user's own rows, there or not; None for a user without a home."""
    try:
        return data_home(environ) / "matrix"
    except UsageError:
        return None


def store(folder: Path, environ: Mapping[str, str], progress: Progress) -> Store:
    """The rows in a folder, which is held while one is written."""

    def guard() -> AbstractContextManager[Any]:
        return hold(folder, f"the rows in {folder}", WAIT, environ, progress.detail)

    return Store(folder, guard)


def connections(sources: PackageSources, retries: int = 3) -> Callable[[], requests.Session]:
    """Makes sessions that speak to the sources as uv is told to: certificates, proxy, logins."""
    import requests
    from requests.adapters import HTTPAdapter

    from bnbenv.matrix.index import retrying

    http, network = RequestsHttp(sources.network), sources.network
    named = [sources.default, *sources.indexes, *sources.pytorch, *sources.find_links]
    urls = [*(source.url for source in named if source), sources.pytorch_base]
    logins = {_server(url): known for url in urls if (known := split_login(url)[1])}

    class Adapter(HTTPAdapter):
        # What requests finds in the environment would go before the session's own.
        def send(self, request: requests.PreparedRequest, *words: Any, **more: Any) -> requests.Response:
            cert = network.client_cert or more.get("cert")
            return super().send(request, *words, **{**more, "verify": http.verify(request.url or ""), "cert": cert})

    def login(request: requests.PreparedRequest) -> requests.PreparedRequest:
        url = request.url or ""
        known = split_login(url)[1] or logins.get(_server(url)) or requests.utils.get_netrc_auth(url)
        return requests.auth.HTTPBasicAuth(*known)(request) if known else request

    def make() -> requests.Session:
        session = requests.Session()
        for scheme in ("https://", "http://"):
            session.mount(scheme, Adapter(max_retries=retrying(retries)))
        if network.proxy:
            session.proxies = {"http": network.proxy, "https": network.proxy}
        session.auth = login
        return session

    return make


def _server(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc.rpartition("@")[2].lower()
