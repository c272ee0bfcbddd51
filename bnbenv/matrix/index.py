"""The files of a project on a simple package index (JSON or HTML, whichever it serves)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from bnbenv.errors import Failed, SourceUnreachable

if TYPE_CHECKING:
    import requests

TIMEOUT = (10.0, 60.0)  # seconds to connect, and between bytes
_VARIABLES = ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL")
_NAMED_INDEX = re.compile(r"^[A-Za-z0-9._-]+=(?=[a-z]+://)")


@dataclass(frozen=True)
class IndexFile:
    """A file of a project: its name, where it lies, its sha256, and what the index says of it."""

    filename: str
    url: str
    sha256: str
    requires_python: str | None
    yanked: bool


def index_session(retries: int = 3) -> requests.Session:
    """An HTTP session that tries again, after a pause, where a server is busy or a connection breaks."""
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.util import Retry

    session = requests.Session()
    adapter = HTTPAdapter(max_retries=Retry(retries, backoff_factor=0.5, status_forcelist=(429, 500, 502, 503, 504)))
    session.mount("https://", adapter)
    session.mount("http://", adapter)
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
    """The wheels of a project that have a sha256, in the index's order.

    Raises Failed (``no-project``) where the index does not know it, SourceUnreachable where it does not answer.
    """
    import requests
    from pypi_simple import NoSuchProjectError, PyPISimple, UnsupportedRepoVersionError

    shown = without_credentials(endpoint)
    try:
        page = PyPISimple(endpoint, session=session).get_project_page(project, timeout=TIMEOUT)
    except NoSuchProjectError:
        raise Failed("no-project", f"the index {shown} knows no project {project}") from None
    except requests.RequestException as error:
        raise SourceUnreachable(
            "no-index", f"the index {shown} does not answer: {type(error).__name__}", "Check the network."
        ) from None
    except (UnsupportedRepoVersionError, ValueError, RecursionError) as error:
        raise SourceUnreachable(
            "no-index", f"what {shown} answers is no package index ({type(error).__name__})", "Check its address."
        ) from None
    return tuple(
        IndexFile(file.filename, file.url, file.digests["sha256"], file.requires_python, file.is_yanked)
        for file in page.packages
        if file.package_type == "wheel" and "sha256" in file.digests
    )


def download(session: requests.Session, file: IndexFile, folder: Path) -> Path:
    """Download a file and compare its sha256.

    Raises SourceUnreachable; Failed (``bad-hash``) where the bytes are others than the index promised; OSError.
    """
    import requests

    target, digest = folder / file.filename, hashlib.sha256()
    try:
        with session.get(file.url, timeout=TIMEOUT, stream=True) as answer, target.open("wb") as stream:
            answer.raise_for_status()
            for block in answer.iter_content(1 << 20):
                digest.update(block)
                stream.write(block)
    except requests.RequestException as error:
        raise SourceUnreachable(
            "no-answer", f"{file.filename} cannot be downloaded: {type(error).__name__}", "Check the network."
        ) from None
    if digest.hexdigest() != file.sha256:
        target.unlink()
        raise Failed("bad-hash", f"{file.filename} is not the file that the index promises", "Try again.")
    return target
