#!/usr/bin/env python3
"""Measure the wheels on the package index that the matrix does not know yet, and write their rows.

    python scripts/derive_matrix.py                                  all that is new
    python scripts/derive_matrix.py --torch none --bitsandbytes '==0.50.2'

bitsandbytes wheels are downloaded whole, one after another; of torch only the members that are read. Known rows are
told by their sha256 and kept, and the document is written after each wheel, so that it can be interrupted and resumed.
Exits 1 where a wheel could not be measured; the others are written all the same.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec.structs import replace
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import Version

from bnbenv.errors import BnbenvError, Exit, InputError
from bnbenv.matrix import index, measure
from bnbenv.matrix.model import BitsandbytesWheel, TorchBuild
from bnbenv.matrix.wheel import local_wheel, remote_wheel
from bnbenv.paths import write_atomically

Row = TypeVar("Row", BitsandbytesWheel, TorchBuild)
NamedFile = tuple[measure.WheelName, index.IndexFile]


def read_rows(path: Path, kind: type[Row]) -> list[Row]:
    """The rows of a document, none where there is no document yet."""
    if not path.exists():
        return []
    try:
        document = msgspec.json.decode(path.read_bytes(), type=dict[str, msgspec.Raw])
        return msgspec.json.decode(document["rows"], type=list[kind])  # type: ignore[valid-type]
    except (msgspec.DecodeError, KeyError) as error:
        raise InputError(str(path), "", f"expected a document of rows ({error})", "Move it away.") from None


def write_rows(path: Path, schema: str, rows: Iterable[Row]) -> None:
    """One row a line, in an order that depends on nothing but the rows."""
    lines = ",\n".join(msgspec.json.encode(row).decode() for row in sorted(rows, key=order))
    write_atomically(path, f'{{"schema": "{schema}", "rows": [\n{lines}\n]}}\n')


def order(row: BitsandbytesWheel | TorchBuild) -> tuple[object, ...]:
    """Newest first, then by platform."""
    version = Version(row.version)
    newest_first = tuple(-part for part in (*version.release, 0, 0, 0)[:4])
    return newest_first, -(version.post or 0), row.os, row.machine, row.evidence.source


def listed(endpoint: str, project: str, spec: SpecifierSet) -> list[NamedFile]:
    """The wheels of a project in a version range, newest version first; withdrawn ones are left out."""
    with index.index_session() as session:
        files = index.project_files(session, endpoint, project)
    named = [(measure.wheel_name(file.filename), file) for file in files if not file.yanked]
    wanted = [(name, file) for name, file in named if spec.contains(name.version)]
    return sorted(wanted, key=lambda pair: (Version(pair[0].version), pair[1].filename), reverse=True)


def measure_all(
    tasks: Iterable[Callable[[], Row]], rows: list[Row], write: Callable[[list[Row]], None], jobs: int
) -> int:
    """Run the measurements, adding and writing each row as it comes; the number of failures."""
    failures = 0
    pool = ThreadPoolExecutor(jobs)
    try:
        for done in as_completed([pool.submit(task) for task in tasks]):
            try:
                row = done.result()
            except (BnbenvError, OSError) as error:
                failures += 1
                print(f"failed   {error}", file=sys.stderr, flush=True)
                continue
            rows.append(row)
            write(rows)
            print(f"added    {described(row)}", flush=True)
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C only the wheels in hand are finished
    return failures


def described(row: BitsandbytesWheel | TorchBuild) -> str:
    if isinstance(row, BitsandbytesWheel):
        names = ", ".join(library.name.removeprefix("libbitsandbytes_") for library in row.libraries)
        return f"bitsandbytes {row.version} {row.os} {row.machine}: {names}"
    cuda = f"CUDA {row.cuda}, {' '.join(row.arch_list)}" if row.cuda else "CPU"
    return f"torch {row.version} {row.os} {row.machine}: {cuda}; {' '.join(row.pythons)}"


def report_gone(rows: Iterable[Row], on_index: set[str], spec: SpecifierSet) -> None:
    """Rows stay when a wheel is withdrawn, since environments may hold it; people decide."""
    for row in rows:
        if spec.contains(row.version) and row.evidence.source.rpartition(":")[2] not in on_index:
            print(f"gone     {row.evidence.source} is no longer on the index; its row is kept")


def derive_bitsandbytes(endpoint: str, spec: SpecifierSet, path: Path, jobs: int) -> int:
    rows = read_rows(path, BitsandbytesWheel)
    files = [file for _, file in listed(endpoint, "bitsandbytes", spec)]
    known = {row.sha256 for row in rows}
    report_gone(rows, {file.sha256 for file in files}, spec)

    def task(file: index.IndexFile) -> BitsandbytesWheel:
        with (
            tempfile.TemporaryDirectory() as folder,
            index.index_session() as session,
            local_wheel(index.download(session, file, Path(folder))) as wheel,
        ):
            return measure.measure_bitsandbytes(wheel)

    tasks = [lambda file=file: task(file) for file in files if file.sha256 not in known]
    return measure_all(tasks, rows, lambda rows: write_rows(path, "bnbenv.matrix.bitsandbytes/1", rows), jobs)


def derive_torch(endpoint: str, spec: SpecifierSet, path: Path, jobs: int) -> int:
    """One row for the wheels of a version and platform tag; the one for the oldest Python is measured for all."""
    rows = {row.evidence.source.rpartition(":")[2]: row for row in read_rows(path, TorchBuild)}
    groups: dict[tuple[str, str], list[NamedFile]] = defaultdict(list)
    for name, file in listed(endpoint, "torch", spec):
        groups[name.version, name.platform].append((name, file))
    report_gone(rows.values(), {file.sha256 for group in groups.values() for _, file in group}, spec)

    def task(file: index.IndexFile, pythons: tuple[str, ...]) -> TorchBuild:
        with (
            index.index_session() as session,
            remote_wheel(session, file.url, file.filename, file.sha256) as wheel,
        ):
            return measure.measure_torch(wheel, "default-index", pythons)

    tasks = []
    for group in groups.values():
        pythons = tuple(sorted({tag for name, _ in group for tag in name.pythons}, key=measure.python_key))
        known = next((file.sha256 for _, file in group if file.sha256 in rows), None)
        if known is None:
            chosen = min(group, key=lambda pair: (measure.python_key(pair[0].pythons[0]), pair[1].filename))[1]
            tasks.append(lambda file=chosen, pythons=pythons: task(file, pythons))
        elif rows[known].pythons != pythons:
            rows[known] = replace(rows[known], pythons=pythons)
            print(f"changed  {described(rows[known])}")
    measured = list(rows.values())

    def write(rows: list[TorchBuild]) -> None:
        write_rows(path, "bnbenv.matrix.torch/1", rows)

    write(measured)
    return measure_all(tasks, measured, write, jobs)


def versions(text: str) -> SpecifierSet | None:
    """A version range; ``none`` is no version at all."""
    try:
        return None if text == "none" else SpecifierSet(text)
    except InvalidSpecifier:
        raise argparse.ArgumentTypeError(f"{text!r} is no version range such as '>=2.0'") from None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--bitsandbytes", type=versions, default=">=0.45.0", metavar="SPEC", help="versions, or none (%(default)s)"
    )
    parser.add_argument(
        "--torch", type=versions, default=">=2.0.0", metavar="SPEC", help="versions, or none (%(default)s)"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "matrices", metavar="DIR")
    parser.add_argument("--index", metavar="URL", help="a simple index (default: as uv or pip is configured)")
    parser.add_argument("--jobs", type=int, default=3, metavar="N", help="wheels at a time (%(default)s)")
    given = parser.parse_args()
    endpoint = index.index_endpoint(os.environ, given.index)
    failures = 0
    try:
        if given.torch is not None:
            failures += derive_torch(endpoint, given.torch, given.out / "torch.json", given.jobs)
        if given.bitsandbytes is not None:
            failures += derive_bitsandbytes(endpoint, given.bitsandbytes, given.out / "bitsandbytes.json", given.jobs)
    except BnbenvError as error:
        print(f"{error.message} {error.next_step}", file=sys.stderr)
        return error.exit
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
