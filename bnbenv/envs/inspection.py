"""What was installed, before any of it is run: is it what the lock names, what was asked for, and unchanged?

A RECORD is itself a file in uv's cache. It is held against that of the wheel where the wheel lies on this machine, and
against that of an earlier generation with the same file in its lock: an installer writes a RECORD anew for each
environment, so an edit in the cache does not reach those.
"""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bnbenv.envs import generations as gens
from bnbenv.envs.generations import Generation
from bnbenv.envs.integrity import (
    Damage,
    Row,
    examine,
    in_threads,
    package_of,
    parse_record,
    plain,
    read_records,
    same_files,
)
from bnbenv.envs.lockfile import Locked, read_saved_lock
from bnbenv.envs.project import Project, site_packages
from bnbenv.envs.provenance import installed_otherwise, local_file, not_asked_for
from bnbenv.errors import Failed
from bnbenv.progress import Progress


@dataclass(frozen=True)
class Inspection:
    """One generation to look at. ``asked`` are the requirements that it was made for.

    ``below`` is what the packages require that lie below, by name, as lines of METADATA.

    With ``every_byte`` all files are read; without, sizes and dates are compared and what changed late is read.
    """

    project: Project
    env: str
    generation: Generation
    locked: Locked
    asked: tuple[str, ...]
    progress: Progress
    every_byte: bool
    below: Mapping[str, str] = field(default_factory=dict)

    @property
    def site(self) -> Path:
        """Its site-packages. Raises Failed."""
        site = site_packages(self.generation.prefix)
        if site is None:
            message = f"{self.generation.prefix} has no site-packages"
            raise Failed("no-site-packages", message, "Run it again: bnbenv sync --fresh")
        return site

    def new(self, loaded_again: bool = False) -> tuple[Damage, ...]:
        """The damaged files of a generation that was just filled. Raises Failed for packages that do not belong.

        What was ``loaded_again`` is believed rather than an earlier generation.
        """
        damage = self._files(added=False)
        if not damage:
            self._check_packages()
            if self.every_byte:
                earlier = [] if loaded_again else self._against_earlier()
                damage = (*self._against_wheels(), *earlier)
        return damage

    def finished(self) -> tuple[Damage, ...]:
        """The damaged files of a generation that was used before, in which people may have added some."""
        return tuple(one for one in self._files(added=True) if one.package in self.locked.packages)

    def _files(self, added: bool) -> tuple[Damage, ...]:
        def told(done: int, total: int) -> None:
            self.progress.at(f"{self.env}: reading the files, {done / 1e9:.1f} of {total / 1e9:.1f} GB")

        try:
            return examine(self.site, self.generation.prefix, every_byte=self.every_byte, added=added, told=told)
        finally:
            self.progress.at("")

    def _check_packages(self) -> None:
        site = self.site
        installed = [entry.name for entry in site.iterdir() if entry.name.endswith(".dist-info")]
        other = installed_otherwise(self.locked, installed)
        if other:
            message = f"what was installed is not what the lock names: {other}"
            raise Failed("not-as-locked", message, "Choose again with: bnbenv lock")
        metadata = {package_of(name): _text(site / name / "METADATA") for name in installed}
        chosen = self.locked.decision.solution.choice.versions
        strange = not_asked_for(("torch", *chosen, *self.asked), {**self.below, **metadata})
        strange = [name for name in strange if name in metadata]
        if strange:
            names = ", ".join(strange[:4]) + (f" and {len(strange) - 4} more" if len(strange) > 4 else "")
            message = f"the lock holds what nobody asked for and nothing in it requires: {names}"
            step = "Choose again with: bnbenv lock; to have it, add it to requirements in bnbenv.toml."
            raise Failed("not-asked-for", message, step)

    def _against_wheels(self) -> list[Damage]:
        """RECORDs that differ from those of the wheels in local folders, which are the files of the lock."""
        records, _ = read_records(self.site)
        wheels = {name: wheel for name in records if (wheel := _wheel(self.locked, package_of(name)))}

        def different(name: str) -> list[Damage]:
            package = package_of(name)
            own = _record_of(wheels[name], self.locked.hashes[package])
            file = same_files(records[name], own) if own else None
            return [Damage(file, package, "is not the file of its wheel")] if file else []

        def told(done: int, total: int) -> None:
            self.progress.at(f"{self.env}: reading the wheels, {done / 1e9:.1f} of {total / 1e9:.1f} GB")

        try:
            return in_threads(different, {name: _size(wheel) for name, wheel in wheels.items()}, told)
        finally:
            self.progress.at("")

    def _against_earlier(self) -> list[Damage]:
        """RECORDs that differ from those of the newest finished generation with the same file in its lock."""
        others = [one for one in gens.generations(self.project, self.env) if one.usable]
        for earlier in reversed([one for one in others if one.number != self.generation.number]):
            site = site_packages(earlier.prefix)
            before = read_saved_lock(earlier.lock_file)
            if site is None or before is None:
                continue
            same = {name for name, hashes in self.locked.hashes.items() if before.hashes.get(name) == hashes}
            old, _ = read_records(site)
            new, _ = read_records(self.site)
            return [
                Damage(f"{name}/RECORD", package_of(name), f"is another than in generation {earlier.number}")
                for name, rows in new.items()
                if package_of(name) in same and name in old and same_files(rows, old[name])
            ]
        return []


def shared_with(project: Project, site: Path, damage: Iterable[Damage]) -> list[Generation]:
    """The finished generations in which one of these very files lies: they are links to one file in uv's cache."""
    found = []
    files = [one.file for one in damage]
    for env in project.envs_made():
        for generation in gens.generations(project, env):
            other = site_packages(generation.prefix)
            looked_at = generation.usable and other is not None and other != site
            if looked_at and other and any(_same(site / file, other / file) for file in files):
                found.append(generation)
    return found


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def blamed(damage: Sequence[Damage], site: Path, cache: Path | None) -> frozenset[str]:
    """The packages whose files in uv's cache have to be loaded again.

    A file that no RECORD names is looked for in the cache: the package it was put beside is named there.
    """
    names = {one.package for one in damage if one.package}
    for one in damage:
        if one.package is None and cache is not None:
            for archive in (cache / "archive-v0").glob("*"):
                if _same(archive / one.file, site / one.file):
                    names |= {package_of(folder.name) for folder in archive.glob("*.dist-info")}
    return frozenset(names)


def _wheel(locked: Locked, package: str) -> Path | None:
    """The one wheel of a package on this machine. Of several, nobody knows which one was installed."""
    files = [local_file(one.place) for one in locked.files.get(package, ())]
    wheels = [path for path in files if path is not None and path.suffix == ".whl"]
    return wheels[0] if len(wheels) == len(files) == 1 else None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _record_of(wheel: Path, hashes: frozenset[str]) -> tuple[Row, ...] | None:
    """The RECORD in a wheel that is still the file of the lock; None where it is not, or cannot be read."""
    digest = hashlib.sha256()
    try:
        with wheel.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
        if digest.hexdigest() not in hashes:
            return None
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/")]
            record = next(name for name in names if re.fullmatch(r"[^/]+\.dist-info/RECORD", name))
            rows = parse_record(archive.read(record).decode("utf-8"))
            listed = {row.path for row in rows}
            # uv adds the files that a wheel's RECORD leaves out, without a hash.
            return (*rows, *(Row(name, "", None) for name in map(plain, names) if name not in listed))
    except (OSError, zipfile.BadZipFile, StopIteration, ValueError):
        return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
