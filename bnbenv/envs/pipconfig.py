"""pip's own configuration, read the way pip reads it.

Order (pip's documentation, "Configuration": later overrides earlier): global files, the user's, the site's, the file in
``PIP_CONFIG_FILE``, then ``PIP_*`` variables; within the files a command's section overrides ``[global]``. An option
overrides as a whole: lists of several files are not joined. ``PIP_CONFIG_FILE`` set to the null device means no files,
and one that exists replaces the user's.
"""

from __future__ import annotations

import configparser
import math
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bnbenv.decode import shown
from bnbenv.errors import InputError
from bnbenv.paths import Sysroot, exists

_SECTIONS = ("global", "download", "install")
_ALIASES = {"default-timeout": "timeout", "pypi-url": "index-url"}
_TRUE = {"y", "yes", "t", "true", "on", "1"}
_FALSE = {"n", "no", "f", "false", "off", "0"}


@dataclass(frozen=True)
class PipConfig:
    """What pip would use. Addresses may hold credentials; ``timeout`` is in seconds."""

    index_url: str | None = None
    extra_index_urls: tuple[str, ...] = ()
    find_links: tuple[str, ...] = ()
    no_index: bool = False
    cert: str | None = None
    client_cert: str | None = None
    trusted_hosts: tuple[str, ...] = ()
    proxy: str | None = None
    timeout: float | None = None


def parse_pip_file(text: str, file: str) -> dict[str, str]:
    """The options of one pip.conf as ``section.option``, names in pip's normal form.

    Raises InputError with the line; the line's text is not repeated, since it may hold a password.
    """
    parser = configparser.RawConfigParser()
    try:
        parser.read_string(text)
    except configparser.ParsingError as error:
        lines = [number for number, _ in getattr(error, "errors", ())] or [getattr(error, "lineno", 0)]
        raise InputError(file, f"line {lines[0]}", 'expected "[section]" or "option = value"') from None
    except configparser.Error as error:
        line = getattr(error, "lineno", None)
        raise InputError(file, f"line {line}" if line else "", "an option or section stands twice") from None
    return {f"{section}.{_name(key)}": value for section in parser.sections() for key, value in parser.items(section)}


def _name(option: str) -> str:
    name = option.lower().replace("_", "-").removeprefix("--")
    return _ALIASES.get(name, name)


def combine_pip(files: Iterable[Mapping[str, str]], environ: Mapping[str, str]) -> PipConfig:
    """One configuration from parsed files, weakest first, and the ``PIP_*`` variables.

    Raises InputError for a value that pip cannot read either.
    """
    merged: dict[str, str] = {}
    for options in files:
        merged.update(options)
    values: dict[str, tuple[str, str]] = {}  # option: (where it stands, value); pip passes over empty values
    for section in _SECTIONS:
        values |= {
            key.partition(".")[2]: (f"[{section}] {key.partition('.')[2]}", value)
            for key, value in merged.items()
            if value and key.partition(".")[0] == section
        }
    values |= {_name(key[4:]): (key, value) for key, value in environ.items() if key.startswith("PIP_") and value}

    def one(option: str) -> str | None:
        return values[option][1].strip() if option in values else None

    def many(option: str) -> tuple[str, ...]:
        return tuple(values[option][1].split()) if option in values else ()

    return PipConfig(
        index_url=one("index-url"),
        extra_index_urls=many("extra-index-url"),
        find_links=many("find-links"),
        no_index=_boolean(*values["no-index"]) if "no-index" in values else False,
        cert=one("cert"),
        client_cert=one("client-cert"),
        trusted_hosts=many("trusted-host"),
        proxy=one("proxy"),
        timeout=_seconds(*values["timeout"]) if "timeout" in values else None,
    )


def _boolean(where: str, value: str) -> bool:
    word = value.strip().lower()
    if word not in _TRUE | _FALSE:
        raise InputError("pip's configuration", where, f'expected yes or no, found "{shown(value)}"')
    return word in _TRUE


def _seconds(where: str, value: str) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < 1e9:
        raise InputError("pip's configuration", where, f'expected seconds, found "{shown(value)}"')
    return seconds


def pip_config_files(
    environ: Mapping[str, str], sysroot: Sysroot, home: Path, prefixes: Iterable[Path], system: str = sys.platform
) -> tuple[Path, ...]:
    """The files pip would read, weakest first, whether they exist or not.

    ``prefixes`` are the ``sys.prefix`` of the Pythons whose pip is meant, ``system`` as in ``sys.platform``.
    """
    named = environ.get("PIP_CONFIG_FILE")
    if named == os.devnull:
        return ()
    name = "pip.ini" if system == "win32" else "pip.conf"
    files = [folder / name for folder in _global_folders(environ, sysroot, system)]
    if not (named and exists(Path(named))):
        files += [folder / name for folder in _user_folders(environ, home, system)]
    files += [prefix / name for prefix in prefixes]
    if named:
        files.append(Path(named))
    return tuple(dict.fromkeys(files))


def _global_folders(environ: Mapping[str, str], sysroot: Sysroot, system: str) -> list[Path]:
    if system == "win32":
        return [Path(environ.get("ALLUSERSPROFILE") or environ.get("ProgramData") or r"C:\ProgramData") / "pip"]
    if system == "darwin":
        return [sysroot.path("/Library/Application Support/pip")]
    folders = environ.get("XDG_CONFIG_DIRS", "").strip() or "/etc/xdg"
    return [*(sysroot.path(folder) / "pip" for folder in folders.split(":") if folder), sysroot.path("/etc")]


def _user_folders(environ: Mapping[str, str], home: Path, system: str) -> list[Path]:
    if system == "win32":
        roaming = environ.get("APPDATA")
        return [home / "pip", (Path(roaming) if roaming else home / "AppData" / "Roaming") / "pip"]
    if system == "darwin":
        support = home / "Library" / "Application Support" / "pip"
        return [home / ".pip", support if support.is_dir() else home / ".config" / "pip"]
    config = environ.get("XDG_CONFIG_HOME", "").strip()
    return [home / ".pip", (Path(config) if config else home / ".config") / "pip"]


def read_pip_config(
    environ: Mapping[str, str], sysroot: Sysroot, home: Path, prefixes: Iterable[Path] = ()
) -> PipConfig:
    """pip's configuration on this machine. A file that cannot be opened is passed over, as pip does.

    Raises InputError for a file or value that pip cannot read either.
    """
    parsed = []
    for path in pip_config_files(environ, sysroot, home, prefixes):
        try:
            data = path.read_bytes()
        except OSError:
            continue
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:  # pip takes the locale's encoding; addresses are ASCII in any
            text = data.decode("latin-1")
        parsed.append(parse_pip_file(text, str(path)))
    return combine_pip(parsed, environ)
