"""bnbenv for the machines of a bundle: its own wheel, what it needs on each of their Pythons, and an interpreter."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from bnbenv.bundle.gather import Group
from bnbenv.bundle.itself import requirements
from bnbenv.bundle.target import best, minors, tags_for
from bnbenv.envs.elsewhere import uv_platform
from bnbenv.envs.lockfile import LockedFile, read_files
from bnbenv.envs.resolve import sources_of, uv_for
from bnbenv.errors import Failed
from bnbenv.facts.model import Platform
from bnbenv.process import Command

_QUICK = 60.0  # seconds; uv reads a list that is in it


@dataclass(frozen=True)
class Needs:
    """What bnbenv needs on one kind of machine with one Python: versions and files by package."""

    versions: dict[str, str]
    files: dict[str, LockedFile]


def lists_for(groups: Iterable[Group]) -> dict[str, Needs]:
    """What bnbenv needs, by the name of the list in the bundle: ``tool/linux-x86_64-3.11.txt``.

    Each is for the oldest C library among the machines that share it. Raises what resolving raises.
    """
    wanted: dict[str, tuple[Group, str]] = {}
    for group in groups:
        for minor in tool_pythons(group):
            name = f"tool/{group.platform.os}-{group.platform.machine}-{minor}.txt"
            if name not in wanted or _older(group.platform, wanted[name][0].platform):
                wanted[name] = (group, minor)
    return {name: _needs(group, minor) for name, (group, minor) in sorted(wanted.items())}


def tool_pythons(group: Group) -> list[str]:
    """The Pythons that bnbenv may be installed for: those that are there, and that of the locks."""
    return minors(f"{minor}.0" for minor in {*(p for one in group.machines for p in one.pythons), *group.pythons})


def _older(one: Platform, other: Platform) -> bool:
    def libc(platform: Platform) -> list[int]:
        version = platform.libc.version if platform.libc else "0"
        return [int(part) for part in version.split(".") if part.isdigit()]

    return libc(one) < libc(other)


def _needs(group: Group, minor: str) -> Needs:
    group.setting.progress.at(f"resolving what bnbenv needs on Python {minor}")
    uv = uv_for(group.setting, "bnbenv", group.sources)
    target = ("--python-version", minor, "--python-platform", uv_platform(group.platform))
    text = uv.compile("\n".join(requirements()) + "\n", sys.executable, None, target)
    versions, offered = read_files(text, "what bnbenv needs")
    tags, files = tags_for(group.platform, minor), {}
    for package, some in offered.items():
        one = best(some, tags)
        if one is None or one.kind == "sdist":
            message = f"bnbenv needs {package}, which has no wheel for Python {minor} on {group.platform.machine}"
            raise Failed("no-file", message, "Take that Python out of the facts, if another one is there.")
        files[package] = one
    return Needs(versions, files)


def lacks_python(group: Group) -> list[str]:
    """The Pythons that a lock is for and that one of the machines has not."""
    return [minor for minor in group.pythons if any(minor not in one.pythons for one in group.machines)]


def python_archive(group: Group, minor: str) -> tuple[str, str] | None:
    """The address of uv's own build of a Python for these machines, and its name below a mirror; None: uv knows none.

    ``UV_PYTHON_INSTALL_MIRROR`` says where else they are, as it tells uv.
    """
    setting, platform = group.setting, group.platform
    uv = uv_for(setting, "bnbenv", sources_of(setting))
    words = ("python", "list", minor, "--only-downloads", "--all-platforms", "--all-arches", "--output-format", "json")
    done = setting.runner.run(Command((uv.binary, *words), _QUICK, dict(uv.environment), str(uv.cwd)))
    try:
        rows = json.loads(done.stdout) if done.ok else []
    except ValueError:
        rows = []
    for row in rows:
        if _is_for(row, platform):
            parts = unquote(urlsplit(row["url"]).path).rsplit("/", 2)
            name, mirror = "/".join(parts[1:]), setting.environ.get("UV_PYTHON_INSTALL_MIRROR")
            return f"{mirror.rstrip('/')}/{quote(name)}" if mirror else row["url"], name
    return None


def _is_for(row: Any, platform: Platform) -> bool:
    libc = "none" if platform.os != "linux" else "musl" if platform.libc and platform.libc.name == "musl" else "gnu"
    wanted = ("cpython", "default", platform.os, platform.machine, libc)
    return (
        isinstance(row, dict)
        and isinstance(row.get("url"), str)
        and tuple(row.get(key) for key in ("implementation", "variant", "os", "arch", "libc")) == wanted
    )
