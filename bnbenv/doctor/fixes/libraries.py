"""Which package brings a shared library of CUDA: data in ``libraries.toml``, measured from wheels."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

import msgspec

from bnbenv.decode import convert, read_toml

FILE = Path(__file__).with_name("libraries.toml")

_NAMED = re.compile(r"lib(?P<name>[A-Za-z]+?)(?:64)?[._-](?:so\.)?(?P<major>\d{2})(?:\D|$)")
_PINNED = re.compile(r"^\s*(?P<name>[A-Za-z0-9._-]+)\s*(?:\[(?P<extras>[^\]]*)\])?\s*\(?(?P<spec>[^;()]*)")


class Brings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The package and the release whose file list was read."""

    package: str
    release: str


@lru_cache(maxsize=1)
def _tables() -> dict[str, dict[str, Brings]]:
    step = "Install bnbenv again: its own data is incomplete or damaged."
    document = read_toml(FILE.read_text(encoding="utf-8"), FILE.name, step)
    return {
        name: {soname: convert(row, Brings, FILE.name, f"{name}.{soname}", step) for soname, row in table.items()}
        for name, table in document.items()
    }


def package_for(soname: str, cuda: str | None) -> str | None:
    """The package that brings a library for a CUDA release (``12.8``), such as ``nvidia-cublas-cu12``.

    Without a release it is the one major whose packages have a library of that name; None where several have, or none.
    """
    tables = _tables()
    if cuda is not None:
        found = tables.get(f"cuda{cuda.partition('.')[0]}", {}).get(soname)
        return found.package if found else None
    names = [table[soname].package for table in tables.values() if soname in table]
    return names[0] if len(names) == 1 else None


def major_of(soname: str) -> str | None:
    """The CUDA major that a library of bitsandbytes' needs belongs to by its name: ``12`` of ``libcublas.so.12``."""
    match = _NAMED.search(soname)
    return match["major"] if match and match["name"] in ("cudart", "cublas", "cublasLt", "nvJitLink") else None


def requirement_for(package: str, cuda: str, torch_requires: tuple[str, ...]) -> str:
    """The requirement that brings a package in the version that torch asks for, else in one of its CUDA release.

    ``torch_requires`` is torch's ``requires_dist``.
    """
    for line in torch_requires:
        match = _PINNED.match(line)
        if match and match["name"].lower().replace("_", "-") == package and match["spec"].strip():
            return f"{package}{match['spec'].strip().replace(' ', '')}"
    major = cuda.partition(".")[0]
    if package.endswith(f"-cu{major}"):
        aligned = re.search("runtime|nvjitlink|nvrtc|cupti|nvtx|cublas", package)
        return f"{package}=={major}.*" if aligned else package
    extra = package.removeprefix("nvidia-").removeprefix("cuda-")
    # The packages of CUDA 13 have versions of their own; this one pins those of a toolkit release.
    return f"cuda-toolkit[{'cudart' if extra == 'runtime' else extra}]=={cuda}.*"
