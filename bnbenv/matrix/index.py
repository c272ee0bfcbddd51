"""The files of a project on a simple package index (JSON or HTML, whichever it serves)."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from bnbenv.errors import Failed, SourceUnreachable
from bnbenv.matrix.faults import reason

if TYPE_CHECKING:
    import requests
    from pypi_simple import DistributionPackage, ProjectPage
    from urllib3.util import Retry

TIMEOUT = (10.0, 60.0)  # seconds to connect, and between bytes
# Bytes of one page; torch's page on a large index has about one million. HTML can take 200 times as much in memory.
PAGE_SIZE = 8 << 20
PAGE_LIMIT = 120.0  # seconds for one page
CHECK = "Check the network, the proxy and the index's address."
_VARIABLES = ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL")
_NAMED_INDEX = re.compile(r"^[A-Za-z0-9._-]+=(?=[a-z]+://)")


@dataclass(frozen=True)
class IndexFile:
    """A file of a project: its name, where it lies, its sha256, and what the index says of it.

    ``metadata_sha256`` is that of the METADATA in it, where the index tells (PEP 658). ``path`` is set for a file on
    this disk, which needs no ``sha256``.
    """

    filename: str
    url: str
    sha256: str
    requires_python: str | None
    yanked: bool
    metadata_sha256: str | None = None
    path: Path | None = None


@dataclass(frozen=True)
class Listing:
    """The wheels of a project that an index offers: those with a sha256, and the names of those without one.

    ``archives`` are its source archives that have one.
    """

    files: tuple[IndexFile, ...]
    unhashed: tuple[str, ...] = ()
    archives: tuple[IndexFile, ...] = ()


def retrying(retries: int) -> Retry:
    """To ask again, after a pause, where a server is busy or a connection breaks."""
    from urllib3.util import Retry

    busy = (429, 500, 502, 503, 504)
    connect = min(1, retries)  # where there is no host, or no port, there is none a second later
    return Retry(
        retries,
        connect,
        backoff_factor=0.5,
        status_forcelist=busy,
        raise_on_status=False,
        respect_retry_after_header=False,  # a server may name hours
    )


def index_session(retries: int = 3) -> requests.Session:
    """An HTTP session that tries again, after a pause, where a server is busy or a connection breaks."""
    import requests
    from requests.adapters import HTTPAdapter

    session = requests.Session()
    for scheme in ("https://", "http://"):
        session.mount(scheme, HTTPAdapter(max_retries=retrying(retries)))
    return session


def index_endpoint(environ: Mapping[str, str], given: str | None = None) -> str:
    """The index to ask: the one given, else the one uv or pip is configured to use, else the default one."""
    from pypi_simple import PYPI_SIMPLE_ENDPOINT

    configured = (environ.get(name) for name in _VARIABLES)
    chosen = given or next((value for value in configured if value), PYPI_SIMPLE_ENDPOINT)
    return _NAMED_INDEX.sub("", chosen)


def without_credentials(url: str) -> str:
    """A URL as it may be shown: no user, no password, no query."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def project_files(session: requests.Session, endpoint: str, project: str) -> tuple[IndexFile, ...]:
    """The wheels of a project that have a sha256, in the index's order. Raises as ``list_project``."""
    return list_project(session, endpoint, project).files


def list_project(
    session: requests.Session, endpoint: str, project: str, timeout: tuple[float, float] = TIMEOUT
) -> Listing:
    """The wheels and source archives of a project on its page of a simple index.

    Raises Failed (``no-project``) where the index does not know it; SourceUnreachable where it does not answer, or
    answers with something that is no such page.
    """
    shown = without_credentials(endpoint)
    status, kind, body, url = _page(session, f"{endpoint.rstrip('/')}/{project}/", shown, timeout)
    if status in (404, 410):
        raise Failed("no-project", f"the index {shown} knows no project {project}")
    if status != 200:
        raise SourceUnreachable("no-index", f"the index {shown} answers with HTTP {status}", "Try again later.")
    try:
        page = _parsed(kind, body, url, project)
    except Exception as error:  # whatever a page from elsewhere does to a parser, it is no index page
        raise SourceUnreachable(
            "no-index", f"what {shown} answers is no package index ({type(error).__name__})", "Check its address."
        ) from None
    wheels = [one for one in page.packages if one.package_type == "wheel"]
    # JSON, or a repository version, says of itself that it is such a page; of other HTML only its files do.
    if not page.repository_version and not any(one.package_type for one in page.packages):
        message = f"what {shown} answers is no package index (it lists no file)"
        raise SourceUnreachable("no-index", message, "Check its address.")
    hashed = [(one, _sha256(one.digests)) for one in wheels]
    archives = [(one, _sha256(one.digests)) for one in page.packages if one.package_type == "sdist"]
    return Listing(
        tuple(_file(one, sha256) for one, sha256 in hashed if sha256),
        tuple(one.filename for one, sha256 in hashed if not sha256),
        tuple(_file(one, sha256) for one, sha256 in archives if sha256),
    )


def _file(package: DistributionPackage, sha256: str) -> IndexFile:
    metadata = _sha256(package.metadata_digests or {})
    return IndexFile(package.filename, package.url, sha256, package.requires_python, package.is_yanked, metadata)


def _sha256(digests: Mapping[str, str]) -> str | None:
    text = digests.get("sha256", "").lower()
    return text if re.fullmatch("[0-9a-f]{64}", text) else None


def _page(session: requests.Session, url: str, shown: str, timeout: tuple[float, float]) -> tuple[int, str, bytes, str]:
    """Status, kind, body and final address of a page, within limits. Raises SourceUnreachable."""
    import requests
    from pypi_simple import ACCEPT_JSON_PREFERRED

    end, body = time.monotonic() + PAGE_LIMIT, bytearray()
    try:
        with session.get(url, headers={"Accept": ACCEPT_JSON_PREFERRED}, timeout=timeout, stream=True) as answer:
            for block in answer.iter_content(1 << 16):
                body += block
                if len(body) > PAGE_SIZE or time.monotonic() > end:
                    raise SourceUnreachable("no-index", f"the page of the index {shown} does not end")
            return answer.status_code, answer.headers.get("Content-Type", "").lower(), bytes(body), answer.url
    except (requests.RequestException, OSError, ValueError) as error:  # among them addresses that are none
        raise SourceUnreachable("no-index", f"the index {shown} does not answer: {reason(error)}", CHECK) from None


def _parsed(kind: str, body: bytes, url: str, project: str) -> ProjectPage:
    import json
    import warnings

    from pypi_simple import ProjectPage

    if "json" in kind:
        return ProjectPage.from_json_data(json.loads(body), base_url=url)
    if "html" not in kind:
        raise ValueError(kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the parser's remarks about pages that are no HTML
        return ProjectPage.from_html(project, body.decode("utf-8", "replace"), base_url=url)
