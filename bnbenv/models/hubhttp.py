"""The hub over HTTP: small files whole, of large ones the beginning. No weights are loaded.

Answers as huggingface_hub reads them: ``X-Repo-Commit`` is the state of the model, ``X-Error-Code`` says why not. Large
files are redirected to other hosts; the token goes to the hub's own host only (requests drops it on the way).
"""

from __future__ import annotations

import io
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from bnbenv.envs.retry import PAGE, STATUSES
from bnbenv.errors import BnbenvError, SourceUnreachable
from bnbenv.matrix.faults import DROPPED, reason
from bnbenv.models.model import CheckpointError, Tensor
from bnbenv.models.safetensors import header_length, read_header

if TYPE_CHECKING:
    import requests

    from bnbenv.envs.network import Network

WAIT = 10.0  # seconds to connect, and between bytes; huggingface_hub's own
FIRST = 100_000  # bytes asked for of a file with weights: nearly all headers fit in, says huggingface_hub
_BLOCK = 1 << 16
_SPAN = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
LOCAL = "Give a folder with the model (there is none of this name here), or try again later."


@dataclass(frozen=True)
class Answer:
    """What the hub said. ``size`` is that of the whole file, where it is told; ``body`` may be its beginning."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    size: int | None = None

    @property
    def error(self) -> str:
        """The hub's name for what is wrong, such as ``GatedRepo``."""
        return self.headers.get("X-Error-Code", "")


class Hub:
    """One model in one state. Methods may be called by several threads; they raise what they say, and CheckpointError
    where the hub refuses, SourceUnreachable where it does not answer as a hub does."""

    def __init__(
        self, endpoint: str, model: str, revision: str, token: str | None, network: Network, deadline: float
    ) -> None:
        self.endpoint, self.model, self.revision = endpoint, model, revision
        self._token, self._network, self._deadline = token, network, deadline
        self._own = threading.local()

    def file(self, name: str, limit: int) -> bytes | None:
        """A small file; None where the model has none of this name. The state is held from then on."""
        answer = self._get(self._address(name), name, 0, limit + 1)
        if self._lacks(answer, name):
            return None
        commit = answer.headers.get("X-Repo-Commit", "")
        if _COMMIT.fullmatch(commit):
            self.revision = commit
        if len(answer.body) > limit:
            raise CheckpointError("too-large", f"{name} of {self.model} is larger than {limit} bytes")
        return answer.body

    def header(self, name: str) -> tuple[tuple[Tensor, ...], int] | None:
        """The tensors of a file with weights and its size; None where the model has none of this name."""
        address = self._address(name)
        answer = self._get(address, name, 0, FIRST)
        if self._lacks(answer, name):
            return None
        if answer.size is None:
            raise self._odd(name, "its size is not told")
        body = answer.body
        length = header_length(body, name, answer.size)
        if 8 + length > len(body):
            rest = self._get(address, name, len(body), 8 + length)
            if self._lacks(rest, name) or rest.size != answer.size:
                raise self._odd(name, "the file was replaced while it was read")
            body += rest.body
        return read_header(io.BytesIO(body), name, answer.size), answer.size

    def names(self) -> list[str]:
        """The names of the model's files, to say what it has instead of weights; empty where that is not told."""
        import json

        address = f"{self.endpoint}/api/models/{self.model}/revision/{quote(self.revision, safe='')}"
        try:
            answer = self._get(address, "the list of files", 0, 1 << 24)
            files = json.loads(answer.body)["siblings"] if answer.status == 200 else []
            return [str(file["rfilename"]) for file in files]
        except (BnbenvError, ValueError, LookupError, TypeError, RecursionError):
            return []

    def _address(self, name: str) -> str:
        return f"{self.endpoint}/{self.model}/resolve/{quote(self.revision, safe='')}/{quote(name)}"

    def _lacks(self, answer: Answer, name: str) -> bool:
        """Whether the file is not there. Raises for every other answer that is not the file."""
        if answer.status in (200, 206):
            return False
        if answer.status == 404 and answer.error in ("EntryNotFound", ""):
            return True
        raise self._refused(answer, name)

    def _refused(self, answer: Answer, name: str) -> BnbenvError:
        model, status, why = self.model, answer.status, answer.error
        login = "Log in with hf auth login, or set HF_TOKEN."
        if why == "GatedRepo":
            message = f"{model} is gated: its publisher wants its terms accepted ({status})"
            return CheckpointError("gated-model", message, f"Accept them on the model's page. {login}")
        if why == "RevisionNotFound":
            return CheckpointError("no-revision", f"{model} has no revision {self.revision}", "Check the name.")
        if answer.headers.get("X-Error-Message") == "Access to this resource is disabled.":
            return CheckpointError("disabled-model", f"{model} was disabled on the hub", "Take another model.")
        if status == 401 and self._token and why != "RepoNotFound":
            message = f"the hub does not accept the access token ({status})"
            return CheckpointError("bad-token", message, login)
        if why == "RepoNotFound" or status in (401, 404):
            message = f"the hub has no model {model}, or it is private, and there is no folder of this name here"
            step = f"Check the name. If it is private: {login[0].lower()}{login[1:]}"
            return CheckpointError("no-such-model", message, step)
        if status == 403:
            return CheckpointError("denied", f"the hub denies access to {model} ({status})", login)
        if status == 429:
            return SourceUnreachable("too-many-requests", "the hub takes no more requests for now (429)", LOCAL)
        return SourceUnreachable("no-answer", f"the hub answers {status} for {name} of {model}", LOCAL)

    def _odd(self, name: str, what: str) -> SourceUnreachable:
        return SourceUnreachable("odd-answer", f"{name} of {self.model} cannot be read from the hub: {what}", LOCAL)

    # -- requests

    def _get(self, url: str, name: str, start: int, end: int) -> Answer:
        """The bytes from ``start`` to ``end``, or less where the file ends; again after faults that may pass."""
        import requests

        for pause in (*PAGE.pauses(), None):
            try:
                answer, fault = self._ask(url, name, start, end), ""
            except (requests.RequestException, OSError, ValueError) as error:
                answer, fault = None, reason(error)
            passes = answer.status in STATUSES if answer else fault == DROPPED
            if not passes or pause is None or time.monotonic() + pause > self._deadline:
                break
            time.sleep(pause)
        if answer is None:
            message = f"the hub cannot be asked for {name} of {self.model}: {fault}"
            raise SourceUnreachable("no-answer", message, LOCAL)
        return answer

    def _ask(self, url: str, name: str, start: int, end: int) -> Answer:
        wait = min(WAIT, self._deadline - time.monotonic())
        if wait <= 0:
            raise self._odd(name, "no answer in time")
        headers = {"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity", "User-Agent": "bnbenv"}
        session, verify = self._session()
        with session.get(
            url,
            headers=headers,
            auth=self._authorize if self._token else None,  # without: the login in the address, or netrc
            timeout=wait,
            stream=True,
            verify=verify.verify(url),
            cert=self._network.client_cert,
            hooks={"response": _without_body},
        ) as answer:
            found = {key: value for one in (answer, *answer.history) for key, value in one.headers.items()}
            told = requests_headers(found)
            if answer.status_code == 416 and start == 0:  # it is empty
                return Answer(206, told, b"", 0)
            if answer.status_code not in (200, 206):
                return Answer(answer.status_code, requests_headers(answer.headers), self._body(answer, 1 << 16, name))
            if answer.headers.get("Content-Encoding", "identity") != "identity":
                raise self._odd(name, "it comes encoded")
            skipped, wanted, size = self._part(answer, name, start, end)
            body = self._body(answer, skipped + wanted, name)[skipped : skipped + wanted]
        if size is not None and len(body) < min(end, size) - start:
            raise self._odd(name, f"{len(body)} of {min(end, size) - start} bytes came")
        return Answer(answer.status_code, told, body, size)

    def _part(self, answer: requests.Response, name: str, start: int, end: int) -> tuple[int, int, int | None]:
        """How many bytes to pass over, how many to take, and the file's size. Who knows no parts sends all."""
        if answer.status_code == 200:
            length = answer.headers.get("Content-Length", "")
            return start, end - start, int(length) if re.fullmatch(r"\d{1,18}", length, re.ASCII) else None
        span = _SPAN.fullmatch(answer.headers.get("Content-Range", ""))
        if not span or int(span[1]) != start or not start <= int(span[2]) < int(span[3]):
            raise self._odd(name, "another part came than was asked for")
        return 0, end - start, int(span[3])

    def _body(self, answer: requests.Response, most: int, name: str) -> bytes:
        data = bytearray()
        for block in answer.iter_content(_BLOCK):
            data += block
            if len(data) >= most:
                break
            if time.monotonic() > self._deadline:
                raise self._odd(name, "no answer in time")
        return bytes(data)

    def _authorize(self, request: Any) -> Any:
        """Given as a function, so that no entry of netrc takes its place."""
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request

    def _session(self) -> tuple[requests.Session, Any]:
        """One for each thread: connections are kept, and none is used by two at once."""
        if not hasattr(self._own, "session"):
            import requests

            from bnbenv.envs.http import RequestsHttp

            self._own.session, self._own.http = requests.Session(), RequestsHttp(self._network)
            if self._network.proxy:
                self._own.session.proxies = {"http": self._network.proxy, "https": self._network.proxy}
        return self._own.session, self._own.http


def _without_body(answer: requests.Response, **_: Any) -> None:
    """Of a redirect nothing is read but where it leads to: requests would read all that is sent with it."""
    if answer.is_redirect:
        answer.close()
        answer._content = b""


def requests_headers(headers: Mapping[str, str]) -> Mapping[str, str]:
    """Headers whose names are found in any case."""
    from requests.structures import CaseInsensitiveDict

    return CaseInsensitiveDict(headers)
