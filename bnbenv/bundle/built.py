"""Packages that are published as source alone: built here, so that the closed network needs no build tools.

What is pure Python is the same everywhere. What is compiled is for this machine, and is refused for any other.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

from packaging.utils import parse_wheel_filename

from bnbenv.bundle.archive import file_sha256
from bnbenv.bundle.fetch import Piece, Sessions, load, sizes
from bnbenv.bundle.gather import Group
from bnbenv.bundle.target import is_sdist, runs_anywhere, tags_for
from bnbenv.envs.elsewhere import resolving_python
from bnbenv.envs.lockfile import LockedFile, file_name
from bnbenv.envs.resolve import sources_of, uv_for
from bnbenv.errors import Failed
from bnbenv.progress import during

_EPOCH = "315532800"  # 1980: a wheel's dates, so that the same source gives the same bytes


def build_sdists(group: Group, work: Path, sessions: Sessions, done: dict[str, LockedFile]) -> Mapping[str, str]:
    """Put a wheel in place of each sdist of a group; returns what each wheel's sha256 was built from.

    ``done`` are the wheels of the sdists that were built before, by the sha256 of these. Raises Failed, and what
    loading and uv raise.
    """
    origins = {}
    for env, files in group.files.items():
        for package, one in files.items():
            if one.kind == "sdist" or is_sdist(file_name(one.place)):
                wheel = done.get(one.sha256) or _build(group, env, package, one, work, sessions)
                if runs_anywhere(file_name(wheel.place)):
                    done[one.sha256] = wheel
                files[package] = wheel
                origins[wheel.sha256] = one.sha256
    return origins


def _build(group: Group, env: str, package: str, one: LockedFile, work: Path, sessions: Sessions) -> LockedFile:
    setting, name = group.setting, file_name(one.place)
    folder = work / one.sha256[:16]
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / re.sub(r"[^A-Za-z0-9._+-]", "_", name)
    if not source.exists():
        piece = Piece(one.place, one.sha256, sizes([one.place], sessions)[one.place])
        load(piece, source, sessions, setting.environ)
    setting.progress.say(f"{env}: {name} is published as source: building its wheel here")
    uv = uv_for(setting, env, sources_of(setting))
    uv = dataclasses.replace(uv, environment={**uv.environment, "SOURCE_DATE_EPOCH": _EPOCH})
    minor = group.locks[env].decision.solution.choice.python
    python = resolving_python(setting, uv, minor)[0]
    out = folder / minor
    with during(setting.progress, f"{env}: building the wheel of {name}"):
        uv.build_wheel(source, out, python, setting.progress.detail)
    wheel = next(iter(sorted(out.glob("*.whl"))), None)
    if wheel is None:
        raise Failed("build-failed", f"{name} was built, and there is no wheel", "Name a wheel of it in find-links.")
    if not runs_anywhere(wheel.name) and (setting.elsewhere or not _fits(wheel.name, group, minor)):
        platform = setting.facts.platform
        message = f"{name} is compiled when it is built, and what is compiled here is not for {platform.machine} there"
        step = f"Make the bundle on such a machine, or put a wheel of {package} into a folder of find-links."
        raise Failed("cannot-build-for", message, step)
    with wheel.open("rb") as stream:
        return LockedFile("wheels", str(wheel), file_sha256(stream))


def _fits(wheel: str, group: Group, minor: str) -> bool:
    return bool(parse_wheel_filename(wheel)[3] & set(tags_for(group.platform, minor)))
