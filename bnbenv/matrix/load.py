"""Load the matrix: the shipped tables, and newer rows of the user laid over them.

The tables are data files. In a wheel they lie in the package (``bnbenv/matrices``), in a checkout or an editable
install beside it (``matrices``).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from bnbenv.decode import convert, read_toml
from bnbenv.errors import InputError
from bnbenv.matrix.model import (
    LEVELS,
    Advisory,
    BitsandbytesWheel,
    CudaDriver,
    Evidence,
    Family,
    GpuArch,
    LoaderRule,
    Matrix,
    PackageAdvisory,
    PackageFile,
    SourceTag,
    Toolkit,
    TorchBuild,
    TransformersApi,
)
from bnbenv.matrix.rows import check_row

BITSANDBYTES = "bitsandbytes.json"
TORCH = "torch.json"
TORCH_DECLARED = "torch-declared.json"
LOADERS = "loaders.toml"
DRIVERS = "drivers.toml"
GPUS = "gpus.toml"
ADVISORIES = "advisories.toml"
SOURCES = "sources.toml"
TOOLKITS = "toolkits.json"
SOURCE_RELEASES = "source-releases.json"
FAMILIES = "families.toml"
PACKAGES = "packages.json"
PACKAGE_ADVISORIES = "package-advisories.toml"
HUGGINGFACE = "huggingface.json"
_REINSTALL = "Install bnbenv again: its own data is incomplete or damaged."
_ANEW = "Move it away; what it held is measured anew by: bnbenv matrix update"

T = TypeVar("T")


class BitsandbytesTable(msgspec.Struct, frozen=True):
    """The document ``bitsandbytes.json``."""

    schema: Literal["bnbenv.matrix.bitsandbytes/1"]
    rows: tuple[BitsandbytesWheel, ...]


class TorchTable(msgspec.Struct, frozen=True):
    """The documents ``torch.json`` and ``torch-declared.json``."""

    schema: Literal["bnbenv.matrix.torch/1"]
    rows: tuple[TorchBuild, ...]


class ToolkitTable(msgspec.Struct, frozen=True):
    """The document ``toolkits.json``."""

    schema: Literal["bnbenv.matrix.toolkits/1"]
    rows: tuple[Toolkit, ...]


class SourceTable(msgspec.Struct, frozen=True):
    """The document ``source-releases.json``."""

    schema: Literal["bnbenv.matrix.source-releases/1"]
    rows: tuple[SourceTag, ...]


class PackageTable(msgspec.Struct, frozen=True):
    """The document ``packages.json``."""

    schema: Literal["bnbenv.matrix.packages/1"]
    rows: tuple[PackageFile, ...]


class HuggingfaceTable(msgspec.Struct, frozen=True):
    """The document ``huggingface.json``: a row for each minor release of transformers, the oldest first."""

    schema: Literal["bnbenv.matrix.huggingface/1"]
    rows: tuple[TransformersApi, ...]


class _PackageAdvisories(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    advisory: tuple[PackageAdvisory, ...]


class _Loaders(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    loader: tuple[LoaderRule, ...]


class _Drivers(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    cuda: tuple[CudaDriver, ...]


class _Gpus(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    arch: tuple[GpuArch, ...]


class _Advisories(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    advisory: tuple[Advisory, ...]


class _Families(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    family: tuple[Family, ...]


class _Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    url: str
    source: str


class _Sources(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pytorch_index: _Source
    bitsandbytes: _Source


# What each file of the folder holds.
TABLES: dict[str, type[msgspec.Struct]] = {
    BITSANDBYTES: BitsandbytesTable,
    TORCH: TorchTable,
    TORCH_DECLARED: TorchTable,
    LOADERS: _Loaders,
    DRIVERS: _Drivers,
    GPUS: _Gpus,
    ADVISORIES: _Advisories,
    SOURCES: _Sources,
    TOOLKITS: ToolkitTable,
    SOURCE_RELEASES: SourceTable,
    FAMILIES: _Families,
    PACKAGES: PackageTable,
    PACKAGE_ADVISORIES: _PackageAdvisories,
    HUGGINGFACE: HuggingfaceTable,
}


def find_data(package: Path = Path(__file__).parent.parent) -> Path:
    """The folder of the shipped tables: in the package, else beside it.

    Raises InputError where it is in neither place.
    """
    for folder in (package / "matrices", package.parent / "matrices"):
        if (folder / LOADERS).is_file():
            return folder
    raise InputError(str(package / "matrices"), "", "the compatibility matrix is missing", _REINSTALL)


def load_matrix(overlay: Path | None = None, data: Path | None = None) -> Matrix:
    """The matrix, decoded strictly.

    ``overlay`` is a folder with rows of the user's own in ``bitsandbytes.json``, ``torch.json`` or both, either of
    which may be absent. Of two rows about the same wheel or build the one with the higher evidence holds, then the
    later one. ``data`` is the folder of the tables, by default ``find_data()``.
    Raises InputError with the file and the path in it for a table that is missing (``overlay`` aside) or damaged.
    """
    folder = data or find_data()
    wheels = _table(folder / BITSANDBYTES, BitsandbytesTable).rows
    builds = _table(folder / TORCH, TorchTable).rows + _table(folder / TORCH_DECLARED, TorchTable).rows
    if overlay is not None and (overlay / BITSANDBYTES).is_file():
        wheels = _lay_over(wheels, _own(overlay / BITSANDBYTES, BitsandbytesTable), wheel_keys)
    if overlay is not None and (overlay / TORCH).is_file():
        builds = _lay_over(builds, _own(overlay / TORCH, TorchTable), build_keys)
    drivers, archs = load_hardware(folder)
    sources = _table(folder / SOURCES, _Sources)
    return Matrix(
        bitsandbytes=wheels,
        torch=builds,
        loaders=_table(folder / LOADERS, _Loaders).loader,
        drivers=drivers,
        archs=archs,
        advisories=_table(folder / ADVISORIES, _Advisories).advisory,
        pytorch_index=sources.pytorch_index.url,
        toolkits=_table(folder / TOOLKITS, ToolkitTable).rows,
        families=_table(folder / FAMILIES, _Families).family,
        upstream=sources.bitsandbytes.url,
        source_releases=_table(folder / SOURCE_RELEASES, SourceTable).rows,
        packages=_table(folder / PACKAGES, PackageTable).rows,
        package_advisories=_table(folder / PACKAGE_ADVISORIES, _PackageAdvisories).advisory,
    )


def load_hardware(data: Path | None = None) -> tuple[tuple[CudaDriver, ...], tuple[GpuArch, ...]]:
    """What is known of drivers and architectures alone, which is read in a tenth of the time. Raises InputError."""
    folder = data or find_data()
    return _table(folder / DRIVERS, _Drivers).cuda, _table(folder / GPUS, _Gpus).arch


def load_families(data: Path | None = None) -> tuple[Family, ...]:
    """Which quantization packages share an environment, alone: a file of forty lines. Raises InputError."""
    return _table((data or find_data()) / FAMILIES, _Families).family


def load_huggingface(data: Path | None = None) -> tuple[TransformersApi, ...]:
    """What releases of transformers take, alone, the oldest first. Raises InputError."""
    return _table((data or find_data()) / HUGGINGFACE, HuggingfaceTable).rows


def wheel_keys(wheel: BitsandbytesWheel) -> tuple[Hashable, ...]:
    """What a row is about; two rows that share a key are about the same thing. Of a wheel: its bytes."""
    return (wheel.sha256,)


def build_keys(build: TorchBuild) -> tuple[Hashable, ...]:
    """Of a torch build: version, source, variant and platform for each of its Pythons.

    One release can have two rows for a platform whose Pythons have different tags (macOS 11 and 14).
    """
    where = (build.source, build.index, build.version, build.os, build.machine, build.libc_tag, build.path)
    return tuple((*where, python) for python in build.pythons)


def _table(path: Path, kind: type[T], next_step: str = _REINSTALL) -> T:
    """One table, decoded by the suffix of its name."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(str(path), "", f"cannot be read ({error.strerror})", next_step) from None
    try:
        if path.suffix == ".toml":
            return convert(read_toml(content.decode(), str(path), next_step), kind, str(path), "", next_step)
        try:
            return msgspec.json.decode(content, type=kind)
        except msgspec.ValidationError:  # says where, which costs more
            return convert(msgspec.json.decode(content), kind, str(path), "", next_step)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(str(path), "", f"no {path.suffix[1:].upper()} document ({error})", next_step) from None


def _own(path: Path, kind: type[BitsandbytesTable] | type[TorchTable]) -> tuple[Any, ...]:
    """The rows of a user's table, which nobody has checked before."""
    table: BitsandbytesTable | TorchTable = _table(path, kind, _ANEW)
    rows: tuple[BitsandbytesWheel | TorchBuild, ...] = table.rows
    for position, row in enumerate(rows):
        check_row(row, str(path), f"rows[{position}]", _ANEW)
    return rows


R = TypeVar("R", BitsandbytesWheel, TorchBuild)


def _lay_over(shipped: Iterable[R], own: Iterable[R], keys: Callable[[R], tuple[Hashable, ...]]) -> tuple[R, ...]:
    """The shipped rows but for those about which the user's say as much or more, then these."""
    rows = {key: row for row in shipped for key in keys(row)}
    for row in own:
        known = [rows[key] for key in keys(row) if key in rows]
        if all(_weight(row.evidence) >= _weight(other.evidence) for other in known):
            for key in (key for other in known for key in keys(other)):
                rows.pop(key, None)
            rows.update((key, row) for key in keys(row))
    return tuple({id(row): row for row in rows.values()}.values())


def _weight(evidence: Evidence) -> tuple[int, str]:
    return LEVELS.index(evidence.level), evidence.date
