#!/usr/bin/env python3
"""Derive matrices/torch-declared.json: the torch builds of PyTorch's own index, as PyTorch declares them.

That index is not measured but put together from what is published about it, each row naming its sources:
- which versions, platforms, Pythons and triton there are: matrices/torch.json (measured on the default index; PyTorch
  builds all variants of a release in one matrix);
- which CUDA variants: tools/scripts/generate_binary_build_matrix.py in the history of pytorch/test-infra;
- their architectures: up to 2.5 manywheel/build_cuda.sh and windows/cuda*.bat in pytorch/builder, from 2.13 on
  PYTORCH_RELEASES_CODE_CC in the release's own wheel, between them matrices/torch-archs.toml.
A variant whose architectures no source tells is left out and named on stderr.

    derive_torch_declared.py --test-infra CLONE --builder CLONE
"""

from __future__ import annotations

import argparse
import ast
import datetime
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from packaging.version import Version

from bnbenv.errors import BnbenvError, Failed
from bnbenv.matrix.load import TORCH, TORCH_DECLARED, TorchTable
from bnbenv.matrix.model import Evidence, TorchBuild
from bnbenv.paths import write_atomically
from bnbenv.process import Command, SystemRunner

MATRICES = Path(__file__).resolve().parent.parent / "matrices"
TORCH_ARCHS = "torch-archs.toml"
BUILD_MATRIX = "tools/scripts/generate_binary_build_matrix.py"
FIRST, LAST_IN_BUILDER, FIRST_IN_WHEEL = Version("2.0"), Version("2.5.99"), Version("2.13")
CENTOS7, MANYLINUX_2_28 = "2.17", "2.28"  # glibc of the images: manylinux-builder through 2.5, manylinux2_28-builder


@dataclass(frozen=True)
class Variants:
    """The CUDA versions (``12.6``) that a release was built for, and who says so."""

    x86_64: tuple[str, ...]
    aarch64: tuple[str, ...]
    source: str


@dataclass(frozen=True)
class Archs:
    """A ``TORCH_CUDA_ARCH_LIST`` as ``get_arch_list()`` gives it, the glibc it needs, and who says so."""

    arch_list: tuple[str, ...]
    libc: str | None
    source: str


class ArchRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A row of matrices/torch-archs.toml."""

    torch: str
    os: str
    machine: str
    archs: dict[str, str]
    source: str
    libc: str | None = None


class ArchTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    build: tuple[ArchRow, ...]


@dataclass(frozen=True)
class Clone:
    """A git clone to read files from."""

    path: Path

    def git(self, *args: str) -> str | None:
        """What git prints, or None where it fails (no such branch, no such file)."""
        done = SystemRunner().run(Command(("git", "-C", str(self.path), *args), timeout=60))
        return done.stdout if done.ok else None

    def branch(self, name: str) -> str | None:
        """The commit of a branch, local or of the remote the clone came from."""
        for ref in (name, f"origin/{name}"):
            found = self.git("rev-parse", "--short=10", "--verify", "--quiet", f"{ref}^{{commit}}")
            if found:
                return found.strip()
        return None


def constants(text: str) -> dict[str, Any]:
    """The plain constants that a Python file assigns at its top level, by name; none of a file that is no Python."""
    found: dict[str, Any] = {}
    try:
        body = ast.parse(text).body
    except SyntaxError:  # one commit of the history holds such a file
        return found
    for node in body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        value = node.value if isinstance(node, (ast.Assign, ast.AnnAssign)) else None
        for target in targets:
            if isinstance(target, ast.Name) and value is not None:
                try:
                    found[target.id] = ast.literal_eval(value)
                except ValueError:
                    continue  # computed, such as a comprehension: none of those is wanted
    return found


def arch_names(declared: str) -> tuple[str, ...]:
    """``7.5;12.0+PTX`` -> (sm_75, sm_120, compute_120)."""
    numbers = [entry.removesuffix("+PTX").replace(".", "") for entry in declared.split(";")]
    ptx = [entry.removesuffix("+PTX").replace(".", "") for entry in declared.split(";") if entry.endswith("+PTX")]
    return (*(f"sm_{number}" for number in numbers), *(f"compute_{number}" for number in ptx))


def variants_of(text: str, channel: str, source: str) -> Variants | None:
    """The CUDA variants of a channel in one state of test-infra's build matrix, None where it has no such list."""
    names = constants(text)
    cuda = names.get("CUDA_ARCHES_DICT", {}).get(channel)
    if not cuda:
        return None
    # The list of aarch64 is not kept by channel: what is not built for x86-64 either is of a later release.
    aarch64 = [entry.removesuffix("-aarch64") for entry in names.get("CUDA_AARCH64_ARCHES", ())]
    return Variants(tuple(cuda), tuple(one for one in aarch64 if one in cuda), source)


def released_variants(clone: Clone) -> dict[str, Variants]:
    """By version: the first state of the build matrix in which it was the stable version."""
    found: dict[str, Variants] = {}
    for commit in (clone.git("log", "--reverse", "--format=%h", "--abbrev=10", "--", BUILD_MATRIX) or "").split():
        text = clone.git("show", f"{commit}:{BUILD_MATRIX}") or ""
        stable = re.search(r'^CURRENT_STABLE_VERSION = "([\d.]+)"', text, re.MULTILINE)
        if stable and stable[1] not in found:
            variants = variants_of(text, "release", f"pytorch/test-infra {BUILD_MATRIX}@{commit}")
            if variants:
                found[stable[1]] = variants
    if not found:
        raise Failed(
            "no-build-matrix", f"{clone.path} holds no history of {BUILD_MATRIX}.", "Clone pytorch/test-infra."
        )
    return found


def variants_for(version: str, released: Mapping[str, Variants], clone: Clone) -> Variants | None:
    """A version's variants: as released, else as its release branch tests them, else as the series' first release."""
    if version in released:
        return released[version]
    series = ".".join(version.split(".")[:2])
    commit = clone.branch(f"release/{series}")
    text = clone.git("show", f"{commit}:{BUILD_MATRIX}") if commit else None
    if text and constants(text).get("CURRENT_CANDIDATE_VERSION", "").startswith(f"{series}."):
        return variants_of(text, "test", f"pytorch/test-infra {BUILD_MATRIX}@{commit} (release/{series})")
    return next((found for other, found in released.items() if other.startswith(f"{series}.")), None)


def manywheel_archs(script: str) -> dict[str, str]:
    """What ``manywheel/build_cuda.sh`` of pytorch/builder sets ``TORCH_CUDA_ARCH_LIST`` to on x86-64, by CUDA."""
    base, label, found = "", "", {}
    for line in script.splitlines():
        case = re.match(r"\s+(\d+\.\[?\d+\]?)\)$", line)
        value = re.match(r'\s*TORCH_CUDA_ARCH_LIST="([^"]*)"', line)
        if case:
            label = case[1]
        elif line.strip() == "esac":
            break
        elif value and not label:
            base = value[1]
        elif value and "${TORCH_CUDA_ARCH_LIST}" in value[1]:  # the other kind is that of aarch64
            for cuda in _alternatives(label):
                found[cuda] = value[1].replace("${TORCH_CUDA_ARCH_LIST}", base)
    return found


def _alternatives(label: str) -> Iterator[str]:
    """``11.[67]`` -> 11.6, 11.7."""
    head, bracket, minors = label.partition("[")
    if not bracket:
        yield label
    for minor in minors.rstrip("]"):
        yield head + minor


def batch_archs(script: str) -> str | None:
    """``TORCH_CUDA_ARCH_LIST`` as ``windows/cuda*.bat`` of pytorch/builder sets it."""
    value = re.search(r"^\s*set TORCH_CUDA_ARCH_LIST=(\S+)", script, re.MULTILINE)
    return value[1] if value else None


def builder_archs(clone: Clone, version: str, system: str, cuda: str) -> Archs | None:
    """The architectures of a release through 2.5."""
    series = ".".join(version.split(".")[:2])
    commit = clone.branch(f"release/{series}")
    name = "manywheel/build_cuda.sh" if system == "linux" else f"windows/cuda{cuda.replace('.', '')}.bat"
    script = clone.git("show", f"{commit}:{name}") if commit else None
    if script is None:
        return None
    declared = manywheel_archs(script).get(cuda) if system == "linux" else batch_archs(script)
    libc = CENTOS7 if system == "linux" else None
    source = f"pytorch/builder {name}@{commit} (release/{series})"
    return Archs(arch_names(declared), libc, source) if declared else None


def table_archs(rows: Iterable[ArchRow], version: str, system: str, machine: str, cuda: str) -> Archs | None:
    """The architectures that matrices/torch-archs.toml gives."""
    series = ".".join(version.split(".")[:2])
    for row in rows:
        if (row.torch, row.os, row.machine) == (series, system, machine) and cuda in row.archs:
            return Archs(arch_names(row.archs[cuda]), row.libc, row.source)
    return None


def code_table(text: str) -> dict[str, dict[str, set[int]]]:
    """``PYTORCH_RELEASES_CODE_CC`` of ``torch/cuda/__init__.py``: compute capabilities by CUDA version and machine."""
    table = constants(text).get("PYTORCH_RELEASES_CODE_CC", {})
    return {cuda: by_machine for cuda, by_machine in table.items() if isinstance(by_machine, dict)}


def wheel_tables(versions: Iterable[str]) -> dict[str, tuple[dict[str, dict[str, set[int]]], str]]:
    """The code tables of releases, read out of their wheels on the default index, with the wheel as the source."""
    from bnbenv.matrix import index
    from bnbenv.matrix.wheel import remote_wheel

    session = index.index_session()
    files = index.project_files(session, index.index_endpoint(os.environ), "torch")
    found = {}
    for version in versions:
        file = next(one for one in files if one.filename.startswith(f"torch-{version}-") and "x86_64" in one.filename)
        with remote_wheel(session, file.url, file.filename, file.sha256) as wheel:
            text = wheel.read("torch/cuda/__init__.py").decode()
        found[version] = (code_table(text), f"torch/cuda/__init__.py in {file.filename} sha256:{file.sha256}")
    return found


def cpu_row(default: TorchBuild, today: str) -> TorchBuild:
    """The CPU build beside a measured build of the default index."""
    linux, old = default.os == "linux", Version(default.version) <= LAST_IN_BUILDER
    plain = default.os == "macos" or (default.machine == "aarch64" and old)  # these carry no local part there
    libc = default.libc_tag
    if linux and default.machine == "x86_64":
        libc = MANYLINUX_2_28 if Version(default.version) >= Version("2.7") else CENTOS7
    source = f"as on the default index: {default.evidence.source}; every release is built for the CPU too"
    return _row(default, None, "cpu", "" if plain else "+cpu", Archs((), libc, source), today)


def _row(default: TorchBuild, cuda: str | None, index: str, local: str, archs: Archs, today: str) -> TorchBuild:
    return TorchBuild(
        version=default.version + local,
        source="pytorch-index",
        os=default.os,
        machine=default.machine,
        cuda=cuda,
        arch_list=archs.arch_list,
        pythons=default.pythons,
        libc_tag=archs.libc,
        requires_python=default.requires_python,
        requires_dist=(),  # not read
        evidence=Evidence("declared", archs.source, today),
        index=index,
        triton=default.triton if cuda else None,
    )


def derive(
    measured: Iterable[TorchBuild], infra: Clone, builder: Clone, rows: tuple[ArchRow, ...], today: str
) -> Iterator[TorchBuild]:
    """All rows. Names on stderr what is left out."""
    defaults = [row for row in measured if row.source == "default-index" and Version(row.version) >= FIRST]
    released = released_variants(infra)
    versions = dict.fromkeys(row.version for row in defaults)
    variants = {version: variants_for(version, released, infra) for version in versions}
    tables = wheel_tables(v for v in versions if variants[v] and Version(v) >= FIRST_IN_WHEEL)
    for default in defaults:
        yield cpu_row(default, today)
        found = variants[default.version]
        if found is None:
            left_out(default, "no CUDA variant", "pytorch/test-infra does not know the release")
            continue
        if default.os == "macos":
            continue
        for cuda in found.x86_64 if default.machine == "x86_64" else found.aarch64:
            archs = archs_for(default, cuda, builder, rows, tables)
            if archs is None:
                left_out(default, cuda, "no source tells its architectures")
                continue
            tag = f"cu{cuda.replace('.', '')}"
            named = Archs(archs.arch_list, archs.libc, f"{found.source}; {archs.source}")
            yield _row(default, cuda, tag, f"+{tag}", named, today)


def archs_for(
    default: TorchBuild,
    cuda: str,
    builder: Clone,
    rows: tuple[ArchRow, ...],
    tables: Mapping[str, tuple[dict[str, dict[str, set[int]]], str]],
) -> Archs | None:
    """The architectures of one variant, from the source that goes with the release."""
    version = Version(default.version)
    if version <= LAST_IN_BUILDER:
        return builder_archs(builder, default.version, default.os, cuda) if default.machine == "x86_64" else None
    if version < FIRST_IN_WHEEL:
        return table_archs(rows, default.version, default.os, default.machine, cuda)
    table, source = tables[default.version]
    numbers = sorted(table.get(cuda, {}).get(default.machine, ()))
    libc = MANYLINUX_2_28 if default.os == "linux" else None
    return Archs(tuple(f"sm_{number}" for number in numbers), libc, source) if numbers else None


def left_out(default: TorchBuild, what: str, because: str) -> None:
    print(f"left out: torch {default.version} {default.os} {default.machine} {what}: {because}", file=sys.stderr)


def write(rows: Iterable[TorchBuild], path: Path) -> int:
    """One row a line, newest version first."""
    ordered = sorted(rows, key=lambda row: (row.os, row.machine, row.index or "", row.pythons))
    ordered.sort(key=lambda row: Version(Version(row.version).public), reverse=True)
    lines = ",\n".join(msgspec.json.encode(row).decode() for row in ordered)
    write_atomically(path, f'{{"schema": "bnbenv.matrix.torch/1", "rows": [\n{lines}\n]}}\n')
    return len(ordered)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--test-infra", type=Path, required=True, help="a clone of pytorch/test-infra, with its history"
    )
    parser.add_argument("--builder", type=Path, required=True, help="a clone of pytorch/builder, with its branches")
    parser.add_argument("--out", type=Path, default=MATRICES / TORCH_DECLARED)
    args = parser.parse_args()
    measured = msgspec.json.decode((MATRICES / TORCH).read_bytes(), type=TorchTable).rows
    table = msgspec.toml.decode((MATRICES / TORCH_ARCHS).read_bytes(), type=ArchTable)
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    try:
        rows = list(derive(measured, Clone(args.test_infra), Clone(args.builder), table.build, today))
    except BnbenvError as error:
        print(f"{error.message} {error.next_step}", file=sys.stderr)
        return int(error.exit)
    print(f"{args.out}: {write(rows, args.out)} rows")
    return 0


if __name__ == "__main__":
    sys.exit(main())
