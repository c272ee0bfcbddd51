#!/usr/bin/env python3
"""Measure the quantization packages on the package index, and write matrices/packages.json.

    python scripts/derive_packages.py

Source archives are loaded whole and read, nothing in them is executed; of wheels (for CPython 3.10 and newer) METADATA
and kernels are read by range requests. Which torch the kernels can be loaded beside is read out of the libc10 of each
torch series on the index. Known rows are told by their sha256 and kept, but for that: it is compared anew with --torch.
Exits 1 where a file could not be read; the others are written all the same, and what was known of it stays.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
import requests
from deriving import ended
from packaging.version import Version
from pypi_simple import ACCEPT_JSON_PREFERRED, RepositoryPage

from bnbenv.errors import BnbenvError
from bnbenv.matrix.index import IndexFile, index_endpoint, index_session, list_project
from bnbenv.matrix.load import PACKAGES, PackageTable
from bnbenv.matrix.measure import wheel_name
from bnbenv.matrix.model import PackageFile
from bnbenv.matrix.packages import (
    ARCHIVE_LIMIT,
    Names,
    core_names,
    read_archive,
    read_wheel,
    torch_releases,
)
from bnbenv.matrix.update import in_parallel
from bnbenv.matrix.wheel import remote_wheel
from bnbenv.paths import write_atomically

PROJECTS = ("gptqmodel", "auto-gptq", "autoawq", "autoawq-kernels")
MATRICES = Path(__file__).resolve().parent.parent / "matrices"
FIRST_PYTHON = 10  # the oldest Python 3 that bnbenv makes environments for
FIRST_TORCH = Version("2.0")

Read = tuple[PackageFile, Names]


def derive(given: argparse.Namespace) -> int:
    """Raises BnbenvError, OSError."""
    path = given.out / PACKAGES
    known = {row.sha256: row for row in read_rows(path)}
    endpoint = index_endpoint(os.environ, given.index)
    with index_session() as session:
        files = [(file, kind) for project in PROJECTS for file, kind in listed(session, endpoint, project)]
        dates = {name: day for project in PROJECTS for name, day in uploads(session, endpoint, project).items()}
    # With kernels a row is only as good as the torch series it was held against, so these are read again.
    stale = {key for key, row in known.items() if given.torch and row.libraries}
    wanted = [(file, kind) for file, kind in files if file.sha256 not in known or file.sha256 in stale]
    new = any(kind == "wheel" for _, kind in wanted)
    exports = {system: core_exports(endpoint, system, given.jobs) for system in ("linux", "windows")} if new else {}
    rows = [known[file.sha256] for file, _ in files if file.sha256 in known and file.sha256 not in stale]
    failed = 0
    work: list[Callable[[], Read]] = [partial(read, file, kind) for file, kind in wanted]
    for number, result in in_parallel(work, given.jobs):
        file = wanted[number][0]
        if isinstance(result, BaseException):
            failed += 1
            said = result.message if isinstance(result, BnbenvError) else repr(result)
            print(f"failed {file.filename}: {said}", file=sys.stderr)
            rows += [known[file.sha256]] if file.sha256 in known else []
            continue
        row, names = result
        if row.libraries and names and row.os in exports:
            row = msgspec.structs.replace(row, torch_releases=torch_releases(names, exports[row.os]))
        row = msgspec.structs.replace(row, uploaded=dates.get(row.filename))
        rows.append(row)
        print(f"{row.filename}: {len(row.libraries)} libraries, torch {' '.join(row.torch_releases or ())}", flush=True)
    write_rows(path, rows)
    return 1 if failed else 0


def listed(session: requests.Session, endpoint: str, project: str) -> list[tuple[IndexFile, str]]:
    """The files that count: source archives, and wheels for Pythons that bnbenv makes environments for."""
    found = list_project(session, endpoint, project)
    wheels = [(file, "wheel") for file in found.files if not file.yanked and for_us(wheel_name(file.filename).pythons)]
    return [*wheels, *((file, "sdist") for file in found.archives if not file.yanked)]


def for_us(pythons: tuple[str, ...]) -> bool:
    numbers = [int(tag[3:]) for tag in pythons if re.fullmatch(r"cp3\d+", tag)]
    return not numbers or max(numbers) >= FIRST_PYTHON


def uploads(session: requests.Session, endpoint: str, project: str) -> dict[str, str]:
    """The day of each file, where the index tells: a field in JSON, in HTML an attribute beyond the standard's."""
    url = f"{endpoint.rstrip('/')}/{project}/"
    answer = session.get(url, headers={"Accept": ACCEPT_JSON_PREFERRED}, timeout=60)
    if "json" in answer.headers.get("Content-Type", ""):
        moments = {one["filename"]: one.get("upload-time") for one in answer.json()["files"]}
    else:
        links = RepositoryPage.from_html(answer.text, url).links
        moments = {link.text: link.get_str_attrib("data-upload-time") for link in links}
    return {name: moment[:10] for name, moment in moments.items() if moment}


def read(file: IndexFile, kind: str) -> Read:
    """One row, and the names that its kernels look for. Raises BnbenvError."""
    with index_session() as session:
        if kind == "wheel":
            with remote_wheel(session, file.url, file.filename, file.sha256, file.metadata_sha256) as wheel:
                return read_wheel(wheel)
        with session.get(file.url, timeout=60, stream=True) as answer:
            answer.raise_for_status()
            data = answer.raw.read(ARCHIVE_LIMIT + 1)
        return read_archive(data, file.filename, file.sha256), frozenset()


def core_exports(endpoint: str, system: str, jobs: int) -> dict[str, Names]:
    """What libc10 and libc10_cuda of each torch series export, the oldest first; of its newest release on x86-64."""
    with index_session() as session:
        files = list_project(session, endpoint, "torch").files
    newest: dict[str, tuple[Version, IndexFile]] = {}
    for file in files:
        name = wheel_name(file.filename)
        version = Version(name.version)
        if (name.os, name.machine) != (system, "x86_64") or version < FIRST_TORCH or version.is_prerelease:
            continue
        series = f"{version.major}.{version.minor}"
        if series not in newest or newest[series][0] < version:
            newest[series] = (version, file)
    order = sorted(newest, key=Version)
    found: dict[str, Names] = {}
    for number, result in in_parallel([partial(exports_of, newest[series][1]) for series in order], jobs):
        if isinstance(result, BaseException):
            raise result
        found[order[number]] = result
        print(f"torch {newest[order[number]][0]} ({system}): libc10 exports {len(result)} names", flush=True)
    return {series: found[series] for series in order}


def exports_of(file: IndexFile) -> Names:
    with (
        index_session() as session,
        remote_wheel(session, file.url, file.filename, file.sha256, file.metadata_sha256) as wheel,
    ):
        return core_names(wheel)


def read_rows(path: Path) -> tuple[PackageFile, ...]:
    return msgspec.json.decode(path.read_bytes(), type=PackageTable).rows if path.is_file() else ()


def write_rows(path: Path, rows: list[PackageFile]) -> None:
    """In an order that depends on nothing but the rows: by package, the newest first."""

    def order(row: PackageFile) -> tuple[object, ...]:
        version = Version(row.version)
        newest_first = tuple(-part for part in (*version.release, 0, 0, 0)[:4])
        return PROJECTS.index(row.name), newest_first, version.is_prerelease, -(version.post or 0), row.filename

    lines = ",\n".join(msgspec.json.encode(row).decode() for row in sorted(rows, key=order))
    write_atomically(path, f'{{"schema": "bnbenv.matrix.packages/1", "rows": [\n{lines}\n]}}\n')


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=MATRICES, metavar="DIR")
    parser.add_argument("--index", metavar="URL", help="a simple index (default: as uv or pip is configured)")
    parser.add_argument("--torch", action="store_true", help="hold all kernels against the torch series anew")
    parser.add_argument("--jobs", type=int, default=3, metavar="N", help="files at a time (%(default)s)")
    given = parser.parse_args()
    return ended(lambda: derive(given))


if __name__ == "__main__":
    sys.exit(main())
