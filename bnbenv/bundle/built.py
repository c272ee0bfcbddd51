"""Packages that are published as source alone: built here, so that the closed network needs no build tools.

What is pure Python is the same everywhere. What is compiled is for this machine, and is refused for any other.
"""

from __future__ import annotations

import dataclasses
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

from packaging.utils import parse_wheel_filename

from bnbenv.bundle.archive import file_sha256
from bnbenv.bundle.fetch import Piece, Sessions, load, sizes
from bnbenv.bundle.gather import Group, check_online
from bnbenv.bundle.target import is_sdist, runs_anywhere, tags_for
from bnbenv.envs.elsewhere import resolving_python
from bnbenv.envs.lockfile import LockedFile, file_name
from bnbenv.envs.resolve import uv_for
from bnbenv.errors import Failed
from bnbenv.facts.host import HostPort, read_platform
from bnbenv.matrix.drivers import number
from bnbenv.paths import Sysroot
from bnbenv.progress import during

_EPOCH = "315532800"  # 1980: a wheel's dates, so that the same source gives the same bytes
# Of every Linux: glibc's own, and the compiler's.
_USUAL = ("libc.so", "libm.so", "libdl.so", "libpthread.so", "librt.so", "ld-linux", "libgcc_s.so", "libstdc++.so")


def build_sdists(
    group: Group, work: Path, sessions: Sessions, done: dict[str, LockedFile], notes: list[str]
) -> Mapping[str, str]:
    """Put a wheel in place of each sdist of a group; returns what each wheel's sha256 was built from.

    ``done`` are the wheels of the sdists that were built before, by the sha256 of these; ``notes`` gets what is to be
    told. Raises Failed, and what loading and uv raise.
    """
    origins = {}
    for env, files in group.files.items():
        for package, one in files.items():
            if one.kind == "sdist" or is_sdist(file_name(one.place)):
                wheel = done.get(one.sha256) or _build(group, env, package, one, work, sessions, notes)
                if runs_anywhere(file_name(wheel.place)):
                    done[one.sha256] = wheel
                files[package] = wheel
                origins[wheel.sha256] = one.sha256
    return origins


def _build(
    group: Group, env: str, package: str, one: LockedFile, work: Path, sessions: Sessions, notes: list[str]
) -> LockedFile:
    setting, name = group.setting, file_name(one.place)
    folder = work / one.sha256[:16]
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / re.sub(r"[^A-Za-z0-9._+-]", "_", name)
    if not source.exists():
        check_online(setting, [Piece(one.place, one.sha256)])
        piece = Piece(one.place, one.sha256, sizes([one.place], sessions)[one.place])
        load(piece, source, sessions, setting.environ)
    setting.progress.say(f"{env}: {name} is published as source: building its wheel here")
    uv = uv_for(setting, env, group.sources)
    uv = dataclasses.replace(uv, environment={**uv.environment, "SOURCE_DATE_EPOCH": _EPOCH})
    minor = group.locks[env].decision.solution.choice.python
    python = resolving_python(setting, uv, minor)[0]
    out = folder / minor
    with during(setting.progress, f"{env}: building the wheel of {name}"):
        uv.build_wheel(source, out, python, setting.progress.detail)
    wheel = next(iter(sorted(out.glob("*.whl"))), None)
    if wheel is None:
        raise Failed("build-failed", f"{name} was built, and there is no wheel", "Name a wheel of it in find-links.")
    if not runs_anywhere(wheel.name):
        notes.append(_compiled(wheel, name, package, group, minor))
    with wheel.open("rb") as stream:
        return LockedFile("wheels", str(wheel), file_sha256(stream))


def _compiled(wheel: Path, name: str, package: str, group: Group, minor: str) -> str:
    """What a wheel that was compiled here needs there, to be told. Raises Failed where it cannot run there."""
    platform = group.platform
    glibc, libraries = _needs(wheel)
    why = None
    own = group.setting
    sysroot = Sysroot.from_environment(own.environ)
    here = read_platform(own.environ, sysroot, own.runner, HostPort.current())[0]
    if (platform.os, platform.machine) != (here.os, here.machine):
        why = f"is not for {platform.os} on {platform.machine}"
    elif not parse_wheel_filename(wheel.name)[3] & set(tags_for(platform, minor)):
        why = f"is not for Python {minor}, which is not on this machine"
    elif glibc and platform.libc and number(platform.libc.version) < number(glibc):
        why = f"needs glibc {glibc}, and there is {platform.libc.version}"
    if why is not None:
        message = f"{name} is compiled when it is built, and what is compiled here {why}"
        step = f"Make the bundle on such a machine, or put a wheel of {package} into a folder of find-links."
        raise Failed("cannot-build-for", message, step)
    needed = " and ".join([*([f"glibc {glibc}"] if glibc else []), *libraries])
    return f"{package} was compiled here" + (f": it needs {needed} of the system there" if needed else "")


def _needs(wheel: Path) -> tuple[str | None, list[str]]:
    """The newest glibc and the libraries of the system that the binaries of a wheel need."""
    from bnbenv.matrix.native import read_library

    versions, libraries = set(), set()
    with zipfile.ZipFile(wheel) as archive:
        own = {one.rpartition("/")[2] for one in archive.namelist()}
        for member in archive.namelist():
            if member.endswith(".so"):
                row = read_library(archive.read(member), member).row
                versions |= {row.glibc} if row.glibc else set()
                libraries |= {one for one in row.needed if one not in own and not one.startswith(_USUAL)}
    return max(versions, key=number, default=None), sorted(libraries)
