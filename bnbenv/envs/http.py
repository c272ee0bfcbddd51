"""One GET at a time: a port that tests can stand in for, and the real one, on requests.

Every fault becomes a FetchError with one short phrase that holds no address, and so no credentials.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote, urlsplit

from bnbenv.envs.retry import PAGE, STATUSES, Backoff
from bnbenv.matrix.faults import DROPPED, reason

if TYPE_CHECKING:
    import requests

    from bnbenv.envs.network import Network

LARGEST = 8 << 20  # bytes of one page; torch's page on a large index has about one million


@dataclass(frozen=True)
class Page:
    """What was answered, whatever the status. ``url`` is where redirects ended."""

    status: int
    content_type: str
    body: bytes
    url: str


class FetchError(Exception):
    """No answer. ``reason`` is one short phrase; ``transient`` where asking again may help."""

    def __init__(self, reason: str, transient: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.transient = transient


class Http(Protocol):
    """The port: one GET that ends, one way or the other, soon after ``deadline`` (of ``time.monotonic``)."""

    def get(self, url: str, accept: str, deadline: float) -> Page:
        """Raises FetchError."""


def get_with_retry(http: Http, url: str, accept: str, deadline: float, backoff: Backoff = PAGE) -> Page:
    """One GET, and again after faults that may pass, with pauses that grow, as long as time is left.

    Returns the last answer, whatever its status. Raises FetchError.
    """
    for pause in (*backoff.pauses(), None):
        page, fault = None, None
        try:
            page = http.get(url, accept, deadline)
        except FetchError as error:
            fault = error
        passes = page.status in STATUSES if page else bool(fault and fault.transient)
        if not passes or pause is None or time.monotonic() + pause >= deadline:
            break
        time.sleep(pause)
    if fault:
        raise fault
    assert page is not None
    return page


class RequestsHttp:
    """The real thing: certificates, proxy and logins as uv is given them (netrc and proxies: requests' own)."""

    def __init__(self, network: Network) -> None:
        import requests  # noqa: F401 - slow, and no part of the time that a source has to answer

        self._network = network

    def get(self, url: str, accept: str, deadline: float) -> Page:
        import requests

        left = deadline - time.monotonic()
        if left <= 0:
            raise FetchError("no answer in time")
        with requests.Session() as session:
            if self._network.proxy:
                session.proxies = {"http": self._network.proxy, "https": self._network.proxy}
            try:
                address, login = split_login(url)
                answer = session.get(
                    address,
                    auth=login,
                    headers={"Accept": accept},
                    timeout=left,
                    stream=True,
                    verify=self.verify(url),
                    cert=self._network.client_cert,
                )
                body = _read(answer, deadline)
            except (requests.RequestException, OSError, ValueError) as error:
                raise _fault(error) from None
        return Page(answer.status_code, answer.headers.get("Content-Type", "").lower(), body, answer.url)

    def verify(self, url: str) -> bool | str:
        """What to hold a server's certificate against, as requests is told it."""
        parts = urlsplit(url)
        for host in self._network.insecure_hosts:
            named = urlsplit(host if "://" in host else f"//{host}")
            if named.hostname == parts.hostname and named.port in (None, parts.port):
                return _without_warning()
        if self._network.cert and Path(self._network.cert).exists():
            return self._network.cert
        if self._network.system_certs:
            import ssl

            places = ssl.get_default_verify_paths()
            return places.cafile or places.capath or True
        return True


def split_login(url: str) -> tuple[str, tuple[str, str] | None]:
    """The address without its login, and the login: it goes before netrc, and may be a user (a token) alone."""
    parts = urlsplit(url)
    user, mark, host = parts.netloc.rpartition("@")
    if not mark:
        return url, None
    name, _, password = user.partition(":")
    return parts._replace(netloc=host).geturl(), (unquote(name), unquote(password))


def _without_warning() -> bool:
    """Whoever trusts a host has said so; urllib3 need not warn at each page."""
    import urllib3

    urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
    return False


def _read(answer: requests.Response, deadline: float) -> bytes:
    chunks, size = [], 0
    for chunk in answer.iter_content(1 << 16):
        chunks.append(chunk)
        size += len(chunk)
        if size > LARGEST:
            raise FetchError(f"the page is larger than {LARGEST >> 20} MB")
        if time.monotonic() > deadline:
            raise FetchError("no answer in time")
    return b"".join(chunks)


def _fault(error: Exception) -> FetchError:
    return FetchError(reason(error), transient=reason(error) == DROPPED)
