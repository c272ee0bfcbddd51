"""Which of a package's files a machine installs, by its facts: the tags of wheels for a platform and a Python. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from packaging.tags import Tag, compatible_tags, cpython_tags, mac_platforms
from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from bnbenv.envs.elsewhere import MACOS
from bnbenv.envs.lockfile import LockedFile, file_name
from bnbenv.facts.model import Platform

_LEGACY = {(2, 17): "manylinux2014", (2, 12): "manylinux2010", (2, 5): "manylinux1"}


def tags_for(platform: Platform, python: str) -> list[Tag]:
    """The tags of the wheels that CPython ``3.12`` installs there, the best first, as installers rank them."""
    major, minor = (int(part) for part in python.split(".")[:2])
    places = list(_platforms(platform))
    first = cpython_tags((major, minor), [f"cp{major}{minor}"], places)
    return [*first, *compatible_tags((major, minor), f"cp{major}{minor}", places)]


def _platforms(platform: Platform) -> Iterator[str]:
    machine = platform.machine
    if platform.os == "windows":
        yield {"x86_64": "win_amd64", "aarch64": "win_arm64"}.get(machine, f"win_{machine}")
    elif platform.os == "macos":
        yield from mac_platforms(_pair(MACOS), "arm64" if machine == "aarch64" else machine)
    else:
        libc = platform.libc
        major, minor = _pair(libc.version) if libc else (2, 17)  # unknown: what all have
        if libc and libc.name == "musl":
            yield from (f"musllinux_{major}_{older}_{machine}" for older in range(minor, -1, -1))
        else:
            for older in range(minor, 4, -1):
                yield f"manylinux_{major}_{older}_{machine}"
                if (major, older) in _LEGACY and (older == 17 or machine == "x86_64"):
                    yield f"{_LEGACY[major, older]}_{machine}"
        yield f"linux_{machine}"


def _pair(version: str) -> tuple[int, int]:
    """``2.36`` of ``2.36``, ``1.2`` of ``1.2.4``."""
    parts = version.split(".")
    return int(parts[0]), int(parts[1]) if len(parts) > 1 and parts[1].isdigit() else 0


def best(files: Sequence[LockedFile], tags: Sequence[Tag]) -> LockedFile | None:
    """The file that an installer takes: the wheel with the best tag, else what it is built from; None: neither."""
    rank = {tag: number for number, tag in enumerate(tags)}
    wheels = [(position, one) for one in files if (position := _rank(file_name(one.place), rank)) is not None]
    if wheels:
        return min(wheels, key=lambda pair: pair[0])[1]
    return next((one for one in files if one.kind == "sdist" or is_sdist(file_name(one.place))), None)


def _rank(name: str, rank: dict[Tag, int]) -> int | None:
    try:
        found = parse_wheel_filename(name)[3]
    except InvalidWheelFilename:
        return None
    return min((rank[tag] for tag in found if tag in rank), default=None)


def is_sdist(name: str) -> bool:
    return name.endswith((".tar.gz", ".zip"))


def runs_anywhere(wheel: str) -> bool:
    """Whether a wheel is pure Python: the same for every platform."""
    return all(tag.platform == "any" and tag.abi == "none" for tag in parse_wheel_filename(wheel)[3])


def minors(versions: Iterable[str]) -> list[str]:
    """``3.12`` of ``3.12.4``, each once, newest first; those that are too old for bnbenv are left out."""
    found = {_pair(version) for version in versions}
    return [f"{major}.{minor}" for major, minor in sorted(found, reverse=True) if (major, minor) >= (3, 10)]
