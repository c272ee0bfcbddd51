"""An exhaustive search over the raw tables, against which the solver is held.

It is written from the field's rules (CUDA's binary and minor-version compatibility, the loaders, the tags of wheels)
and shares no code with the solver.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from typing import Any, Protocol

import pytest
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from bnbenv.matrix.load import find_data

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FAMILY_MIN = {
    "linux": {"11": "450.80.02", "12": "525.60.13", "13": "580"},
    "windows": {"11": "452.39", "12": "528.33", "13": "580"},
}
JSON_TABLES = ("torch.json", "torch-declared.json", "bitsandbytes.json", "toolkits.json", "source-releases.json")
LEVELS = ("declared", "measured", "resolved", "verified")


class Case(Protocol):
    """A host and what is wished for on it; ``gpus`` are compute capabilities, ``pythons`` minors.

    ``build``: whether bitsandbytes is to be compiled; ``toolkits``: the CUDA releases whose toolkits can be had (None:
    all); ``kept``: version and source of the torch that is to be kept.
    """

    os: str
    machine: str
    glibc: str
    driver: str
    gpus: tuple[str, ...]
    pythons: tuple[str, ...]
    torch: str
    wheel: str
    python: str
    build: str
    toolkits: tuple[str, ...] | None
    kept: tuple[str, str] | None

    @property
    def cuda(self) -> bool: ...


@dataclass(frozen=True)
class Tables:
    """The matrix as it stands in the files."""

    torch: tuple[dict[str, Any], ...]
    wheels: tuple[dict[str, Any], ...]
    bundled: dict[str, dict[str, str | None]]
    archs: dict[str, dict[str, Any]]
    advisories: tuple[dict[str, Any], ...]
    compiles: dict[str, list[str]]
    sources: tuple[dict[str, Any], ...]


def read_tables() -> Tables:
    folder = find_data()
    loads = {name: json.loads((folder / name).read_text())["rows"] for name in JSON_TABLES}
    toml = {
        name: tomllib.loads((folder / name).read_text()) for name in ("drivers.toml", "gpus.toml", "advisories.toml")
    }
    return Tables(
        torch=(*loads["torch.json"], *loads["torch-declared.json"]),
        wheels=tuple(loads["bitsandbytes.json"]),
        bundled={
            row["cuda"]: {"linux": row.get("bundled_linux"), "windows": row.get("bundled_windows")}
            for row in toml["drivers.toml"]["cuda"]
        },
        archs={row["compute_capability"]: row for row in toml["gpus.toml"]["arch"]},
        advisories=tuple(toml["advisories.toml"]["advisory"]),
        compiles={row["cuda"]: row["sass"] for row in loads["toolkits.json"]},
        sources=tuple(loads["source-releases.json"]),
    )


@cache
def admits(spec: str | None, version: str) -> bool:
    return SpecifierSet("" if spec in (None, "*") else str(spec)).contains(version)


@cache
def dotted(text: str) -> tuple[int, ...]:
    parts = [int(part) for part in text.split(".")]
    return tuple(parts + [0] * (4 - len(parts)))


def code(targets: list[str], capability: str, ptx_allowed: bool) -> str | None:
    """``sass`` or ``ptx`` where one of the targets runs on the capability, else None."""
    major, minor = (int(part) for part in capability.split("."))
    kinds = set()
    for target in targets:
        kind, _, number = target.partition("_")
        suffix, number = number[-1] if number[-1].isalpha() else "", number.rstrip("af")
        here = (int(number[:-1]), int(number[-1]))
        if kind == "sm":
            integrated = {(8, 7), (10, 1)}  # Orin, and Thor as it was called before CUDA 13
            exact = suffix == "a" or not integrated.isdisjoint({(major, minor), here})
            if here[0] == major and (here[1] == minor if exact else here[1] <= minor):
                kinds.add("sass")
        elif here <= (major, minor) and ptx_allowed:
            assert suffix == "", "PTX for one architecture only: think about it"
            kinds.add("ptx")
    return "sass" if "sass" in kinds else "ptx" if kinds else None


@dataclass(frozen=True)
class Found:
    """A combination that fits; the smaller key is preferred."""

    key: tuple[Any, ...]
    torch: dict[str, Any]
    wheel: dict[str, Any]
    library: str
    override: str | None


class Search:
    """Every combination of the tables that fits a case."""

    def __init__(self, tables: Tables, case: Case) -> None:
        self.tables, self.case = tables, case

    def best(self) -> Found | None:
        """The preferred combination: a wheel before a build, with a Python that is there before one to download."""
        wish = self.case.python
        if self.case.kept is not None:
            steps = [["3.12"] if admits(wish, "3.12.5") else []]
        else:
            there = [minor for minor in self.case.pythons if admits(wish, f"{minor}.5")]
            every = [f"3.{number}" for number in range(8, 16)]
            download = [minor for minor in every if any(admits(wish, f"{minor}.{patch}") for patch in (0, 99))]
            steps = [there, [*there, *download]]
        for compiled in self.ways():
            for pythons in steps:
                found = sorted(self.all(pythons, compiled), key=lambda one: one.key)
                if found:
                    return found[0]
        return None

    def ways(self) -> tuple[bool, ...]:
        """Whether it is compiled, the preferred first."""
        return {"never": (False,), "always": (True,), "auto": (False, True)}[self.case.build]

    def find(
        self, python: str, torch: tuple[str, str, str | None], bitsandbytes: tuple[str, str, str, str | None]
    ) -> Found | None:
        """A combination by torch's version, source and index, and version, wheel, library and override."""
        for one in self.all([python], compiled=not bitsandbytes[1]):
            source = one.torch["source"] if self.case.kept is None else "existing"
            build = (one.torch["version"], source, one.torch.get("index"))
            filename = one.wheel["filename"] if bitsandbytes[1] else ""
            if (build, (one.wheel["version"], filename, one.library, one.override)) == (torch, bitsandbytes):
                return one
        return None

    def all(self, pythons: list[str], compiled: bool) -> Iterator[Found]:
        case = self.case
        if case.cuda and not (case.gpus and self.driver_knows_gpus()):
            return
        here = [row for row in self.tables.torch if (row["os"], row["machine"]) == (case.os, case.machine)]
        builds = [row for row in here if admits(case.torch, row["version"]) and self.libc(row["libc_tag"])]
        if case.kept is not None:
            builds = [kept_row(row) for row in here if (row["version"], row["source"]) == case.kept][:1]
        wheels = [row for row in self.tables.wheels if (row["os"], row["machine"]) == (case.os, case.machine)]
        wheels = self.releases() if compiled else [row for row in wheels if self.libc(row["libc_tag"])]
        wheels = [row for row in wheels if admits(case.wheel, row["version"])]
        for build, wheel in itertools.product(builds, wheels):
            if not any(self.python_fits(minor, build, wheel) for minor in pythons):
                continue
            if not self.requirement(build, wheel):
                continue
            if case.cuda:
                yield from self.compiled(build, wheel) if compiled else self.on_gpus(build, wheel)
            elif not compiled:
                yield from self.on_cpu(build, wheel)

    def releases(self) -> list[dict[str, Any]]:
        """One row of each version that can be compiled, with the oldest architecture that it is for."""
        rows: dict[str, dict[str, Any]] = {}
        for row in self.tables.wheels if self.case.os == "linux" else ():
            archs = [
                name[3:].rstrip("af") for one in row["libraries"] if "_cuda" in one["name"] for name in one["sass"]
            ]
            known = rows.get(row["version"], {}).get("oldest", 999)
            own = (row["os"], row["machine"]) == (self.case.os, self.case.machine)
            base = row if own or row["version"] not in rows else rows[row["version"]]
            rows[row["version"]] = {**base, "oldest": min([known, *map(int, archs)])}
        found = [row for row in rows.values() if Version(row["version"]) >= Version("0.45") and row["oldest"] < 999]
        return [self.with_source(row) for row in found]

    def with_source(self, row: dict[str, Any]) -> dict[str, Any]:
        """With what was read in its source, or in that of the newest release before it."""
        known = [tag for tag in self.tables.sources if Version(tag["version"]) <= Version(row["version"])]
        source = max(known, key=lambda tag: Version(tag["version"]))
        oldest = source["sass_min"]
        return {**row, "source": source, "oldest": int(oldest[3:]) if oldest else row["oldest"]}

    def compiled(self, build: dict[str, Any], release: dict[str, Any]) -> Iterator[Found]:
        """A release compiled for these GPUs by the toolkit of torch's CUDA, or by another one of its major."""
        cuda, case = build["cuda"], self.case
        if cuda is None or not self.driver_runs(cuda):
            return
        had = [one for one in self.tables.compiles if case.toolkits is None or one in case.toolkits]
        toolkits = [cuda] if cuda in had else []
        if case.toolkits is not None and not toolkits:
            toolkits = [one for one in had if one.split(".")[0] == cuda.split(".")[0]]
        version = Version(release["version"])
        source = release["source"]
        torch = [code(build["arch_list"], gpu, self.ptx_compiles(cuda)) for gpu in case.gpus]
        old = [gpu for gpu in case.gpus if int(gpu.replace(".", "")) < release["oldest"]]
        for toolkit in toolkits:
            plain = [name for name in self.tables.compiles[toolkit] if name[-1].isdigit()]
            own = [code(plain, gpu, False) for gpu in case.gpus]
            name = f"libbitsandbytes_cuda{toolkit.replace('.', '')}.so"
            override = toolkit.replace(".", "") if toolkit != cuda and version < Version("0.50") else None
            takes = dotted(source["cuda_min"]) <= dotted(toolkit) < dotted(source["cuda_end"])
            if takes and not (None in torch or None in own or old or self.bad(build, release, name, override)):
                key = self.key(build, release, "ptx" in torch, override is not None)
                yield Found(key, build, release, name, override)

    def driver_runs(self, cuda: str) -> bool:
        return dotted(self.case.driver) >= dotted(FAMILY_MIN[self.case.os][cuda.split(".")[0]])

    def libc(self, needed: str | None) -> bool:
        return needed is None or self.case.os != "linux" or dotted(self.case.glibc) >= dotted(needed)

    @staticmethod
    def python_fits(minor: str, build: dict[str, Any], wheel: dict[str, Any]) -> bool:
        tag = f"cp{minor.replace('.', '')}"
        full = f"{minor}.5"
        return (
            tag in build["pythons"]
            and admits(build["requires_python"], full)
            and admits(wheel["requires_python"], full)
        )

    @staticmethod
    def requirement(build: dict[str, Any], wheel: dict[str, Any]) -> bool:
        needed = [text for text in wheel["requires_dist"] if text.startswith("torch") and ";" not in text]
        assert len(needed) == 1 or Version(wheel["version"]) < Version("0.43")  # which ask for no torch
        return all(admits(text.removeprefix("torch") or None, build["version"]) for text in needed)

    def driver_knows_gpus(self) -> bool:
        version = dotted(self.case.driver)
        for gpu in self.case.gpus:
            row = self.tables.archs.get(gpu, {})
            first, last = row.get(f"first_driver_{self.case.os}"), row.get("last_branch")
            beyond = None if last is None else last + (10 if self.case.os == "windows" else 1)
            if (first and version < dotted(first)) or (beyond and version[0] >= beyond):
                return False
        return True

    def ptx_compiles(self, cuda: str) -> bool:
        needed = self.tables.bundled.get(cuda, {}).get(self.case.os)
        return needed is not None and dotted(self.case.driver) >= dotted(needed)

    def on_cpu(self, build: dict[str, Any], wheel: dict[str, Any]) -> Iterator[Found]:
        for library in wheel["libraries"]:
            fits = library["backend"] == "cpu" and self.libc(library["glibc"])
            if fits and not self.bad(build, wheel, library["name"], None):
                yield Found(self.key(build, wheel, False, False), build, wheel, library["name"], None)

    def on_gpus(self, build: dict[str, Any], wheel: dict[str, Any]) -> Iterator[Found]:
        cuda, case = build["cuda"], self.case
        if cuda is None or not self.driver_runs(cuda):
            return
        torch = [code(build["arch_list"], gpu, self.ptx_compiles(cuda)) for gpu in case.gpus]
        version = Version(wheel["version"])
        if version < Version("0.40.1"):  # whatever libcudart lies on the search paths decides
            return
        old = version < Version("0.45") and max(dotted(gpu) for gpu in case.gpus) < (7, 5)
        cuda_rows = [row for row in wheel["libraries"] if row["backend"] == "cuda"]
        libraries = {cuda_of(row["name"]): row for row in cuda_rows if ("_nocublaslt" in row["name"]) == old}
        same = {number: row for number, row in libraries.items() if number.split(".")[0] == cuda.split(".")[0]}
        default = cuda if cuda in same else None
        if default is None and version >= Version("0.50"):
            lower = [number for number in same if dotted(number) < dotted(cuda)]
            default = max(lower, key=dotted) if lower else min(same, key=dotted, default=None)
        for number, row in same.items():
            override = None if number == default else number.replace(".", "")
            if override and version == Version("0.40.1"):  # its variable has another name
                continue
            own = [code([*row["sass"], *row["ptx"]], gpu, self.ptx_compiles(number)) for gpu in case.gpus]
            if None in torch or None in own or not self.libc(row["glibc"]):
                continue
            if not self.bad(build, wheel, row["name"], override):
                key = self.key(build, wheel, "ptx" in (*torch, *own), override is not None)
                yield Found(key, build, wheel, row["name"], override)

    def key(self, build: dict[str, Any], wheel: dict[str, Any], ptx: bool, override: bool) -> tuple[Any, ...]:
        kind = 1 if build["cuda"] and not self.case.cuda else 0
        release = Version(wheel["version"])
        bitsandbytes = [-part for part in (*release.release, release.post or 0)]
        torch = [-part for part in Version(build["version"]).release]
        level = -LEVELS.index(build["evidence"]["level"])
        return (kind, ptx, override, bitsandbytes, torch, level, build["source"] != "default-index")

    def bad(self, build: dict[str, Any], wheel: dict[str, Any], library: str, override: str | None) -> bool:
        return any(
            row.get("refuses", True) and self.concerns(row, build, wheel, library, override)
            for row in self.tables.advisories
        )

    def concerns(
        self, row: dict[str, Any], build: dict[str, Any], wheel: dict[str, Any], library: str, override: str | None
    ) -> bool:
        cuda, gpus = build["cuda"] or "", self.case.gpus if self.case.cuda else ()
        conditions = {
            "bitsandbytes": lambda want: admits(want, wheel["version"]),
            "torch": lambda want: admits(want, build["version"]),
            "triton": lambda want: bool(build.get("triton")) and admits(want, build["triton"]),
            "torch_cuda": lambda want: any(f"{cuda}.".startswith(f"{number}.") for number in want),
            "libraries": lambda want: any(fnmatchcase(library, name) for name in want),
            "glibc_below": lambda want: self.case.os == "linux" and dotted(self.case.glibc) < dotted(want),
            "capability": lambda want: any(admits(want, gpu) for gpu in gpus),
            "os": lambda want: self.case.os in want,
            "override": lambda want: want == (override is not None),
        }
        return all(holds(row[name]) for name, holds in conditions.items() if name in row)


def cuda_of(library: str) -> str:
    digits = library.split("_cuda")[1].split(".")[0].removesuffix("_nocublaslt")
    return f"{digits[:-1]}.{digits[-1]}"


def kept_row(row: dict[str, Any]) -> dict[str, Any]:
    """A build of the tables as if it were there, for Python 3.12."""
    return {**row, "pythons": ["cp312"], "index": None, "libc_tag": None, "requires_python": None}


@pytest.fixture(scope="session")
def search() -> Callable[[Case], Search]:
    """The search for a case."""
    tables = read_tables()
    return lambda case: Search(tables, case)
