"""Which package sources answer here and now, and what they offer of torch, bitsandbytes and other families' packages.

All pages are asked for at once, each in a thread of its own, with one limit for all but the default index, which gets
longer: a source that hangs is "no answer in time", and the rest still counts. Threads are daemons, so that a
hung name server cannot keep bnbenv from ending.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bnbenv.envs.http import FetchError, Http, Page, RequestsHttp, get_with_retry
from bnbenv.envs.listing import NoIndexPage, Offer, files_in_folder, parse_links_page, parse_project_page
from bnbenv.envs.sources import PackageSources, Source

LIMIT = 4.0  # seconds for all sources together
PATIENCE = 15.0  # seconds for the default index, without which nothing can be chosen
PROJECTS = ("torch", "bitsandbytes")

_STATUS = {
    401: "user and password are wanted or wrong",
    403: "access denied",
    404: "not there",
    407: "the proxy wants user and password",
    429: "too many requests",
}


@dataclass(frozen=True)
class SourceReach:
    """How one source answered. ``reason`` is one short phrase without credentials where it did not, else None.

    ``files`` are its wheels of torch and bitsandbytes (of one of PyTorch's indexes, of torch), or of torch and another
    family's packages, whose source distributions count as well.
    """

    source: Source
    reachable: bool
    reason: str | None = None
    files: tuple[Offer, ...] = ()


@dataclass(frozen=True)
class Reach:
    """How all sources answered, in this order: default, indexes, PyTorch's variants, find-links."""

    results: tuple[SourceReach, ...]

    @property
    def default(self) -> SourceReach | None:
        """The default index; None where ``no-index`` rules it out."""
        return next((one for one in self.results if one.source.kind == "default-index"), None)

    def pytorch(self, variant: str) -> SourceReach | None:
        """PyTorch's own index for a variant, if it was asked."""
        return next((one for one in self.results if one.source.variant == variant), None)

    @property
    def unreachable(self) -> tuple[SourceReach, ...]:
        return tuple(one for one in self.results if not one.reachable)

    def offers(self, project: str) -> tuple[tuple[Source, Offer], ...]:
        """Every file of a project (``torch``) with the source that offers it."""
        return tuple((one.source, offer) for one in self.results for offer in one.files if offer.project == project)


def local_torch_wheels(reach: Reach) -> tuple[Path, ...]:
    """The torch wheels that lie on this machine (find-links folders, ``file:`` indexes), and so can be measured."""
    paths = (offer.path for _, offer in reach.offers("torch"))
    return tuple(dict.fromkeys(path for path in paths if path))


def answering(sources: PackageSources, reach: Reach) -> PackageSources:
    """The sources without those of pip's configuration, and without uv's own default index, where they do not answer.

    pip passes over an index that does not answer, uv ends there. What uv's configuration or bnbenv.toml name stays: it
    was asked for.
    """
    return sources.without(one.source for one in reach.unreachable if one.source.origin in ("pip", "built-in"))


def check_reach(
    sources: PackageSources,
    variants: Iterable[str] = (),
    http: Http | None = None,
    limit: float = LIMIT,
    projects: tuple[str, ...] = PROJECTS,
    patience: float = PATIENCE,
) -> Reach:
    """Ask every source for ``projects``, torch first, and PyTorch's own index for torch in each of ``variants``.

    Takes ``limit`` seconds at most (``patience`` where the default index does not answer), and a little for reading the
    answers. Nothing is raised: a source that does not
    answer, refuses, or answers with something else says so in its ``reason``.
    """
    from pypi_simple import ACCEPT_JSON_PREFERRED

    asked = [*([sources.default] if sources.default else []), *sources.indexes]
    asked += [*sources.pytorch, *(sources.pytorch_source(variant) for variant in variants)]
    asked = list(dict.fromkeys([*asked, *sources.find_links]))
    urls = {
        url: max(limit, patience) if source == sources.default else limit
        for source in reversed(asked)
        if not _barred(source, sources)
        for url in _pages(source, projects).values()
    }
    answers = fetch_all(http or RequestsHttp(sources.network), urls, ACCEPT_JSON_PREFERRED)
    return Reach(tuple(_judge(source, sources, answers, projects) for source in asked))


def _barred(source: Source, sources: PackageSources) -> str | None:
    """Why a source is not asked at all."""
    if sources.no_index and source.kind != "find-links":
        return "no-index is set"
    if sources.offline and source.folder is None:
        return f"offline ({sources.offline})"
    return None


def _built(projects: tuple[str, ...]) -> tuple[str, ...]:
    """Those whose source distributions count."""
    return tuple(one for one in projects if one not in PROJECTS)


def _pages(source: Source, projects: tuple[str, ...]) -> dict[str, str]:
    """The address to ask for each project; none for what lies on this machine."""
    if source.folder is not None:
        return {}
    if source.kind == "find-links":
        return {"": source.url}
    asked = projects[:1] if source.kind == "pytorch-index" else projects
    return {project: f"{source.url.rstrip('/')}/{project}/" for project in asked}


def fetch_all(http: Http, urls: Mapping[str, float], accept: str) -> Mapping[str, Page | FetchError]:
    """What all addresses answer, asked at once; each has its own limit, in seconds."""
    begun = time.monotonic()
    answers: dict[str, Page | FetchError] = {
        url: FetchError(f"no answer within {limit:g} s") for url, limit in urls.items()
    }
    arrived: queue.Queue[tuple[str, Page | FetchError]] = queue.Queue()

    def ask(url: str) -> None:
        try:
            arrived.put((url, get_with_retry(http, url, accept, begun + urls[url])))
        except FetchError as error:
            arrived.put((url, error))
        except Exception as error:
            arrived.put((url, FetchError(f"failed ({type(error).__name__})")))

    for url in urls:
        threading.Thread(target=ask, args=(url,), daemon=True).start()
    waiting = dict(urls)
    while waiting:
        try:
            url, answer = arrived.get(timeout=max(0.0, begun + max(waiting.values()) - time.monotonic()))
        except queue.Empty:
            break
        answers[url] = answer
        waiting.pop(url, None)  # one that is late counts, while another is waited for
        now = time.monotonic() - begun
        waiting = {url: limit for url, limit in waiting.items() if limit > now}
    return answers


def _judge(
    source: Source, sources: PackageSources, answers: Mapping[str, Page | FetchError], projects: tuple[str, ...]
) -> SourceReach:
    barred = _barred(source, sources)
    if barred:
        return SourceReach(source, False, barred)
    if source.folder is not None:
        return _local(source, source.folder, projects)
    files: list[Offer] = []
    missing = []
    pages = _pages(source, projects)
    for project, url in pages.items():
        answer = answers[url]
        if isinstance(answer, FetchError):
            return SourceReach(source, False, answer.reason)
        if answer.status in (404, 410):
            missing.append(project)
            continue
        if answer.status != 200:
            return SourceReach(source, False, _status(answer.status))
        try:
            files += _read_page(answer, project, projects)
        except NoIndexPage:
            return SourceReach(source, False, "what it answers is no package index")
    # An index of one's own need not carry torch; the default index and PyTorch's have to.
    if len(missing) == len(pages) and source.kind != "index":
        return SourceReach(source, False, _status(404))
    return SourceReach(source, True, None, tuple(files))


def _read_page(page: Page, project: str, projects: tuple[str, ...]) -> tuple[Offer, ...]:
    built = _built(projects)
    if not project:
        return parse_links_page(page.body, page.url, projects, built)
    return parse_project_page(page.body, page.content_type, page.url, project, project in built)


def _status(status: int) -> str:
    text = _STATUS.get(status) or ("the server has a fault" if status >= 500 else "")
    return f"HTTP {status}: {text}" if text else f"HTTP {status}"


def _local(source: Source, folder: Path, projects: tuple[str, ...]) -> SourceReach:
    """A folder of wheels, a page of links, or an index in folders. What cannot be read says why."""
    built = _built(projects)
    try:
        if source.kind == "find-links" and folder.is_dir():
            return SourceReach(source, True, None, files_in_folder(folder, projects, built))
        if source.kind == "find-links":
            return SourceReach(source, True, None, parse_links_page(folder.read_bytes(), source.url, projects, built))
        next(folder.iterdir(), None)
        files = [
            offer
            for project in projects
            for offer in _local_project(folder / project, source.url, project, project in built)
        ]
        return SourceReach(source, True, None, tuple(files))
    except FileNotFoundError:
        return SourceReach(source, False, "no such folder")
    except OSError as error:
        return SourceReach(source, False, f"cannot be read ({error.strerror or type(error).__name__})")
    except NoIndexPage:
        return SourceReach(source, False, "no package index")


def _local_project(folder: Path, url: str, project: str, sdists: bool) -> tuple[Offer, ...]:
    page = folder / "index.html"
    if not page.is_file():
        return ()
    return parse_project_page(page.read_bytes(), "text/html", f"{url.rstrip('/')}/{project}/", project, sdists)
