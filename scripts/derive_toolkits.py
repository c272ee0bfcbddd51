#!/usr/bin/env python3
"""Measure the CUDA toolkits on the package index, and write matrices/toolkits.json.

    python scripts/derive_toolkits.py            all from CUDA 11.8 on
    python scripts/derive_toolkits.py 12.8       only this one; the other rows are kept

Of each CUDA release the newest package is read: its assembler (ptxas) is run, on this machine, for the targets that it
knows, and its crt/host_config.h for the host compilers that it takes. Only these two files are fetched (about 10 MB a
release). For Linux on x86-64, since the assembler is a program for it. Exits 1 where a package could not be measured.
"""

from __future__ import annotations

import argparse
import os
import stat
import sys
import tempfile
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

import msgspec
import requests
from packaging.version import Version

from bnbenv.errors import BnbenvError, Exit, Failed
from bnbenv.matrix import index
from bnbenv.matrix.load import TOOLKITS, ToolkitTable
from bnbenv.matrix.model import Evidence, Toolkit
from bnbenv.matrix.toolkits import compile_targets, host_compilers, tool_version
from bnbenv.matrix.wheel import Wheel, remote_wheel
from bnbenv.paths import write_atomically
from bnbenv.process import Command, SystemRunner

NVCC = ("nvidia-cuda-nvcc-cu11", "nvidia-cuda-nvcc-cu12", "nvidia-cuda-nvcc")
CRT = "nvidia-cuda-crt"  # since CUDA 13 the headers are a package of their own
FIRST = Version("11.8")
PTXAS, HEADER = "/bin/ptxas", "/crt/host_config.h"
MATRICES = Path(__file__).resolve().parent.parent / "matrices"


class Package(NamedTuple):
    """A wheel of the index and its version."""

    version: Version
    file: index.IndexFile


def release(version: Version) -> str:
    """The CUDA release of a package's version: 12.8.93 is of 12.8."""
    return f"{version.major}.{version.minor}"


def packages(session: requests.Session, endpoint: str, project: str) -> dict[str, Package]:
    """The newest wheel for Linux on x86-64 of each CUDA release; no pre-release, nothing withdrawn."""
    newest: dict[str, Package] = {}
    for file in index.project_files(session, endpoint, project):
        version = Version(file.filename.split("-")[1])
        known = newest.get(release(version))
        if file.yanked or version.is_prerelease or version < FIRST or "x86_64" not in file.filename:
            continue
        if known is None or (version, file.filename) > (known.version, known.file.filename):
            newest[release(version)] = Package(version, file)
    return newest


def member(wheel: Wheel, ending: str) -> str | None:
    return next((name for name in wheel.names() if name.endswith(ending)), None)


def ask(ptxas: bytes) -> tuple[str, str]:
    """What an assembler prints of its version and of its options. Raises Failed, OSError."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "ptxas"
        program.write_bytes(ptxas)
        program.chmod(stat.S_IRWXU)
        said = [SystemRunner().run(Command((str(program), option), timeout=60)) for option in ("--version", "--help")]
    for done in said:
        if not done.ok:
            raise Failed("bad-toolkit", f"ptxas ended with {done.returncode}: {done.stderr[-200:]}")
    return said[0].stdout, said[1].stdout


def measure(session: requests.Session, nvcc: Package, crt: Mapping[str, Package]) -> Toolkit:
    """One row. Raises BnbenvError, OSError."""
    with remote_wheel(session, nvcc.file.url, nvcc.file.filename, nvcc.file.sha256) as wheel:
        sources = [f"{wheel.filename} sha256:{wheel.sha256}"]
        name, header = member(wheel, PTXAS), member(wheel, HEADER)
        if name is None:
            raise Failed("bad-wheel", f"{wheel.filename} holds no ptxas")
        version, options = ask(wheel.read(name))
        text = wheel.read(header).decode() if header else None
    if text is None:
        headers = crt.get(release(nvcc.version))
        if headers is None or headers.version != nvcc.version:
            raise Failed("bad-wheel", f"there is no {CRT} {nvcc.version}, which holds the headers")
        with remote_wheel(session, headers.file.url, headers.file.filename, headers.file.sha256) as wheel:
            sources.append(f"{wheel.filename} sha256:{wheel.sha256}")
            text = wheel.read(member(wheel, HEADER) or HEADER).decode()
    sass, ptx = compile_targets(options)
    limits = host_compilers(text)
    return Toolkit(
        cuda=release(nvcc.version),
        ptxas=tool_version(version),
        sass=sass,
        ptx=ptx,
        **limits._asdict(),
        evidence=Evidence("measured", "; ".join(sources), datetime.now(timezone.utc).date().isoformat()),
    )


def write(path: Path, rows: Mapping[str, Toolkit]) -> None:
    """One row a line, the newest release first."""
    ordered = sorted(rows.values(), key=lambda row: Version(row.cuda), reverse=True)
    lines = ",\n".join(msgspec.json.encode(row).decode() for row in ordered)
    write_atomically(path, f'{{"schema": "bnbenv.matrix.toolkits/1", "rows": [\n{lines}\n]}}\n')


def derive(endpoint: str, wanted: list[str], path: Path) -> int:
    """Measure and write; the number of failures."""
    rows: dict[str, Toolkit] = {}
    if path.exists():
        rows = {row.cuda: row for row in msgspec.json.decode(path.read_bytes(), type=ToolkitTable).rows}
    failures = 0
    with index.index_session() as session:
        found: dict[str, Package] = {}
        for project in NVCC:
            found.update(packages(session, endpoint, project))
        crt = packages(session, endpoint, CRT)
        for cuda, package in found.items():
            known = rows.get(cuda)
            if (wanted and cuda not in wanted) or (known and package.file.sha256 in known.evidence.source):
                continue
            try:
                row = measure(session, package, crt)
            except (BnbenvError, OSError) as error:
                failures += 1
                print(f"failed   {cuda}: {error}", file=sys.stderr, flush=True)
                continue
            if known is None or msgspec.structs.replace(row, evidence=known.evidence) != known:
                print(f"{'changed' if known else 'added':<8} {cuda}: {' '.join(row.sass)}", flush=True)
            rows[cuda] = row
            write(path, rows)
    for cuda in wanted:
        if cuda not in found:
            failures += 1
            print(f"failed   {cuda}: no package of the index holds it", file=sys.stderr)
    return failures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cuda", nargs="*", help="CUDA releases such as 12.8 (default: all)")
    parser.add_argument("--out", type=Path, default=MATRICES, metavar="DIR")
    parser.add_argument("--index", metavar="URL", help="a simple index (default: as uv or pip is configured)")
    given = parser.parse_args()
    try:
        failures = derive(index.index_endpoint(os.environ, given.index), given.cuda, given.out / TOOLKITS)
    except BnbenvError as error:
        print(f"{error.message} {error.next_step}", file=sys.stderr)
        return error.exit
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
