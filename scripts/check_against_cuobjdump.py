#!/usr/bin/env python3
"""Hold the GPU code that matrices/bitsandbytes.json says is in each wheel against what NVIDIA's cuobjdump lists.

    python scripts/check_against_cuobjdump.py                    all wheels of the matrix
    python scripts/check_against_cuobjdump.py --bitsandbytes '==0.50.2' --library '*cuda130*'

Two versions of cuobjdump are taken from packages of the index, 12.8 (inside triton) and the newest, since neither is
enough by itself: 13.x ends with an error in the middle of many libraries for CUDA 12.0 to 12.2, and 12.8 does not know
the newest architectures. A library is right where each version that reads it to its end lists what the row says, and
the others list nothing else. Both read ELF only: the sections of a DLL are put into an empty ELF file for them.
All CUDA libraries are downloaded, some 7 GB; for Linux on x86-64. Exits 1 where one is not right, or none reads it to
its end.
"""

from __future__ import annotations

import argparse
import os
import re
import stat
import struct
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import msgspec
import requests
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from bnbenv.errors import BnbenvError, Exit, Failed
from bnbenv.matrix import elf, index, pe
from bnbenv.matrix.load import load_matrix
from bnbenv.matrix.model import BitsandbytesWheel, NativeLibrary
from bnbenv.matrix.wheel import remote_wheel
from bnbenv.process import Command, SystemRunner

PACKAGES = ("triton==3.4.0", "nvidia-cuda-cuobjdump>=13.2")
_CUBIN = re.compile(r"\.(sm_\w+)\.cubin$", re.MULTILINE)
_PTX = re.compile(r"\.(sm_\w+)\.ptx$", re.MULTILINE)
_VERSION = re.compile(r"V([0-9.]+)")


class Tool(NamedTuple):
    """A cuobjdump: its version and where it lies."""

    version: str
    path: Path


class Listing(NamedTuple):
    """What a cuobjdump lists: targets as in a row, and whether it came to the end."""

    version: str
    targets: frozenset[str]
    ended: bool


def fetch_tool(session: requests.Session, endpoint: str, requirement: str, folder: Path) -> Tool:
    """The cuobjdump of the newest package that a requirement admits. Raises BnbenvError, OSError."""
    project, bounds = re.split(r"(?=[=>])", requirement, maxsplit=1)
    spec = SpecifierSet(bounds)
    wheels = [
        (Version(file.filename.split("-")[1]), file)
        for file in index.project_files(session, endpoint, project)
        if "x86_64" in file.filename and not file.yanked
    ]
    wanted = sorted(((version, file) for version, file in wheels if spec.contains(version)), key=lambda one: one[0])
    if not wanted:
        raise Failed("no-package", f"the index has no {requirement} for Linux on x86-64")
    file = wanted[-1][1]
    with remote_wheel(session, file.url, file.filename, file.sha256) as wheel:
        name = next((name for name in wheel.names() if name.endswith("/bin/cuobjdump")), None)
        if name is None:
            raise Failed("no-package", f"{file.filename} holds no cuobjdump")
        path = folder / f"cuobjdump-of-{project}"
        path.write_bytes(wheel.read(name))
    path.chmod(stat.S_IRWXU)
    said = SystemRunner().run(Command((str(path), "--version"), timeout=60)).stdout
    match = _VERSION.search(said)
    return Tool(match[1] if match else said[:40], path)


def listing(tool: Tool, library: Path) -> Listing:
    """What a version lists, of both fatbin sections (``-all``). Raises OSError."""
    done = SystemRunner().run(Command((str(tool.path), "-lelf", "-lptx", "-all", str(library)), timeout=600))
    targets = {*_CUBIN.findall(done.stdout), *(name.replace("sm_", "compute_") for name in _PTX.findall(done.stdout))}
    return Listing(tool.version, frozenset(targets), done.ok)


def as_elf(data: bytes, name: str) -> bytes:
    """A library that cuobjdump reads: the bytes of an ELF file, those of a DLL's fatbin sections as one."""
    if data.startswith(elf.MAGIC):
        return data
    contents = [bytes(part.view) for part in pe.read_pe(data, name).fatbins]
    titles = [".nv_fatbin", "__nv_relfatbin"][: len(contents)]
    names = b"\0" + b"".join(title.encode() + b"\0" for title in (*titles, ".shstrtab"))
    body, headers = bytearray(64), bytes(64)
    for title, content in zip((*titles, ".shstrtab"), (*contents, names), strict=True):
        place, kind = names.index(title.encode() + b"\0"), 3 if content is names else 1
        headers += struct.pack("<IIQQQQIIQQ", place, kind, 0, 0, len(body), len(content), 0, 0, 8, 0)
        body += content + bytes(-len(content) % 8)
    count = len(titles) + 2
    ident = elf.MAGIC + b"\x02\x01\x01"
    body[:64] = struct.pack("<16sHHIQQQIHHHHHH", ident, 3, 62, 1, 0, 0, len(body), 0, 64, 0, 0, 64, count, count - 1)
    return bytes(body) + headers


def judged(row: NativeLibrary, listings: list[Listing]) -> str:
    """``right``, or what is not."""
    ours = {*row.sass, *row.ptx}
    for said in listings:
        if said.ended and said.targets != ours:
            return f"cuobjdump {said.version} lists otherwise: {' '.join(sorted(said.targets ^ ours))}"
        if not said.targets <= ours:
            return f"cuobjdump {said.version} lists more: {' '.join(sorted(said.targets - ours))}"
    return "right" if any(said.ended for said in listings) else "no cuobjdump reads it to its end"


def checked(
    session: requests.Session, file: index.IndexFile, row: BitsandbytesWheel, tools: list[Tool], folder: Path
) -> Iterator[tuple[NativeLibrary, str, list[Listing]]]:
    """Each library of a row with the verdict. Raises BnbenvError, OSError."""
    with remote_wheel(session, file.url, file.filename, file.sha256) as wheel:
        for library in row.libraries:
            path = folder / library.name
            path.write_bytes(as_elf(wheel.read(f"bitsandbytes/{library.name}"), library.name))
            listings = [listing(tool, path) for tool in tools]
            path.unlink()
            yield library, judged(library, listings), listings


def chosen(spec: SpecifierSet, pattern: str) -> Iterator[BitsandbytesWheel]:
    """The wheels of the matrix in a range, with those of their CUDA libraries whose name fits a pattern."""
    for row in load_matrix().bitsandbytes:
        cuda = tuple(one for one in row.libraries if one.backend == "cuda" and fnmatchcase(one.name, pattern))
        if spec.contains(row.version) and (cuda or pattern == "*"):
            yield msgspec.structs.replace(row, libraries=cuda)


def check(endpoint: str, spec: SpecifierSet, pattern: str, folder: Path) -> int:
    """All wheels of the matrix in a range; the number of libraries and wheels that are not right."""
    found: Counter[str] = Counter()
    ended: Counter[str] = Counter()
    with index.index_session() as session:
        tools = [fetch_tool(session, endpoint, requirement, folder) for requirement in PACKAGES]
        files = {file.sha256: file for file in index.project_files(session, endpoint, "bitsandbytes")}
        for row in chosen(spec, pattern):
            file = files.get(row.sha256)
            if file is None:
                found["absent"] += 1
                print(f"absent   {row.filename} is not on the index", flush=True)
                continue
            verdicts = Counter[str]()
            for library, verdict, listings in checked(session, file, row, tools, folder):
                verdicts["right" if verdict == "right" else "wrong"] += 1
                ended.update(said.version for said in listings if said.ended)
                if verdict != "right":
                    print(f"wrong    {row.filename}: {library.name}: {verdict}", flush=True)
            found.update(verdicts)
            found["wheels"] += 1
            print(f"checked  {row.filename}: {verdicts['right']} of {verdicts.total()} right", flush=True)
    by = ", ".join(f"{version} read {count} to the end" for version, count in sorted(ended.items()))
    print(f"{found['wheels']} wheels, {found['right']} CUDA libraries right, {found['wrong']} wrong; cuobjdump {by}")
    return found["wrong"] + found["absent"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bitsandbytes", type=SpecifierSet, default=SpecifierSet(), metavar="SPEC", help="versions")
    parser.add_argument("--library", default="*", metavar="PATTERN", help="names of libraries (%(default)s)")
    parser.add_argument("--index", metavar="URL", help="a simple index (default: as uv or pip is configured)")
    given = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as folder:
            wrong = check(
                index.index_endpoint(os.environ, given.index), given.bitsandbytes, given.library, Path(folder)
            )
    except BnbenvError as error:
        print(f"{error.message} {error.next_step}", file=sys.stderr)
        return error.exit
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
