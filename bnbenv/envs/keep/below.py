"""The packages below an environment, and what stands in for them while uv resolves what comes on top.

uv resolves for an empty environment, and a torch such as ``2.6.0a0+ecf3bae40a.nv25.01`` is on no index. So each
distribution below is offered as a wheel that holds its metadata and nothing else; what uv takes of these is there
already and is left out of the lock.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.markers import UndefinedEnvironmentName
from packaging.requirements import InvalidRequirement, Requirement

from bnbenv.envs.lockfile import normalized
from bnbenv.matrix.model import TorchBuild

# What torch brings along, whether or not its metadata say so: another one above it would break it.
_TORCHS_OWN = re.compile(r"(?:pytorch-)?triton(?:-windows)?|(?:nvidia|cuda)-.+")
_METADATA = {"dist-info": "METADATA", "egg-info": "PKG-INFO"}


@dataclass(frozen=True)
class Distribution:
    """One that lies below, by its normalized name, with its requirements as its metadata have them."""

    name: str
    version: str
    requires: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()


def read_below(folders: Iterable[str], torch: TorchBuild) -> dict[str, Distribution]:
    """The distributions in some folders, by normalized name; what is found first counts, as in an import.

    torch is as it was measured, with metadata or without. What has no readable name or version is left out.
    """
    found: dict[str, Distribution] = {}
    for folder in folders:
        for one in _in_folder(Path(folder)):
            found.setdefault(one.name, one)
    known = found.get("torch") or found.get("pytorch") or Distribution("torch", torch.version)
    found["torch"] = Distribution("torch", torch.version, known.requires or torch.requires_dist, known.extras)
    return found


def _in_folder(folder: Path) -> Iterator[Distribution]:
    from packaging.metadata import parse_email
    from packaging.version import InvalidVersion, Version

    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return
    for entry in entries:
        metadata = _METADATA.get(entry.name.rpartition(".")[2])
        if metadata is None:
            continue
        try:
            file = entry / metadata if entry.is_dir() else entry  # Debian has a mere file NAME.egg-info
            raw, _ = parse_email(file.read_bytes())
            name, version = raw.get("name"), Version(raw.get("version", ""))
        except (OSError, InvalidVersion, ValueError):
            continue
        if name and re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?", name):
            requires, extras = raw.get("requires_dist", ()), raw.get("provides_extra", ())
            yield Distribution(normalized(name), str(version), tuple(requires), tuple(extras))


def held(below: Mapping[str, Distribution], markers: Mapping[str, str]) -> frozenset[str]:
    """The names of torch and of all that it requires or brings along: never hidden by others above.

    ``markers`` is the environment that markers are judged in. Pure.
    """
    names = {name for name in below if _TORCHS_OWN.fullmatch(name)}
    waiting: list[tuple[str, frozenset[str]]] = [("torch", frozenset())]
    seen = set(waiting)
    while waiting:
        name, extras = waiting.pop()
        names.add(name)
        for requirement in _applying(below[name].requires, markers, extras):
            further = (normalized(requirement.name), frozenset(requirement.extras))
            if further[0] in below and further not in seen:
                seen.add(further)
                waiting.append(further)
    return frozenset(names)


def bounds(below: Mapping[str, Distribution]) -> dict[str, str]:
    """What may come on top of torch beside that, by name, as specifiers. Pure.

    numpy is none of its requirements, but it is built for one of its ABIs: those of numpy 1 and of numpy 2 differ.
    Source: https://numpy.org/doc/stable/numpy_2_0_migration_guide.html
    """
    return {"numpy": f"=={below['numpy'].version.partition('.')[0]}.*"} if "numpy" in below else {}


def _applying(lines: Iterable[str], markers: Mapping[str, str], extras: Iterable[str] = ()) -> Iterator[Requirement]:
    for line in lines:
        try:
            requirement = Requirement(line)
            if requirement.marker is None or any(
                requirement.marker.evaluate({**markers, "extra": extra}) for extra in ("", *extras)
            ):
                yield requirement
        except (InvalidRequirement, UndefinedEnvironmentName):
            continue


def _met(requirement: Requirement, below: Mapping[str, Distribution]) -> bool:
    one = below.get(normalized(requirement.name))
    return one is not None and requirement.specifier.contains(one.version, prereleases=True)


def stand_in(folder: Path, one: Distribution, below: Mapping[str, Distribution], markers: Mapping[str, str]) -> Path:
    """Write the wheel that stands in for a distribution below. Raises OSError.

    What it requires and does not have is left out: a container's torch asks for packages that it does without, and
    mending what lies below is not this environment's business. Requirements of extras stay, they can come on top.
    """
    unmet = {str(found) for found in _applying(one.requires, markers) if not _met(found, below)}
    lines = [line for line in one.requires if _readable(line) and str(Requirement(line)) not in unmet]
    info = f"{one.name.replace('-', '_')}-{one.version}.dist-info"
    fields = [f"Name: {one.name}", f"Version: {one.version}"]
    fields += [f"Provides-Extra: {extra}" for extra in one.extras if "\n" not in extra]
    fields += [f"Requires-Dist: {' '.join(line.split())}" for line in lines]
    path = folder / f"{info.removesuffix('.dist-info')}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in {
            "METADATA": "\n".join(["Metadata-Version: 2.1", *fields, ""]),
            "WHEEL": "Wheel-Version: 1.0\nGenerator: bnbenv\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            "RECORD": "",
        }.items():
            archive.writestr(zipfile.ZipInfo(f"{info}/{name}"), text)
    return path


def _readable(line: str) -> bool:
    try:
        return bool(Requirement(line))
    except InvalidRequirement:
        return False


def broken_by(
    above: Mapping[str, str], below: Mapping[str, Distribution], markers: Mapping[str, str]
) -> dict[str, list[str]]:
    """The packages below whose requirements a newer one above no longer meets, by the name of that one. Pure."""
    found: dict[str, list[str]] = {}
    for one in below.values():
        for requirement in _applying(one.requires, markers):
            name = normalized(requirement.name)
            if name not in above or one.name in above or not _met(requirement, below):
                continue
            if not requirement.specifier.contains(above[name], prereleases=True):
                found.setdefault(name, []).append(one.name)
    return found
