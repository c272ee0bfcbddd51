#!/usr/bin/env python3
"""Read what bitsandbytes' sources say of compiling them, and write matrices/source-releases.json.

    python scripts/derive_sources.py --git CLONE

CLONE is a clone of upstream's repository with its tags. Of each release from 0.43.0 on, the first that CMake compiles,
CMakeLists.txt, pyproject.toml and the compute capabilities that csrc/common.cuh names are read at its tag. Known rows
are kept, and so is the day on which they were read; one whose tag names another commit now is read anew and told. Exits
1 where a tag could not be read.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import msgspec
from packaging.version import InvalidVersion, Version

from bnbenv.decode import read_toml
from bnbenv.errors import BnbenvError, Exit, Failed
from bnbenv.matrix.cmakelists import read_cmakelists
from bnbenv.matrix.load import SOURCE_RELEASES, SourceTable, load_matrix
from bnbenv.matrix.model import Evidence, SourceTag
from bnbenv.paths import write_atomically
from bnbenv.process import Command, SystemRunner

FIRST = Version("0.43.0")
KERNELS = "csrc/common.cuh"
MATRICES = Path(__file__).resolve().parent.parent / "matrices"
_TAG = re.compile(r"[0-9]+(?:\.[0-9]+)+(?:\.?post[0-9]+)?")
_CAPABILITY = re.compile(r"^#define\s+BNB_CC_\w+\s+([0-9]{2,3})0\s*$", re.MULTILINE)


class Clone:
    """A git repository, read and never written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def ask(self, *words: str) -> str:
        """What git answers. Raises Failed."""
        done = SystemRunner().run(Command(("git", "-C", str(self.folder), *words), timeout=60))
        if not done.ok:
            raise Failed("bad-clone", f"git {words[0]} in {self.folder}: {done.stderr.strip()[-200:]}")
        return done.stdout

    def releases(self) -> dict[str, Version]:
        """The tags that are releases, the newest first."""
        found: dict[str, Version] = {}
        for tag in self.ask("tag", "--list").split():
            try:
                version = Version(tag) if _TAG.fullmatch(tag) else None
            except InvalidVersion:
                version = None
            if version is not None and version >= FIRST:
                found[tag] = version
        return dict(sorted(found.items(), key=lambda item: item[1], reverse=True))

    def commit(self, tag: str) -> str:
        return self.ask("rev-parse", "--verify", f"refs/tags/{tag}^{{commit}}").strip()

    def read(self, commit: str, path: str) -> str:
        return self.ask("show", f"{commit}:{path}")

    def has(self, commit: str, path: str) -> bool:
        return bool(self.ask("ls-tree", "--name-only", commit, "--", path))


def measure(clone: Clone, tag: str, version: Version, upstream: str) -> SourceTag:
    """One row. Raises BnbenvError."""
    commit = clone.commit(tag)
    said = read_cmakelists(clone.read(commit, "CMakeLists.txt"))
    if said.project != "bitsandbytes" or not said.capability:
        raise Failed("bad-source", f"the CMakeLists.txt of {tag} is not bitsandbytes' as it was until now")
    if not (said.cuda_min and said.cuda_end and said.cmake):
        raise Failed("bad-source", f"the CMakeLists.txt of {tag} does not say which CUDA and CMake it takes: {said}")
    kernels = clone.read(commit, KERNELS) if clone.has(commit, KERNELS) else ""
    named = [int(number) for number in _CAPABILITY.findall(kernels)]
    files = f"CMakeLists.txt, pyproject.toml and {KERNELS}" if kernels else "CMakeLists.txt and pyproject.toml"
    project: dict[str, Any] = read_toml(clone.read(commit, "pyproject.toml"), "pyproject.toml").get("project", {})
    return SourceTag(
        version=str(version),
        tag=tag,
        commit=commit,
        cuda_min=said.cuda_min,
        cuda_end=said.cuda_end,
        cmake=said.cmake,
        sass_min=f"sm_{min(named)}" if named else None,
        requires_python=project.get("requires-python"),
        evidence=Evidence(
            "measured",
            f"{upstream} {files} at {tag}, commit {commit}",
            datetime.now(timezone.utc).date().isoformat(),
        ),
    )


def derive(clone: Clone, path: Path) -> int:
    """Read and write; the number of failures. Raises BnbenvError."""
    rows: dict[str, SourceTag] = {}
    if path.exists():
        rows = {row.tag: row for row in msgspec.json.decode(path.read_bytes(), type=SourceTable).rows}
    upstream = load_matrix().upstream
    failures = 0
    for tag, version in clone.releases().items():
        known = rows.get(tag)
        try:
            row = measure(clone, tag, version, upstream)
        except BnbenvError as error:
            failures += 1
            print(f"failed   {tag}: {error.message}", file=sys.stderr, flush=True)
            continue
        if known is not None and msgspec.structs.replace(row, evidence=known.evidence) == known:
            continue
        print(
            f"{'changed' if known else 'added':<8} {tag}: CUDA {row.cuda_min} to before {row.cuda_end}, {row.sass_min}"
        )
        rows[tag] = row
    write(path, rows)
    return failures


def write(path: Path, rows: Mapping[str, SourceTag]) -> None:
    """One row a line, the newest release first."""
    ordered = sorted(rows.values(), key=lambda row: Version(row.version), reverse=True)
    lines = ",\n".join(msgspec.json.encode(row).decode() for row in ordered)
    write_atomically(path, f'{{"schema": "bnbenv.matrix.source-releases/1", "rows": [\n{lines}\n]}}\n')


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--git", type=Path, required=True, metavar="CLONE", help="upstream's repository, with its tags")
    parser.add_argument("--out", type=Path, default=MATRICES, metavar="DIR")
    given = parser.parse_args()
    try:
        failures = derive(Clone(given.git), given.out / SOURCE_RELEASES)
    except BnbenvError as error:
        print(f"{error.message} {error.next_step}", file=sys.stderr)
        return error.exit
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
