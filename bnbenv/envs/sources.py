"""Where packages come from: uv's own configuration, pip's where uv has none, and ``bnbenv.toml`` beside both.

The result is one frozen value that says what a uv child is to be given. Credentials travel to it in its environment
only, never in its arguments, and are blanked in every text that is shown.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import quote, unquote, urlsplit

from bnbenv.envs.network import Network, proxy_addresses, read_network
from bnbenv.envs.pipconfig import PipConfig, read_pip_config
from bnbenv.envs.uvconfig import UvFiles, read_uv_files
from bnbenv.envs.wishes import SourcesWish
from bnbenv.paths import Sysroot, exists
from bnbenv.redact import redact, secrets_of

Kind = Literal["default-index", "index", "pytorch-index", "find-links"]


@dataclass(frozen=True)
class Source:
    """One place packages come from. ``url`` may hold credentials; ``shown`` does not.

    ``address`` is the URL as configured, empty for the built-in default index, which is nobody's setting. ``origin`` is
    who named it: ``uv`` (its environment), ``uv.toml`` (which uv reads itself), ``pip``, ``bnbenv.toml``, ``bnbenv`` or
    ``built-in``. ``variant`` is set for one of PyTorch's indexes (``cu126``, ``cpu``). ``named`` is how uv's
    environment calls it where that is more than the address: ``name=address``.
    """

    kind: Kind
    address: str = field(repr=False)
    origin: str
    variant: str | None = None
    named: str | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        if self.address or self.origin != "built-in":
            return self.address
        from pypi_simple import PYPI_SIMPLE_ENDPOINT  # a slow import, for those that have to ask this index only

        return PYPI_SIMPLE_ENDPOINT

    @property
    def shown(self) -> str:
        return redact(self.url)

    @property
    def folder(self) -> Path | None:
        """The local folder or file, for a source that needs no network."""
        return local_path(self.address)

    @property
    def token(self) -> str:
        """One entry of a list of uv's: no white space and no comma, where those lists are split."""
        token = "".join(quote(sign) if sign.isspace() else sign for sign in self.named or self.address)
        return token.replace(",", "%2C") if self.kind == "find-links" else token


@dataclass(frozen=True)
class PackageSources:
    """Everything about sources.

    ``default`` is None where no index is to be used (``no_index``), or where it was taken out. ``pytorch`` are those of
    PyTorch's indexes that were added, ``strategy`` is uv's index strategy, None for uv's own choice.
    """

    default: Source | None
    indexes: tuple[Source, ...]
    find_links: tuple[Source, ...]
    pytorch_base: str = field(repr=False)
    network: Network = field(default_factory=Network)
    no_index: bool = False
    strategy: str | None = None
    secrets: frozenset[str] = field(default=frozenset(), repr=False)
    pytorch: tuple[Source, ...] = ()

    @property
    def offline(self) -> str | None:
        """The setting that forbids the network (``BNBENV_OFFLINE``, ``UV_OFFLINE``, ``uv.toml``), or None."""
        return self.network.offline

    def pytorch_source(self, variant: str) -> Source:
        """PyTorch's own index for one variant, such as ``cu126`` or ``cpu``."""
        return Source("pytorch-index", f"{self.pytorch_base.rstrip('/')}/{variant}", "bnbenv", variant)

    def with_pytorch(self, variant: str) -> PackageSources:
        """These sources and PyTorch's index for a variant, which is asked first."""
        return dataclasses.replace(self, pytorch=(*self.pytorch, self.pytorch_source(variant)))

    def with_folder(self, folder: Path) -> PackageSources:
        """These sources and a folder of wheels that were compiled here."""
        return dataclasses.replace(self, find_links=(*self.find_links, Source("find-links", folder.as_uri(), "bnbenv")))

    def without(self, gone: Iterable[Source]) -> PackageSources:
        """These sources but for some, such as those that do not answer: uv ends at the first that fails.

        What stands in uv's own files stays with uv all the same, except for the default index.
        """
        out = set(gone)
        return dataclasses.replace(
            self,
            default=None if self.default in out else self.default,
            indexes=tuple(one for one in self.indexes if one not in out),
            find_links=tuple(one for one in self.find_links if one not in out),
            pytorch=tuple(one for one in self.pytorch if one not in out),
        )

    def uv_environment(self) -> dict[str, str | None]:
        """The changes to a uv child's environment that make it use exactly these sources. It holds credentials.

        The child has to run in the project's folder, where it finds uv's own files.
        """
        changes: dict[str, str | None] = dict(self.network.changes)
        if self.no_index:
            return changes | self._uv_find_links()
        default, others = self.default, [*self.pytorch, *self.indexes]
        if default is None and others:  # uv always has a default index, its own if not told
            default = dataclasses.replace(others.pop(), origin="bnbenv")
        if default and default.origin not in ("built-in", "uv.toml"):
            changes |= {"UV_DEFAULT_INDEX": default.token, "UV_INDEX_URL": None}
        index = " ".join(source.token for source in others if source.origin != "uv.toml")
        changes |= {"UV_INDEX": index or None, "UV_EXTRA_INDEX_URL": None}
        # PyTorch's index also carries old copies of common packages, which must not hide the newer ones elsewhere.
        strategy = self.strategy or ("unsafe-best-match" if self.pytorch else None)
        if strategy:
            changes["UV_INDEX_STRATEGY"] = strategy
        return changes | self._uv_find_links()

    def _uv_find_links(self) -> dict[str, str | None]:
        given = [link for link in self.find_links if link.origin != "uv.toml"]
        # uv ends where a folder is missing; pip goes on without it.
        present = [link for link in given if link.folder is None or exists(link.folder) or link.origin == "uv"]
        return {"UV_FIND_LINKS": ",".join(link.token for link in present) or None}

    def uv_arguments(self) -> tuple[str, ...]:
        """What a uv child can be told by arguments only: uv has no variable for ``--no-index``."""
        nothing = not (self.default or self.indexes or self.pytorch)
        return ("--no-index",) if self.no_index or nothing else ()

    def redact(self, text: str) -> str:
        """A text such as uv's output without any of the credentials that are known here."""
        return redact(text, self.secrets)


def read_sources(
    environ: Mapping[str, str],
    sysroot: Sysroot,
    wish: SourcesWish,
    home: Path,
    project: Path,
    pytorch_index: str,
    prefixes: Iterable[Path] = (Path(sys.base_prefix), Path(sys.prefix)),
) -> PackageSources:
    """The sources for a project.

    ``home`` is the user's home folder, ``project`` the absolute folder of bnbenv.toml, from which relative folders
    count and in which uv runs; ``pytorch_index`` the address of PyTorch's own index without a variant (a mirror named
    by ``BNBENV_PYTORCH_INDEX`` wins); ``prefixes`` are those of the Pythons whose pip may be configured for itself.
    Raises InputError where a configuration file of pip or uv cannot be read.
    """
    pip = read_pip_config(environ, sysroot, home, prefixes)
    uv = read_uv_files(environ, sysroot, home, project)
    place = _Place(project, home, environ, uv)
    network = read_network(environ, pip, uv)
    default = _default_index(environ, pip, uv, place)
    own = [place.index(entry) for name in ("UV_INDEX", "UV_EXTRA_INDEX_URL") for entry in environ.get(name, "").split()]
    own += [Source("index", place.login(*named), "uv.toml") for named in uv.indexes]
    wished = [Source("index", place.url(url), "bnbenv.toml") for url in wish.indexes]
    from_pip = [] if own else [Source("index", place.url(url), "pip") for url in pip.extra_index_urls]
    indexes = (*own, *wished, *from_pip)
    links = _find_links(environ, wish, pip, uv, place)
    # pip looks at all its indexes alike and takes the best version.
    strategy = environ.get("UV_INDEX_STRATEGY") or uv.index_strategy or ("unsafe-best-match" if from_pip else None)
    no_index = uv.no_index or (pip.no_index and default.origin in ("pip", "built-in") and not own)
    pytorch = place.url(environ.get("BNBENV_PYTORCH_INDEX") or pytorch_index)
    urls = [pytorch, *(source.address for source in (default, *indexes, *links)), *proxy_addresses(environ, network)]
    return PackageSources(
        default=None if no_index else default,
        indexes=() if no_index else indexes,
        find_links=links,
        pytorch_base=pytorch,
        network=network,
        no_index=no_index,
        strategy=strategy,
        secrets=secrets_of(urls, environ),
    )


@dataclass(frozen=True)
class _Place:
    """From where relative folders count, what ``~`` stands for, and what is known of named indexes."""

    project: Path
    home: Path
    environ: Mapping[str, str] = field(repr=False)
    uv: UvFiles = field(repr=False)

    def url(self, text: str) -> str:
        """An address as it is, a folder as a ``file:`` address."""
        if "://" in text or text.startswith("file:"):
            return text
        if text == "~" or text.startswith(("~/", "~\\")):
            return (self.home / text[1:].lstrip("/\\")).absolute().as_uri()
        return (self.project / text).absolute().as_uri()

    def index(self, entry: str, kind: Kind = "index") -> Source:
        """One entry of UV_INDEX: an address, a folder, ``name=address``, or the name of an index in uv's files."""
        name, mark, url = entry.partition("=")
        if mark and ":" not in name:
            address = self.url(url)
            return Source(kind, self.login(name, address), "uv", named=f"{name}={address}")
        known = dict(index for index in (*self.uv.indexes, self.uv.default_index) if index)
        if entry in known and not exists(self.project / entry):
            return Source(kind, self.login(entry, known[entry]), "uv", named=entry)
        return Source(kind, self.url(entry), "uv")

    def login(self, name: str | None, url: str) -> str:
        """The address with what ``UV_INDEX_<NAME>_USERNAME`` and ``_PASSWORD`` say, as uv uses them."""
        url = self.url(url)
        if not name or not url.startswith("http") or "@" in url.partition("://")[2].partition("/")[0]:
            return url
        key = "".join(sign if sign.isalnum() else "_" for sign in name).upper()
        user, password = (self.environ.get(f"UV_INDEX_{key}_{part}") for part in ("USERNAME", "PASSWORD"))
        if user is None and password is None:
            return url
        login = _quoted(user or "") + (f":{_quoted(password)}" if password is not None else "")
        return url.replace("://", f"://{login}@", 1)


def _quoted(text: str) -> str:
    """A variable's value in an address; it may hold bytes that are no UTF-8."""
    return quote(text, safe="", errors="surrogateescape")


def _default_index(environ: Mapping[str, str], pip: PipConfig, uv: UvFiles, place: _Place) -> Source:
    for variable in ("UV_DEFAULT_INDEX", "UV_INDEX_URL"):
        if environ.get(variable):
            return place.index(environ[variable], "default-index")
    if uv.default_index:
        return Source("default-index", place.login(*uv.default_index), "uv.toml")
    if pip.index_url:
        return Source("default-index", place.url(pip.index_url), "pip")
    return Source("default-index", "", "built-in")


def _find_links(
    environ: Mapping[str, str], wish: SourcesWish, pip: PipConfig, uv: UvFiles, place: _Place
) -> tuple[Source, ...]:
    own = [link.strip() for link in environ.get("UV_FIND_LINKS", "").split(",") if link.strip()]
    links = [Source("find-links", place.url(link), "uv") for link in own]
    links += [Source("find-links", place.url(link), "uv.toml") for link in uv.find_links]
    if not links:
        links = [Source("find-links", place.url(link), "pip") for link in pip.find_links]
    links += [Source("find-links", place.url(link), "bnbenv.toml") for link in wish.find_links]
    return tuple(dict.fromkeys(links))


def local_path(url: str) -> Path | None:
    """The path of a ``file:`` address, or None for any other."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    if parts.scheme != "file":
        return None
    path = unquote(parts.path)
    if sys.platform == "win32":
        path = path.lstrip("/") if not parts.netloc else f"//{parts.netloc}{path}"
    return Path(path)
