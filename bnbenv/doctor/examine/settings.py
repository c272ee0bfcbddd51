"""The variables that decide what is loaded, and where each of them is set: in this process, or in a file and line."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from bnbenv.doctor.examine.assignments import NAMES, assignments, shown
from bnbenv.doctor.examine.files import head, names
from bnbenv.doctor.examine.layout import Layout
from bnbenv.doctor.examine.ports import Ports, Where
from bnbenv.doctor.examine.search import Search
from bnbenv.doctor.model import Setting
from bnbenv.envs.record import PTH
from bnbenv.facts.model import Unknown
from bnbenv.process import Command

LARGEST = 1 << 18  # bytes of a file that are read
MOST = 64  # files of a folder
LIMIT = 3.0  # seconds for Windows' registry

_HOME_SH = (
    ".bashrc",
    ".bash_profile",
    ".bash_login",
    ".bash_aliases",
    ".profile",
    ".zshenv",
    ".zprofile",
    ".zshrc",
    ".zlogin",
    ".kshrc",
    ".cshrc",
    ".tcshrc",
    ".login",
    ".pam_environment",
)
_SYSTEM_SH = (
    "/etc/environment",
    "/etc/profile",
    "/etc/bash.bashrc",
    "/etc/bashrc",
    "/etc/zsh/zshenv",
    "/etc/zsh/zshrc",
    "/etc/zshenv",
    "/etc/csh.cshrc",
)
_ACTIVE = ("VIRTUAL_ENV", "CONDA_PREFIX")
_REFERENCE = re.compile(r"\$(?:(\w+)|\{(\w+)[^}]*\})")  # $CONDA_PREFIX, ${LD_LIBRARY_PATH:-}
_POWERSHELL = ("profile.ps1", "Microsoft.PowerShell_profile.ps1")
_BY_SUFFIX = {
    ".sh": "sh",
    ".bash": "sh",
    ".zsh": "sh",
    ".csh": "sh",
    ".conf": "sh",
    ".fish": "fish",
    ".ps1": "powershell",
    ".bat": "batch",
    ".cmd": "batch",
}


def read_settings(
    layout: Layout | None, search: Search, where: Where, ports: Ports, windows: bool = False
) -> tuple[tuple[Setting, ...], tuple[Unknown, ...]]:
    """The settings of this process, then those in files; a file that is there and cannot be read is unknown."""
    found = [Setting(name=name, value=shown(name, ports.environ[name])) for name in NAMES if name in ports.environ]
    gaps: list[Unknown] = []
    seen: set[Path] = set()
    for path, dialect in _files(layout, search, where, ports):
        if path in seen:
            continue
        seen.add(path)
        content = _text(path, gaps)
        for one in assignments(content, dialect) if content else ():
            found.append(Setting(name=one.name, value=one.value or "", file=_called(path, ports), line=one.line))
    if windows:
        found += _registry(ports)
    return tuple(found), tuple(gaps)


def in_process(settings: tuple[Setting, ...], environ: Mapping[str, str], layout: Layout | None) -> dict[str, str]:
    """The variables of a program of the environment: its shell's, and what the environment sets for itself.

    That is bnbenv's own .pth and sitecustomize.py at every start, and what an activation sets where it is not the
    activated one. No Python sets LD_LIBRARY_PATH for itself: the dynamic linker has read it by then.
    """
    started: dict[str, str] = {}
    activated: dict[str, str] = {}
    prefix = str(layout.prefix) if layout is not None else None
    active = prefix is not None and any(
        environ.get(name) and os.path.realpath(environ[name]) == os.path.realpath(prefix) for name in _ACTIVE
    )
    for one in settings:
        if one.file is None:
            continue
        if one.file.endswith((PTH, "sitecustomize.py", "usercustomize.py")):
            if not one.name.startswith(("LD_", "DYLD_")):
                started[one.name] = one.value
            continue
        own = prefix is not None and one.file.startswith(f"{prefix}{os.sep}")
        if prefix is not None and own and not active and not one.file.endswith("kernel.json"):  # for notebooks alone
            known = {**environ, **activated, **dict.fromkeys(_ACTIVE, prefix)}
            activated[one.name] = _expanded(one.value, known)
    return {**started, **activated, **environ}


def _expanded(value: str, known: Mapping[str, str]) -> str:
    return _REFERENCE.sub(lambda match: known.get(match[1] or match[2], ""), value)


def _files(layout: Layout | None, search: Search, where: Where, ports: Ports) -> Iterator[tuple[Path, str]]:
    """The files in which such variables are set, each with its dialect; those of the environment first."""
    for folder in search.folders:
        if PTH in folder.names:
            yield folder.path / PTH, "pth"
        for name in ("sitecustomize.py", "usercustomize.py"):
            if name in folder.names:
                yield folder.path / name, "python"
    if layout is not None:
        yield from _of_prefix(layout.prefix)
    for project in dict.fromkeys((where.cwd, where.project.root if where.project else where.cwd)):
        yield project / ".env", "sh"
        yield project / ".envrc", "sh"
    yield from _of_home(ports.home)
    for name in _SYSTEM_SH:
        yield ports.sysroot.path(name), "sh"
    for name in ("/etc/profile.d", "/etc/environment.d", "/etc/fish/conf.d"):
        yield from _all(ports.sysroot.path(name))


def _of_prefix(prefix: Path) -> Iterator[tuple[Path, str]]:
    yield prefix / "conda-meta" / "state", "json"
    yield from _all(prefix / "etc" / "conda" / "activate.d")
    for folder in ("bin", "Scripts"):
        yield prefix / folder / "activate", "sh"
        yield prefix / folder / "activate.csh", "sh"
        yield prefix / folder / "activate.fish", "fish"
        yield prefix / folder / "Activate.ps1", "powershell"
        yield prefix / folder / "activate.ps1", "powershell"
        yield prefix / folder / "activate.bat", "batch"
    for hook in ("postactivate", "predeactivate"):  # virtualenvwrapper's
        yield prefix / "bin" / hook, "sh"
    yield from _kernels(prefix / "share" / "jupyter" / "kernels")


def _of_home(home: Path) -> Iterator[tuple[Path, str]]:
    for name in _HOME_SH:
        yield home / name, "sh"
    fish = home / ".config" / "fish"
    yield fish / "config.fish", "fish"
    yield fish / "fish_variables", "fish"
    yield from _all(fish / "conf.d")
    yield from _all(home / ".config" / "environment.d")
    yield from _kernels(home / ".local" / "share" / "jupyter" / "kernels")
    for shell in ("WindowsPowerShell", "PowerShell"):
        for name in _POWERSHELL:
            yield home / "Documents" / shell / name, "powershell"


def _all(folder: Path) -> Iterator[tuple[Path, str]]:
    for name in names(folder)[:MOST]:
        path = folder / name
        if path.suffix in _BY_SUFFIX:
            yield path, _BY_SUFFIX[path.suffix]


def _kernels(folder: Path) -> Iterator[tuple[Path, str]]:
    for name in names(folder)[:MOST]:
        yield folder / name / "kernel.json", "json"


def _registry(ports: Ports) -> list[Setting]:
    """What ``setx`` and the dialog of Windows have set for this user, and for all."""
    found = []
    machine = r"HKLM\SYSTEM\CurrentControlSet\Control\Session Manager\Environment"
    for key in (r"HKCU\Environment", machine):
        try:
            finished = ports.runner.run(Command(("reg", "query", key), timeout=LIMIT))
        except OSError:
            continue
        found += [
            Setting(name=one.name, value=one.value or "", file=key)
            for one in assignments(finished.stdout if finished.ok else "", "registry")
        ]
    return found


def _called(path: Path, ports: Ports) -> str:
    """A system file's own name, without the prefix below which it was read."""
    try:
        return (
            "/" + path.relative_to(ports.sysroot.prefix).as_posix() if ports.sysroot.prefix != Path("/") else str(path)
        )
    except ValueError:
        return str(path)


def _text(path: Path, gaps: list[Unknown]) -> str | None:
    try:
        return head(path, LARGEST).decode("utf-8", "replace")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno != errno.EINVAL:
            gaps.append(Unknown(f"settings {path}", f"the file cannot be read ({error.strerror})"))
        return None
