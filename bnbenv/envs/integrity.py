"""Are the files of an environment those that its packages say they brought? Asked before any of them is run.

uv checks a package's hash when it is loaded. What it unpacked then lies in its cache, and the environments are hard
links into it: a file that somebody edited there, or in another environment, arrives in the next one as it is. Each
package's RECORD says how its files were; a file that no RECORD names was brought by nobody and is not run.
"""

from __future__ import annotations

import base64
import binascii
import csv
import hashlib
import io
import os
import posixpath
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

from bnbenv.envs.lockfile import normalized

LATE = 60.0  # seconds after its package was unpacked, from which on a file is taken for a changed one and hashed
BATCH = 64  # files that one thread takes at a time
CHUNK = 1 << 20

# Written by the installer for each environment; what stands in them differs from one to the next.
_INSTALLER = ("/RECORD", "/INSTALLER", "/REQUESTED", "/direct_url.json", "/uv_cache.json")
_ALGORITHMS = ("sha256", "sha384", "sha512")

# What a wheel has for site-packages, but not in its root: <name>-<version>.data/purelib/pack/module.py
_SPREAD = re.compile(r"[^/]+\.data/(?:purelib|platlib|data/(?:lib/python[^/]+|Lib)/site-packages)/(.+)")

# Names between single slashes, none of which begins with a dot.
_WRITTEN_PLAINLY = re.compile(r"(?:[^./\\\0][^/\\\0]*/)*[^./\\\0][^/\\\0]*").fullmatch

Item = TypeVar("Item")


class Row(NamedTuple):
    """One line of a RECORD. ``path`` is relative to site-packages, with ``/`` and without detours (``./a``, ``a//b``).

    ``hash`` is ``sha256=...`` or empty.
    """

    path: str
    hash: str
    size: int | None


@dataclass(frozen=True)
class Damage:
    """One file that is not as it should be. ``package`` is the name of the one it belongs to, None for no one's."""

    file: str
    package: str | None
    what: str

    def __str__(self) -> str:
        return f"{self.file} {self.what}"


class BadRecord(ValueError):
    """A RECORD that cannot be read."""


def parse_record(text: str) -> tuple[Row, ...]:
    """The rows of a RECORD. Raises BadRecord."""
    rows = []
    try:
        for entry in csv.reader(io.StringIO(text, newline="")):
            if not entry:
                continue
            path, digest, size = entry
            rows.append(Row(plain(path), digest, int(size) if size else None))
    except (csv.Error, ValueError) as error:
        raise BadRecord(str(error)) from None
    return tuple(rows)


def plain(path: str) -> str:
    """A path of a RECORD or a wheel, written as those of files that are found. Raises ValueError for what is none."""
    if _WRITTEN_PLAINLY(path):  # nearly all of them, and there are thousands
        return path
    if "\0" in path:  # some Pythons end the path there
        raise ValueError("a path with a NUL")
    return posixpath.normpath(path.replace("\\", "/"))


def package_of(dist_info: str) -> str:
    """The normalized name of the package of a folder ``<name>-<version>.dist-info``."""
    return normalized(dist_info.partition("-")[0])


def read_records(site: Path) -> tuple[dict[str, tuple[Row, ...]], list[Damage]]:
    """The RECORD of each installed package (``<name>-<version>.dist-info``), and those that cannot be read."""
    records: dict[str, tuple[Row, ...]] = {}
    damaged = []
    for name in sorted(entry.name for entry in os.scandir(site) if entry.name.endswith(".dist-info")):
        try:
            records[name] = parse_record((site / name / "RECORD").read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, BadRecord):
            damaged.append(Damage(f"{name}/RECORD", package_of(name), "cannot be read"))
    return records, damaged


def same_files(rows: Iterable[Row], others: Iterable[Row]) -> str | None:
    """The first file that two RECORDs of one wheel say different things of; None: they agree. Pure.

    Passed over is what each installation writes for itself: its own notes, and scripts, which name the environment.
    """
    first, second = (dict(_of_the_wheel(some)) for some in (rows, others))
    return next((path for path in sorted({**first, **second}) if first.get(path) != second.get(path)), None)


def _of_the_wheel(rows: Iterable[Row]) -> Iterator[tuple[str, str]]:
    """Path, where it is installed, and hash of the files that are the same in each environment."""
    for row in rows:
        spread = _SPREAD.fullmatch(row.path)
        path = spread[1] if spread else row.path
        inside = not path.startswith(("../", "/")) and ".data/" not in path.partition("/")[0] + "/"
        if inside and not path.endswith(_INSTALLER):
            yield path, row.hash


def examine(
    site: Path,
    prefix: Path,
    *,
    every_byte: bool,
    added: bool = False,
    told: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Damage, ...]:
    """What is wrong with the files of an environment, by its RECORDs; nothing: an empty result.

    Sizes are compared always; the hashes of all files with ``every_byte``, else those of the files that changed after
    their package was unpacked. Of a file that several packages bring, one lies there: it has to be any of theirs.
    With ``added``, files that no RECORD names are let pass (people add some to an environment in use). ``told`` hears
    bytes done and in all. Raises OSError where ``site`` cannot be read.
    """
    records, damage = read_records(site)
    present = dict(_files(site))
    owners = Counter(path for path, _ in _named(records))
    differing: list[Damage] = []
    to_hash: list[tuple[str, str, Row]] = []
    for name, rows in records.items():
        unpacked = _unpacked(present, name)
        for row in rows:
            wrong, late = _look(site, prefix, row, present, unpacked)
            if wrong:
                differing.append(Damage(row.path, package_of(name), wrong))
            elif row.hash and (every_byte or late or owners[row.path] > 1):
                to_hash.append((package_of(name), row.path, row))
    differing += _hashed(site, to_hash, told)
    refusing = Counter(path for path, _ in {(one.file, one.package) for one in differing})
    damage += [one for one in differing if refusing[one.file] == owners[one.file]]
    if not added:
        unnamed = sorted(path for path in present if path not in owners)
        damage += [Damage(path, None, "is named by no package's RECORD") for path in unnamed]
    return tuple(damage)


def wrong_files(site: Path, dist_info: str, rows: Iterable[Row]) -> tuple[Damage, ...]:
    """The files of one package that are gone or have another content than its RECORD says; all of them are read."""
    files = [(package_of(dist_info), row.path, row) for row in rows if row.hash]
    return tuple(_hashed(site, files, lambda done, total: None))


def _named(records: Mapping[str, Iterable[Row]]) -> set[tuple[str, str]]:
    """Each path of the RECORDs with each package that brings it."""
    packages = {name: package_of(name) for name in records}
    return {(row.path, packages[name]) for name, rows in records.items() for row in rows}


def _files(site: Path) -> Iterator[tuple[str, os.stat_result | None]]:
    """Everything below a folder that is no folder, with ``/``; links are followed, None for one that leads nowhere."""
    folders = [("", str(site))]
    while folders:
        below, folder = folders.pop()
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append((f"{below}{entry.name}/", entry.path))
                    continue
                try:
                    yield below + entry.name, entry.stat()
                except OSError:
                    yield below + entry.name, None


def _unpacked(present: Mapping[str, os.stat_result | None], dist_info: str) -> float:
    """When a package was unpacked into uv's cache; uv does not touch its METADATA afterwards."""
    found = present.get(f"{dist_info}/METADATA")
    return found.st_mtime if found else 0.0


def _look(
    site: Path, prefix: Path, row: Row, present: Mapping[str, os.stat_result | None], unpacked: float
) -> tuple[str | None, bool]:
    """What is wrong with a file at first sight, and whether it changed after its package was unpacked."""
    found = present.get(row.path)
    if found is None:
        place = os.path.normpath(os.path.join(site, row.path))  # noqa: PTH118 - quicker, and there are thousands
        if (
            row.path.startswith("/")
            or Path(row.path).is_absolute()
            or os.path.commonpath([place, prefix]) != str(prefix)
        ):
            return "lies outside the environment", False
        try:
            found = os.stat(place)  # noqa: PTH116
        except (OSError, ValueError):  # the latter: no name of a file
            return "is missing", False
    if not stat.S_ISREG(found.st_mode):
        return "is no regular file", False
    if row.size is not None and row.size != found.st_size:
        return f"has {found.st_size} bytes and not the {row.size} that its package brought", False
    return None, found.st_mtime > unpacked + LATE


def _hashed(site: Path, files: list[tuple[str, str, Row]], told: Callable[[int, int], None]) -> list[Damage]:
    """The files whose content is another one."""
    ordered = sorted(files, key=lambda one: -(one[2].size or 0))
    large = sum((row.size or 0) > CHUNK for _, _, row in files)
    batches = [ordered[n : n + 1] for n in range(large)]
    batches += [ordered[n : n + BATCH] for n in range(large, len(ordered), BATCH)]
    sizes = {tuple(batch): sum(row.size or 0 for _, _, row in batch) for batch in batches}
    return in_threads(lambda some: _wrong(site, some), sizes, told)


def in_threads(
    look: Callable[[Item], list[Damage]], sizes: Mapping[Item, int], told: Callable[[int, int], None]
) -> list[Damage]:
    """What ``look`` finds in each item of so many bytes, by file; ``told`` hears, here, the bytes done and in all.

    Hashing gives other threads their turn, so it is as many times quicker as there are cores. Large items first, so
    that no thread is left alone with one in the end. What ``look`` raises is raised.
    """
    damage: list[Damage] = []
    done, total = 0, sum(sizes.values())
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        try:
            begun = {pool.submit(look, item): sizes[item] for item in sorted(sizes, key=lambda one: -sizes[one])}
            if begun:
                told(0, total)
            for ended in as_completed(begun):
                damage += ended.result()
                done += begun[ended]
                told(done, total)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return sorted(damage, key=lambda one: one.file)


def _wrong(site: Path, files: Iterable[tuple[str, str, Row]]) -> list[Damage]:
    damage = []
    for package, path, row in files:
        try:
            same = _same_hash(site / path, row.hash)
        except OSError:
            damage.append(Damage(path, package, "cannot be read"))
            continue
        if not same:
            damage.append(Damage(path, package, "has another content than its package brought"))
    return damage


def _same_hash(path: Path, wanted: str) -> bool:
    """Whether a file's content has a hash as RECORD writes it; one in a weak algorithm is held to be another."""
    algorithm, _, text = wanted.partition("=")
    if algorithm not in _ALGORITHMS:
        return False
    digest = hashlib.new(algorithm)
    buffer = bytearray(CHUNK)
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as stream:
        while count := stream.readinto(buffer):
            digest.update(view[:count])
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)) == digest.digest()
    except (ValueError, binascii.Error):
        return False
