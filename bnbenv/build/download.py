"""A tarball behind an address, taken only if its sha256 is the one that was named."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bnbenv.errors import Failed, SourceUnreachable, UsageError
from bnbenv.matrix.faults import reason
from bnbenv.progress import Progress

if TYPE_CHECKING:
    import requests

LARGEST = 128 << 20  # bytes; upstream's have 2 MB
_TIMEOUT = (10.0, 30.0)  # seconds to connect, and between bytes
_WHOLE = 900.0  # seconds for all of it
_AGAIN = "Check the address and the network, then run it again."


def download(url: str, shown: str, sha256: str, into: Path, environ: Mapping[str, str], progress: Progress) -> None:
    """Write what is at an address into a new file. ``shown`` is the address without credentials.

    Raises SourceUnreachable, UsageError (``source-too-large``), Failed ``source-changed`` where the sha256 differs,
    OSError (no space).
    """
    import requests

    found = hashlib.sha256()
    try:
        with (
            requests.Session() as session,
            session.get(url, stream=True, timeout=_TIMEOUT, verify=_verify(environ)) as answer,
            into.open("xb") as file,
        ):
            _check_status(answer, shown)
            size, end = 0, time.monotonic() + _WHOLE
            # Raw bytes: a server that names gzip as the encoding of a .tar.gz would have it unpacked on the way.
            for block in answer.raw.stream(1 << 16, decode_content=False):
                size += len(block)
                if size > LARGEST:
                    message = f"{shown} is larger than {LARGEST >> 20} MB, which no source of bitsandbytes is"
                    raise UsageError("source-too-large", message, "Check the address.")
                if time.monotonic() > end:
                    raise SourceUnreachable("source-unreachable", f"{shown} does not end", _AGAIN)
                found.update(block)
                file.write(block)
                progress.at(f"downloading the source: {size >> 10} KB")
    except requests.RequestException as error:
        raise SourceUnreachable("source-unreachable", f"{shown} cannot be reached: {reason(error)}", _AGAIN) from None
    except (ValueError, UnicodeError) as error:
        message = f"{shown} is no usable address ({type(error).__name__})"
        raise UsageError("bad-source", message, "Check the address.") from None
    except Exception as error:
        if type(error).__module__.partition(".")[0] != "urllib3":  # a connection that drops in the midst of raw bytes
            raise
        raise SourceUnreachable("source-unreachable", f"{shown} cannot be reached: {reason(error)}", _AGAIN) from None
    check_sha256(found.hexdigest(), sha256, shown)


def check_sha256(found: str, wanted: str, shown: str) -> None:
    """Raises Failed ``source-changed``."""
    if found != wanted:
        message = f"{shown} is not the file that was named: its sha256 is {found}, and {wanted} was asked for"
        step = "If the new file is meant and trusted, name its sha256; nothing of it was unpacked."
        raise Failed("source-changed", message, step)


def _check_status(answer: requests.Response, shown: str) -> None:
    status = answer.status_code
    if status == 200:
        return
    if status in (401, 403, 407):
        message = f"{shown} refuses access (HTTP {status})"
        raise SourceUnreachable("access-refused", message, "Check the address and the login (~/.netrc).")
    if status in (404, 410):
        raise UsageError("no-such-source", f"there is nothing at {shown} (HTTP {status})", "Check the address.")
    raise SourceUnreachable("source-unreachable", f"{shown} answers with HTTP {status}", _AGAIN)


def _verify(environ: Mapping[str, str]) -> bool | str:
    """The certificates that uv and git are given; requests knows REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE by itself."""
    for name in ("SSL_CERT_FILE", "GIT_SSL_CAINFO", "SSL_CERT_DIR"):
        value = environ.get(name)
        if value and Path(value).exists():
            return value
    return True
