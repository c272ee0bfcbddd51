"""What uv's own configuration says about package sources.

uv reads these files itself when it runs in the project's folder, and joins what they list to what the environment
lists. They are read here to know where pip's configuration must stay out, and which addresses to ask for an answer.
Order and places: uv's documentation, "Configuration files" (the project's, then the user's, then the system's).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bnbenv.decode import load_toml
from bnbenv.errors import InputError
from bnbenv.paths import Sysroot, exists

_TRUE = {"1", "true", "yes", "on", "y", "t"}


@dataclass(frozen=True)
class UvFiles:
    """The sources that uv's files name, strongest first. Each index is (name or None, address)."""

    default_index: tuple[str | None, str] | None = None
    indexes: tuple[tuple[str | None, str], ...] = ()
    find_links: tuple[str, ...] = ()
    no_index: bool = False
    index_strategy: str | None = None
    offline: bool = False
    system_certs: bool = False
    insecure_hosts: tuple[str, ...] = ()


def truthy(value: str | None) -> bool:
    """Whether a variable such as ``UV_OFFLINE`` is switched on."""
    return (value or "").strip().lower() in _TRUE


def parse_uv_file(text: str, file: str, folder: Path) -> UvFiles | None:
    """One uv.toml, or the ``[tool.uv]`` of a pyproject.toml; None for a pyproject.toml without it.

    Relative folders count from ``folder``. Raises InputError with the line or the key.
    """
    try:
        document = load_toml(text)
    except ValueError as error:
        _, found, place = str(error).rpartition("(at ")  # the text before it may repeat what stands in the file
        raise InputError(file, place.rstrip(")") if found else "", "expected valid TOML") from None
    if Path(file).name == "pyproject.toml":
        tool = document.get("tool")
        table = tool.get("uv") if isinstance(tool, dict) else None
        if not isinstance(table, dict):
            return None
        document = table
    pip = document.get("pip")
    layers = [pip, document] if isinstance(pip, dict) else [document]
    return _joined(_one_table(layer, file, folder) for layer in layers)


def _one_table(table: Mapping[str, Any], file: str, folder: Path) -> UvFiles:
    default, indexes, links = None, [], []
    for position, entry in enumerate(_list(table, "index", dict, file)):
        url = entry.get("url")
        if not isinstance(url, str):
            raise InputError(file, f"index[{position}].url", "expected an address")
        if entry.get("explicit"):  # serves only packages that name it, never torch or bitsandbytes here
            continue
        name = entry.get("name")
        if name is not None and not isinstance(name, str):
            raise InputError(file, f"index[{position}].name", "expected a name")
        named = (name, _absolute(url, folder))
        if entry.get("format") == "flat":
            links.append(named[1])
        elif entry.get("default"):
            default = default or named
        else:
            indexes.append(named)
    if isinstance(table.get("index-url"), str):
        default = default or (None, _absolute(table["index-url"], folder))
    indexes += [(None, _absolute(url, folder)) for url in _list(table, "extra-index-url", str, file)]
    links += [_absolute(link, folder) for link in _list(table, "find-links", str, file)]
    strategy = table.get("index-strategy")
    return UvFiles(
        default_index=default,
        indexes=tuple(indexes),
        find_links=tuple(links),
        no_index=table.get("no-index") is True,
        index_strategy=strategy if isinstance(strategy, str) else None,
        offline=table.get("offline") is True,
        system_certs=table.get("system-certs", table.get("native-tls")) is True,
        insecure_hosts=tuple(_list(table, "allow-insecure-host", str, file)),
    )


def _list(table: Mapping[str, Any], key: str, kind: type, file: str) -> list[Any]:
    value = table.get(key, [])
    if not isinstance(value, list) or not all(isinstance(one, kind) for one in value):
        raise InputError(file, key, "expected a list of " + ("tables" if kind is dict else "strings"))
    return value


def _absolute(url: str, folder: Path) -> str:
    return url if "://" in url else str(folder / url)


def _joined(parts: Iterable[UvFiles]) -> UvFiles:
    """Lists are joined, of single values the first counts (uv's rule)."""
    found = list(parts)

    def first(values: Iterable[Any]) -> Any:
        return next((value for value in values if value), None)

    return UvFiles(
        default_index=first(part.default_index for part in found),
        indexes=tuple(index for part in found for index in part.indexes),
        find_links=tuple(link for part in found for link in part.find_links),
        no_index=any(part.no_index for part in found),
        index_strategy=first(part.index_strategy for part in found),
        offline=any(part.offline for part in found),
        system_certs=any(part.system_certs for part in found),
        insecure_hosts=tuple(host for part in found for host in part.insecure_hosts),
    )


def read_uv_files(environ: Mapping[str, str], sysroot: Sysroot, home: Path, project: Path) -> UvFiles:
    """What uv's files say to a uv that runs in the folder ``project``. Raises InputError as uv would fail."""
    if environ.get("UV_CONFIG_FILE"):
        path = project / environ["UV_CONFIG_FILE"]
        return _read(path) or UvFiles()
    if truthy(environ.get("UV_NO_CONFIG")):
        return UvFiles()
    nearest = _nearest(project)
    files = [nearest[1]] if nearest else []
    for path in (_user_file(environ, home), *_system_files(environ, sysroot)[:1]):
        found = _read(path)
        if found:
            files.append(found)
    return _joined(files)


def project_file(environ: Mapping[str, str], project: Path) -> Path | None:
    """The one file of the project's folder or those above it that uv goes by. Raises InputError as uv would fail."""
    if environ.get("UV_CONFIG_FILE") or truthy(environ.get("UV_NO_CONFIG")):
        return None
    nearest = _nearest(project)
    return nearest[0] if nearest else None


def _nearest(project: Path) -> tuple[Path, UvFiles] | None:
    """Of the project's folder and those above it, the first uv.toml or pyproject.toml with ``[tool.uv]``."""
    for folder in (project, *project.parents):
        for name in ("uv.toml", "pyproject.toml"):
            try:
                found = _read(folder / name)
            except InputError:
                if name == "uv.toml":
                    raise
                continue  # uv warns about a broken pyproject.toml and looks further up
            if found is not None:
                return folder / name, found
    return None


def _user_file(environ: Mapping[str, str], home: Path) -> Path:
    if os.name == "nt":
        return Path(environ.get("APPDATA") or home / "AppData" / "Roaming") / "uv" / "uv.toml"
    return Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "uv" / "uv.toml"


def _system_files(environ: Mapping[str, str], sysroot: Sysroot) -> list[Path]:
    """uv takes the first that exists, and none where UV_NO_SYSTEM_CONFIG says so."""
    if truthy(environ.get("UV_NO_SYSTEM_CONFIG")):
        return []
    if os.name == "nt":
        places = [Path(environ.get("SYSTEMDRIVE", "C:") + "\\") / "ProgramData" / "uv" / "uv.toml"]
    else:
        folders = (environ.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":")
        places = [sysroot.path(folder) / "uv" / "uv.toml" for folder in folders if folder]
        places.append(sysroot.path("/etc/uv/uv.toml"))
    return [place for place in places if exists(place) and place.is_file()]


def _read(path: Path) -> UvFiles | None:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        return None
    except UnicodeDecodeError:
        raise InputError(str(path), "", "expected UTF-8 text") from None
    return parse_uv_file(text, str(path), path.parent)
