"""Where packages come from: uv's own configuration, pip's where uv has none, and ``bnbenv.toml`` beside both.

The result is one frozen value that says what a uv child is to be given. Credentials travel to it in its environment
only, never in its arguments, and are blanked in every text that is shown.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import quote, unquote, urlsplit

from bnbenv.envs.pipconfig import PipConfig, read_pip_config
from bnbenv.envs.redact import redact, secrets_of
from bnbenv.envs.uvconfig import UvFiles, read_uv_files, truthy
from bnbenv.envs.wishes import SourcesWish
from bnbenv.paths import Sysroot

Kind = Literal["default-index", "index", "pytorch-index", "find-links"]

_PROXIES = ("http_proxy", "https_proxy", "all_proxy")
_CERTS = ("SSL_CERT_FILE", "SSL_CERT_DIR")


@dataclass(frozen=True)
class Source:
    """One place packages come from. ``url`` may hold credentials; ``shown`` does not.

    ``origin`` is who named it: ``uv`` (its environment), ``uv.toml``, ``pip``, ``bnbenv.toml``, ``bnbenv`` or
    ``built-in``. ``variant`` is set for one of PyTorch's indexes (``cu126``, ``cpu``).
    """

    kind: Kind
    url: str = field(repr=False)
    origin: str
    variant: str | None = None

    @property
    def shown(self) -> str:
        return redact(self.url)

    @property
    def folder(self) -> Path | None:
        """The local folder or file, for a source that needs no network."""
        return local_path(self.url)


@dataclass(frozen=True)
class PackageSources:
    """Everything about sources. ``default`` is None where no index is to be used at all (``no-index``).

    ``offline`` names the setting that forbids the network, or is None. ``cert`` is a file or folder of CA
    certificates, ``insecure_hosts`` are hosts whose certificate is not checked, ``proxy`` is pip's where the
    environment has none, ``timeout`` is in seconds.
    """

    default: Source | None
    indexes: tuple[Source, ...]
    find_links: tuple[Source, ...]
    pytorch_base: str = field(repr=False)
    pytorch: tuple[Source, ...] = ()
    offline: str | None = None
    no_index: bool = False
    cert: str | None = None
    client_cert: str | None = None
    system_certs: bool = False
    insecure_hosts: tuple[str, ...] = ()
    proxy: str | None = field(default=None, repr=False)
    timeout: float | None = None
    strategy: str | None = None
    secrets: frozenset[str] = field(default=frozenset(), repr=False)
    uv_changes: Mapping[str, str] = field(default_factory=dict, repr=False)
    uv_index: str = field(default="", repr=False)

    def pytorch_source(self, variant: str) -> Source:
        """PyTorch's own index for one variant, such as ``cu126`` or ``cpu``."""
        return Source("pytorch-index", f"{self.pytorch_base.rstrip('/')}/{variant}", "bnbenv", variant)

    def with_pytorch(self, variant: str) -> PackageSources:
        """These sources and PyTorch's index for a variant, which is asked first."""
        return dataclasses.replace(self, pytorch=(*self.pytorch, self.pytorch_source(variant)))

    def uv_environment(self) -> dict[str, str | None]:
        """The changes to a uv child's environment that make it use exactly these sources. It holds credentials.

        The child has to run in the project's folder, where it finds uv's own files.
        """
        changes: dict[str, str | None] = dict(self.uv_changes)
        index = " ".join([*(uv_token(source.url) for source in self.pytorch), *self.uv_index.split()])
        if index:
            changes["UV_INDEX"] = index
        # PyTorch's index also carries old copies of common packages, which must not hide the newer ones elsewhere.
        strategy = self.strategy or ("unsafe-best-match" if self.pytorch else None)
        if strategy:
            changes["UV_INDEX_STRATEGY"] = strategy
        return changes

    def uv_arguments(self) -> tuple[str, ...]:
        """What a uv child can be told by arguments only: uv has no variable for ``--no-index``."""
        return ("--no-index",) if self.no_index else ()

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
    from pypi_simple import PYPI_SIMPLE_ENDPOINT

    pip = read_pip_config(environ, sysroot, home, prefixes)
    uv = read_uv_files(environ, sysroot, home, project)
    place = _Place(project, home)
    default = _default_index(environ, pip, uv, place) or Source("default-index", PYPI_SIMPLE_ENDPOINT, "built-in")
    uv_named = [*environ.get("UV_INDEX", "").split(), *environ.get("UV_EXTRA_INDEX_URL", "").split()]
    own = [_named_index(token, environ, place) for token in uv_named]
    own += [Source("index", _with_login(*named, environ), "uv.toml") for named in uv.indexes]
    wished = [Source("index", place.url(url), "bnbenv.toml") for url in wish.indexes]
    from_pip = [] if own else [Source("index", place.url(url), "pip") for url in pip.extra_index_urls]
    links = _find_links(environ, wish, pip, uv, place)
    chosen = environ.get("UV_INDEX_STRATEGY") or uv.index_strategy
    sources = PackageSources(
        default=default,
        indexes=(*own, *wished, *from_pip),
        find_links=tuple(links),
        pytorch_base=place.url(environ.get("BNBENV_PYTORCH_INDEX") or pytorch_index),
        offline=_offline(environ, uv),
        # pip looks at all its indexes alike and takes the best version.
        strategy=chosen or ("unsafe-best-match" if from_pip else None),
        timeout=pip.timeout,
        no_index=uv.no_index or (pip.no_index and not _uv_names_indexes(environ, uv)),
        uv_index=" ".join(
            [place.token(token) for token in environ.get("UV_INDEX", "").split()]
            + [uv_token(source.url) for source in (*wished, *from_pip)]
        ),
    )
    sources = _with_network(sources, environ, pip, uv)
    urls = [source.url for source in (default, *sources.indexes, *links)]
    return dataclasses.replace(
        sources,
        default=None if sources.no_index else default,
        indexes=() if sources.no_index else sources.indexes,
        secrets=secrets_of([*urls, sources.pytorch_base, *_proxy_addresses(environ, sources.proxy)], environ),
        uv_changes={**sources.uv_changes, **_uv_changes(environ, sources, default, links)},
    )


@dataclass(frozen=True)
class _Place:
    """From where relative folders count, and what ``~`` stands for."""

    project: Path
    home: Path

    def url(self, text: str) -> str:
        """An address as it is, a folder as a ``file:`` address, so that no space or comma in it is taken for an end."""
        if "://" in text or text.startswith("file:"):
            return text
        path = self.home / text[1:].lstrip("/\\") if text == "~" or text.startswith(("~/", "~\\")) else Path(text)
        return file_url(self.project / path)

    def token(self, token: str) -> str:
        """One entry of UV_INDEX: ``address``, ``name=address``, or the name of an index in uv's files."""
        name, mark, url = token.partition("=")
        if mark and ":" not in name:
            return f"{name}={self.url(url)}"
        is_folder = "/" in token or "\\" in token or (self.project / token).exists()
        return self.url(token) if is_folder else token


def _named_index(token: str, environ: Mapping[str, str], place: _Place) -> Source:
    token = place.token(token)
    name, mark, url = token.partition("=")
    if mark and ":" not in name:
        return Source("index", _with_login(name, url, environ), "uv")
    return Source("index", token, "uv")


def _with_login(name: str | None, url: str, environ: Mapping[str, str]) -> str:
    """The address with what ``UV_INDEX_<NAME>_USERNAME`` and ``_PASSWORD`` say, as uv uses them."""
    if not name or "@" in urlsplit(url).netloc or not url.startswith("http"):
        return url
    key = "".join(sign if sign.isalnum() else "_" for sign in name).upper()
    user, password = environ.get(f"UV_INDEX_{key}_USERNAME"), environ.get(f"UV_INDEX_{key}_PASSWORD")
    if user is None and password is None:
        return url
    login = quote(user or "", safe="") + (f":{quote(password, safe='')}" if password is not None else "")
    return url.replace("://", f"://{login}@", 1)


def _default_index(environ: Mapping[str, str], pip: PipConfig, uv: UvFiles, place: _Place) -> Source | None:
    for variable in ("UV_DEFAULT_INDEX", "UV_INDEX_URL"):
        if environ.get(variable):
            return dataclasses.replace(_named_index(environ[variable], environ, place), kind="default-index")
    if uv.default_index:
        return Source("default-index", _with_login(*uv.default_index, environ), "uv.toml")
    return Source("default-index", place.url(pip.index_url), "pip") if pip.index_url else None


def _uv_names_indexes(environ: Mapping[str, str], uv: UvFiles) -> bool:
    named = ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "UV_EXTRA_INDEX_URL")
    return any(environ.get(name) for name in named) or bool(uv.default_index or uv.indexes)


def _find_links(
    environ: Mapping[str, str], wish: SourcesWish, pip: PipConfig, uv: UvFiles, place: _Place
) -> list[Source]:
    own = [link.strip() for link in environ.get("UV_FIND_LINKS", "").split(",") if link.strip()]
    links = [Source("find-links", place.url(link), "uv") for link in own]
    links += [Source("find-links", place.url(link), "uv.toml") for link in uv.find_links]
    if not links:
        links = [Source("find-links", place.url(link), "pip") for link in pip.find_links]
    links += [Source("find-links", place.url(link), "bnbenv.toml") for link in wish.find_links]
    return list(dict.fromkeys(links))


def _offline(environ: Mapping[str, str], uv: UvFiles) -> str | None:
    for variable in ("BNBENV_OFFLINE", "UV_OFFLINE"):
        if truthy(environ.get(variable)):
            return variable
    return "uv.toml" if uv.offline else None


def _with_network(sources: PackageSources, environ: Mapping[str, str], pip: PipConfig, uv: UvFiles) -> PackageSources:
    """Certificates, proxy and hosts that need no certificate: uv's own, else pip's."""
    system_certs = truthy(environ.get("UV_SYSTEM_CERTS") or environ.get("UV_NATIVE_TLS")) or uv.system_certs
    own_cert = next((environ[name] for name in _CERTS if environ.get(name)), None)
    # pip takes these two where it has no cert of its own.
    pip_cert = pip.cert or environ.get("REQUESTS_CA_BUNDLE") or environ.get("CURL_CA_BUNDLE")
    cert = own_cert or (None if system_certs else pip_cert)
    changes: dict[str, str] = {}
    if cert and not own_cert:
        changes["SSL_CERT_DIR" if Path(cert).is_dir() else "SSL_CERT_FILE"] = cert
    client = environ.get("SSL_CLIENT_CERT") or pip.client_cert
    if client and not environ.get("SSL_CLIENT_CERT"):
        changes["SSL_CLIENT_CERT"] = client
    hosts = tuple(environ.get("UV_INSECURE_HOST", "").split()) or uv.insecure_hosts
    if not hosts and pip.trusted_hosts:
        hosts = pip.trusted_hosts
        changes["UV_INSECURE_HOST"] = " ".join(hosts)
    proxy = pip.proxy if not any(environ.get(name) or environ.get(name.upper()) for name in _PROXIES) else None
    if proxy:
        changes |= {"HTTP_PROXY": proxy, "HTTPS_PROXY": proxy}
    if pip.timeout and not (environ.get("UV_HTTP_TIMEOUT") or environ.get("UV_REQUEST_TIMEOUT")):
        changes["UV_HTTP_TIMEOUT"] = str(max(1, math.ceil(pip.timeout)))
    return dataclasses.replace(
        sources,
        cert=cert,
        client_cert=client,
        system_certs=system_certs,
        insecure_hosts=hosts,
        proxy=proxy,
        uv_changes=changes,
    )


def _uv_changes(
    environ: Mapping[str, str], sources: PackageSources, default: Source, links: list[Source]
) -> dict[str, str]:
    changes = {}
    if default.origin == "pip":
        changes["UV_DEFAULT_INDEX"] = uv_token(default.url)
    elif default.origin == "uv" and environ.get("UV_DEFAULT_INDEX") and default.folder:
        changes["UV_DEFAULT_INDEX"] = default.url
    # uv ends where a folder is missing; pip goes on without it. What stands in uv.toml it reads there.
    given = [link for link in links if link.origin != "uv.toml"]
    present = [link for link in given if link.folder is None or link.folder.exists() or link.origin == "uv"]
    if present:
        changes["UV_FIND_LINKS"] = ",".join(link.url.replace(",", "%2C") for link in present)
    if sources.offline == "BNBENV_OFFLINE":
        changes["UV_OFFLINE"] = "1"
    return changes


def _proxy_addresses(environ: Mapping[str, str], proxy: str | None) -> list[str]:
    names = [*_PROXIES, *(name.upper() for name in _PROXIES)]
    found = [environ[name] for name in names if environ.get(name)] + ([proxy] if proxy else [])
    return [address if "://" in address else f"http://{address}" for address in found]


def uv_token(url: str) -> str:
    """An address as one entry of a list that ends at white space."""
    return "".join(quote(sign) if sign.isspace() else sign for sign in url)


def file_url(path: Path) -> str:
    """A ``file:`` address in which no comma and no space stands, since uv's lists end there."""
    return path.absolute().as_uri().replace(",", "%2C")


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
