"""Do the packages of a lock come from the sources that are set up here, and did anybody ask for them?

A lock is a file that people send each other. Its hashes say that what arrives is what it names; they do not say that
it names what the sources offer. So a lock from elsewhere is asked about before anything of it is installed: one page
for each place that its files are to be loaded from.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from bnbenv.envs.http import FetchError, Http, Page, RequestsHttp
from bnbenv.envs.listing import NoIndexPage, Offer, files_in_folder, parse_links_page, parse_project_page
from bnbenv.envs.lockfile import Locked, LockedFile, normalized
from bnbenv.envs.reach import fetch_all
from bnbenv.envs.sources import PackageSources, Source, local_path
from bnbenv.errors import Failed, SourceUnreachable
from bnbenv.redact import redact

LIMIT = 10.0  # seconds for all pages together

_REQUIRES = re.compile(r"^Requires-Dist:\s*([A-Za-z0-9][A-Za-z0-9._-]*)", re.I | re.M)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Place:
    """A server, or a folder of this machine, that files are loaded from."""

    scheme: str
    where: str


def place_of(address: str) -> Place:
    """Where an address or a path leads to."""
    path = local_file(address)
    if path is not None:
        return Place("file", str(path.parent))
    parts = urlsplit(address)
    return Place(parts.scheme.lower(), parts.netloc.rpartition("@")[2].lower())


def check_sources(locked: Locked, sources: PackageSources, http: Http | None = None, asked: Iterable[str] = ()) -> None:
    """Refuse a lock whose files are to be loaded from where none of the sources has its files.

    ``asked`` are the requirements: one may say itself where its package comes from (``name @ address``). Raises Failed;
    SourceUnreachable where nobody can be asked. Offline nothing new can be loaded, so no one is asked.
    """
    to_ask = [*([sources.default] if sources.default else []), *sources.indexes, *sources.pytorch, *sources.find_links]
    own = {place_of(f"{source.address.rstrip('/')}/x") for source in to_ask if source.address}
    strange = _strange(locked, own, _said(asked))
    if sources.offline is not None:
        strange = {place: found for place, found in strange.items() if place.scheme == "file"}
    if not strange:
        return
    pages = {
        (source, package): _page(source, package)
        for place, (package, _) in strange.items()
        for source in to_ask
        if (source.folder is not None) == (place.scheme == "file") and not (sources.no_index and not _is_links(source))
    }
    answers = _answers({url for url in pages.values() if url}, sources, http)
    for place, (package, file) in strange.items():
        silent = []
        for source in to_ask:
            if (source, package) not in pages:
                continue
            try:
                offers = _offers(source, package, pages[source, package], answers)
            except FetchError:
                silent.append(source)
                continue
            if any(place_of(offer.url) == place for offer in offers):
                break
        else:
            raise _refusal(package, file, silent)


def _said(asked: Iterable[str]) -> set[tuple[str, Place]]:
    """Packages, and the place that their requirement names."""
    direct = [text for text in asked if "@" in text]
    if not direct:
        return set()
    from packaging.requirements import Requirement

    named = map(Requirement, direct)  # they were read before
    return {(normalized(one.name), place_of(one.url)) for one in named if one.url}


def _strange(locked: Locked, own: set[Place], said: set[tuple[str, Place]]) -> dict[Place, tuple[str, LockedFile]]:
    """The places that are none of the sources themselves, each with the first file that is to come from there."""
    strange: dict[Place, tuple[str, LockedFile]] = {}
    for package, files in locked.files.items():
        for file in files:
            place = place_of(file.place)
            if place not in own and (package, place) not in said:
                strange.setdefault(place, (package, file))
    return strange


def _is_links(source: Source) -> bool:
    return source.kind == "find-links"


def _page(source: Source, package: str) -> str:
    """The address to ask for a package; empty for what lies on this machine."""
    if source.folder is not None:
        return ""
    return source.url if _is_links(source) else f"{source.url.rstrip('/')}/{package}/"


def _answers(urls: Iterable[str], sources: PackageSources, http: Http | None) -> Mapping[str, Page | FetchError]:
    wanted = set(urls)
    if not wanted:
        return {}
    from pypi_simple import ACCEPT_JSON_PREFERRED

    return fetch_all(http or RequestsHttp(sources.network), dict.fromkeys(wanted, LIMIT), ACCEPT_JSON_PREFERRED)


def _offers(source: Source, package: str, url: str, answers: Mapping[str, Page | FetchError]) -> tuple[Offer, ...]:
    """What a source offers of a package. Raises FetchError where it does not say."""
    folder = source.folder
    try:
        if folder is not None:
            if _is_links(source):
                listed = files_in_folder(folder, [package], [package]) if folder.is_dir() else ()
                return listed or parse_links_page(folder.read_bytes(), source.url, [package], [package])
            page = (folder / package / "index.html").read_bytes()
            return parse_project_page(page, "text/html", f"{source.url.rstrip('/')}/{package}/", package, sdists=True)
        answer = answers[url]
        if isinstance(answer, FetchError):
            raise answer
        if answer.status in (404, 410):
            return ()
        if answer.status != 200:
            raise FetchError(f"HTTP {answer.status}")
        if _is_links(source):
            return parse_links_page(answer.body, answer.url, [package], [package])
        return parse_project_page(answer.body, answer.content_type, answer.url, package, sdists=True)
    except (NoIndexPage, OSError):
        return ()


def _refusal(package: str, file: LockedFile, silent: list[Source]) -> Failed | SourceUnreachable:
    where = redact(file.place)
    if silent:
        message = f"the lock is a new one here, and nobody says whether {package} may come from {where}"
        step = f"{silent[0].shown} does not answer; or install from uv's cache alone: BNBENV_OFFLINE=1 bnbenv sync"
        return SourceUnreachable("source-unreachable", message, step)
    message = f"the lock takes {package} from {where}, and none of the package sources here has its files there"
    step = "If you trust that place, name it in bnbenv.toml (indexes or find-links); else choose again: bnbenv lock"
    return Failed("foreign-source", message, step)


def installed_otherwise(locked: Locked, dist_infos: Iterable[str]) -> str | None:
    """How the installed packages differ from those of the lock, as a phrase; None: they do not. Pure.

    ``dist_infos`` are the names of the folders ``<name>-<version>.dist-info``.
    """
    found: dict[str, str] = {}
    for folder in dist_infos:
        name, _, version = folder.removesuffix(".dist-info").partition("-")
        found[normalized(name)] = version
    missing = sorted(name for name in locked.packages if name not in found)
    if missing:
        return f"{', '.join(missing[:4])} of the lock was not installed"
    added = sorted(name for name in found if name not in locked.packages)
    if added:
        return f"{', '.join(added[:4])} was installed and is not in the lock"
    other = [name for name, version in locked.packages.items() if version and not _same_version(version, found[name])]
    return f"{other[0]} was installed as {found[other[0]]} and not {locked.packages[other[0]]}" if other else None


def _same_version(one: str, other: str) -> bool:
    if one == other or one == other.replace("_", "+", 1):
        return True
    from packaging.version import InvalidVersion, Version

    try:
        return Version(one) == Version(other.replace("_", "-"))
    except InvalidVersion:
        return False


def not_asked_for(asked: Iterable[str], metadata: Mapping[str, str]) -> list[str]:
    """The packages that nobody asked for: neither a requirement nor required by one that is. Pure.

    ``asked`` are requirements, ``metadata`` the METADATA of each package by its normalized name. Markers and extras are
    passed over: what a package may ever require is not strange beside it.
    """
    requires = {name: {normalized(one) for one in _REQUIRES.findall(_head(text))} for name, text in metadata.items()}
    waiting = [normalized(found[0]) for text in asked if (found := _NAME.match(text.strip()))]
    reached: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += requires.get(name, ())
    return sorted(name for name in metadata if name not in reached)


def _head(text: str) -> str:
    """The fields of METADATA, without the description below them."""
    return re.split(r"\r?\n\r?\n", text, maxsplit=1)[0]


def local_file(place: str) -> Path | None:
    """The path of a locked file that lies on this machine, by its address or path; None where it lies elsewhere."""
    return local_path(place) if "://" in place or place.startswith("file:") else Path(place)
