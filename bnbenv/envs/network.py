"""How sources are spoken to: certificates, proxy, time limit. uv's own settings, else pip's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bnbenv.envs.pipconfig import PipConfig
from bnbenv.envs.uvconfig import UvFiles, truthy
from bnbenv.paths import exists

_PROXIES = ("http_proxy", "https_proxy", "all_proxy")
_CERTS = ("SSL_CERT_FILE", "SSL_CERT_DIR")
_TIMEOUTS = ("UV_HTTP_TIMEOUT", "UV_REQUEST_TIMEOUT")


@dataclass(frozen=True)
class Network:
    """Settings of the network.

    ``offline`` names the setting that forbids it, or is None. ``cert`` is a file or folder of CA certificates,
    ``client_cert`` a file with certificate and key, ``insecure_hosts`` are hosts (``host`` or ``host:port``) whose
    certificate is not checked. ``proxy`` is pip's, where the environment has none. ``changes`` are what a uv child's
    environment needs to do the same.
    """

    offline: str | None = None
    cert: str | None = None
    client_cert: str | None = None
    system_certs: bool = False
    insecure_hosts: tuple[str, ...] = ()
    proxy: str | None = field(default=None, repr=False)
    changes: Mapping[str, str] = field(default_factory=dict, repr=False)


def read_network(environ: Mapping[str, str], pip: PipConfig, uv: UvFiles) -> Network:
    """The settings from the environment, uv's files and pip's configuration."""
    changes: dict[str, str] = {}
    system_certs = truthy(environ.get("UV_SYSTEM_CERTS") or environ.get("UV_NATIVE_TLS")) or uv.system_certs
    cert = _first(environ, _CERTS)
    if not cert and not system_certs:
        # pip takes these two where it has no cert of its own.
        cert = pip.cert or _first(environ, ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"))
        if cert:
            changes["SSL_CERT_DIR" if exists(Path(cert)) and Path(cert).is_dir() else "SSL_CERT_FILE"] = cert
    client_cert = environ.get("SSL_CLIENT_CERT")
    if not client_cert and pip.client_cert:
        client_cert = changes["SSL_CLIENT_CERT"] = pip.client_cert
    hosts = tuple(environ.get("UV_INSECURE_HOST", "").split()) or uv.insecure_hosts
    if not hosts and pip.trusted_hosts:
        hosts = pip.trusted_hosts
        changes["UV_INSECURE_HOST"] = " ".join(hosts)
    proxy = None if _proxies(environ) else pip.proxy
    if proxy:
        changes |= {"HTTP_PROXY": proxy, "HTTPS_PROXY": proxy}
    if pip.timeout and not _first(environ, _TIMEOUTS):
        changes["UV_HTTP_TIMEOUT"] = str(max(1, math.ceil(pip.timeout)))
    offline = _offline(environ, uv)
    if offline == "BNBENV_OFFLINE":
        changes["UV_OFFLINE"] = "1"
    return Network(offline, cert, client_cert, system_certs, hosts, proxy, changes)


def proxy_addresses(environ: Mapping[str, str], network: Network) -> list[str]:
    """The addresses of all proxies, which may hold credentials."""
    found = [*_proxies(environ), *([network.proxy] if network.proxy else [])]
    return [address if "://" in address else f"http://{address}" for address in found]


def _first(environ: Mapping[str, str], names: tuple[str, ...]) -> str | None:
    return next((environ[name] for name in names if environ.get(name)), None)


def _proxies(environ: Mapping[str, str]) -> list[str]:
    names = [*_PROXIES, *(name.upper() for name in _PROXIES)]
    return [environ[name] for name in names if environ.get(name)]


def _offline(environ: Mapping[str, str], uv: UvFiles) -> str | None:
    for variable in ("BNBENV_OFFLINE", "UV_OFFLINE"):
        if truthy(environ.get(variable)):
            return variable
    return "uv.toml" if uv.offline else None
