"""What a package source offers: the files of a simple index page (PEP 691, PEP 503), a page of links, or a folder.

Of torch and bitsandbytes only wheels count; of other packages source distributions as well, where that is asked for.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from bnbenv.envs.sources import local_path
from bnbenv.paths import exists
from bnbenv.redact import without_userinfo

if TYPE_CHECKING:
    from pypi_simple import DistributionPackage, ProjectPage

_PACKAGES = (".whl", ".tar.gz", ".zip", ".tar.bz2", ".egg")
_SDISTS = (".tar.gz", ".zip")


@dataclass(frozen=True)
class Offer:
    """One file that a source offers. ``project`` and ``version`` are normalized; ``sha256`` is None if not given."""

    project: str
    version: str
    filename: str
    url: str = field(repr=False)
    sha256: str | None = None
    requires_python: str | None = None
    yanked: bool = False

    @property
    def is_wheel(self) -> bool:
        return self.filename.endswith(".whl")

    @property
    def path(self) -> Path | None:
        """The file itself where it lies on this machine."""
        path = local_path(self.url)
        return path if path and exists(path) and path.is_file() else None


class NoIndexPage(ValueError):
    """What was answered is no list of packages (a login page, an error text, cut-off JSON)."""


def parse_project_page(
    body: bytes, content_type: str, url: str, project: str, sdists: bool = False
) -> tuple[Offer, ...]:
    """The wheels of a project on its index page, with ``sdists`` its source distributions as well.

    Raises NoIndexPage for anything else than such a page.

    A project page may be empty if it says by its kind (JSON) or its repository version that it is one; other HTML
    without a single package cannot be told from any page and is refused.
    """
    page = _page(body, content_type, url, project)
    if not page.repository_version:
        _check_packages(page.packages)
    return _offers(page.packages, {project}, {project} if sdists else set())


def parse_links_page(body: bytes, url: str, projects: Iterable[str], sdists: Iterable[str] = ()) -> tuple[Offer, ...]:
    """The wheels of some projects on a plain page of links, of those in ``sdists`` source distributions as well.

    Raises NoIndexPage where it links no package at all.
    """
    packages = _page(body, "text/html", url, "").packages
    _check_packages(packages)
    return _offers(packages, set(projects), set(sdists))


def _page(body: bytes, content_type: str, url: str, project: str) -> ProjectPage:
    from pypi_simple import ProjectPage

    base = without_userinfo(url)
    try:
        if "json" in content_type:
            return ProjectPage.from_json_data(json.loads(body), base_url=base)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the parser's remarks about pages that are no HTML
            return ProjectPage.from_html(project, body.decode("utf-8", "replace"), base_url=base)
    except Exception as error:  # whatever a page from elsewhere does to a parser, it is no index page
        raise NoIndexPage(type(error).__name__) from None


def _check_packages(packages: Iterable[DistributionPackage]) -> None:
    if not any(_filename(package).endswith(_PACKAGES) for package in packages):
        raise NoIndexPage("no package on the page")


def _filename(package: DistributionPackage) -> str:
    """The file's name: the text of the link, or the end of its address where the text is another ("Download")."""
    if package.filename.endswith(_PACKAGES):
        return package.filename
    return unquote(package.url.partition("#")[0].partition("?")[0].rpartition("/")[2])


def files_in_folder(folder: Path, projects: Iterable[str], sdists: Iterable[str] = ()) -> tuple[Offer, ...]:
    """As ``parse_links_page``, of what lies in a folder. Raises OSError where it cannot be listed."""
    wanted, built = set(projects), set(sdists)
    paths = (path for path in sorted(folder.iterdir()) if path.name.endswith((".whl", *(_SDISTS if built else ()))))
    found = (_offer(path.name, path.absolute().as_uri()) for path in paths)
    return tuple(one for one in found if one and one.project in wanted and (one.is_wheel or one.project in built))


def _offers(packages: Iterable[DistributionPackage], projects: set[str], sdists: set[str]) -> tuple[Offer, ...]:
    offers = []
    for package in packages:
        offer = _offer(_filename(package), package.url)
        if offer is None or offer.project not in projects or not (offer.is_wheel or offer.project in sdists):
            continue
        offers.append(
            Offer(
                offer.project,
                offer.version,
                offer.filename,
                package.url,
                package.digests.get("sha256"),
                package.requires_python,
                package.is_yanked,
            )
        )
    return tuple(offers)


def _offer(filename: str, url: str) -> Offer | None:
    from packaging.utils import parse_sdist_filename, parse_wheel_filename

    try:
        if filename.endswith(_SDISTS):
            name, version = parse_sdist_filename(filename)
        else:
            name, version, _, _ = parse_wheel_filename(filename)
    except ValueError:  # among them a number of thousands of digits
        return None
    return Offer(str(name), str(version), filename, url)
