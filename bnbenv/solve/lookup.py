"""What to show of the matrix: a release, a GPU, a platform; and the rows that are concerned. Pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from msgspec.structs import replace

from bnbenv.decode import shown
from bnbenv.errors import UsageError
from bnbenv.facts.model import Driver, Gpu, HostFacts, Platform
from bnbenv.matrix.model import Advisory, BitsandbytesWheel, GpuArch, Matrix, PackageFile, TorchBuild
from bnbenv.solve.coverage import ptx_for, sass_for
from bnbenv.solve.model import Availability, Request
from bnbenv.solve.pairs import library_cuda, loadable, loader_of
from bnbenv.solve.situation import situate
from bnbenv.solve.versions import admits, public, read_specifier

Project = str  # bitsandbytes, torch, or a package of another family
Code = Literal["sass", "ptx"]

_RELEASE = re.compile(r"([a-z][a-z0-9._-]*)?\s*(.*)", re.IGNORECASE)
_ARCH = re.compile(r"(?:sm_?|compute_?)?(\d{1,3})[af]?", re.IGNORECASE)
_CAPABILITY = re.compile(r"\d{1,2}\.\d")
_BRANDS = frozenset({"nvidia", "geforce", "tesla", "quadro"})


@dataclass(frozen=True)
class Wanted:
    """What is asked about; all that is set has to hold. ``spec`` is a specifier, ``platform`` (os, machine)."""

    project: Project | None = None
    spec: str = "*"
    arch: GpuArch | None = None
    platform: tuple[str, str] | None = None


def capability(arch: GpuArch) -> tuple[int, int]:
    """The compute capability as numbers."""
    major, minor = arch.compute_capability.split(".")
    return int(major), int(minor)


def read_release(text: str, matrix: Matrix) -> tuple[Project, str]:
    """``0.50.2``, ``0.50``, ``torch==2.9.1``, ``torch`` or ``gptqmodel`` as a project and a specifier.

    Raises UsageError, with what is near, for what the matrix has no row of; InputError for what cannot be read.
    """
    match = _RELEASE.fullmatch(text.strip())
    name, rest = (match[1], match[2].strip()) if match else (None, text.strip())
    project: Project = re.sub(r"[._-]+", "-", name).lower() if name else "bitsandbytes"
    known = projects(matrix)
    if project not in known or (name is None and not re.match(r"[0-9<>=!~]", rest)):
        message = f"the matrix has no {shown(text.strip())}: it has {', '.join(known[:-1])} and {known[-1]}"
        raise UsageError("unknown-project", message, "Such as: bnbenv matrix show torch==2.9.1")
    spec = read_specifier(rest.removeprefix("==") if re.match("==[0-9]", rest) else rest, "matrix show", "")
    if any(admits(spec, version) for version in versions(matrix, project)):
        return project, spec
    if name is None and any(admits(spec, version) for version in versions(matrix, "torch")):
        step = f"Did you mean: bnbenv matrix show torch{'==' if rest[0].isdigit() else ''}{rest}"
        raise UsageError("unknown-version", f"the matrix has no bitsandbytes {shown(rest)}", step)
    raise UsageError(
        "unknown-version", f"the matrix has no {project} {shown(rest)}", _near_versions(rest, project, matrix)
    )


def _near_versions(text: str, project: Project, matrix: Matrix) -> str:
    known = versions(matrix, project)
    near = difflib.get_close_matches(text.lstrip("=<>~! "), known, 3, 0.6) or known[-3:][::-1]
    return f"It has {', '.join(near)}, and {len(known) - len(near)} others: {known[0]} to {known[-1]}."


def projects(matrix: Matrix) -> list[Project]:
    """All that can be asked about."""
    return ["bitsandbytes", "torch", *dict.fromkeys(row.name for row in matrix.packages)]


def versions(matrix: Matrix, project: Project) -> list[str]:
    """All versions of a project, oldest first, without local parts."""
    rows: Iterable[BitsandbytesWheel | TorchBuild | PackageFile] = matrix.torch
    if project != "torch":
        files = [row for row in matrix.packages if row.name == project]
        rows = matrix.bitsandbytes if project == "bitsandbytes" else files
    return [str(one) for one in sorted({public(row.version) for row in rows})]


def read_platform(text: str, matrix: Matrix) -> tuple[str, str]:
    """``linux-x86_64``. Raises UsageError for a platform that the matrix has no row of."""
    rows: tuple[BitsandbytesWheel | TorchBuild, ...] = (*matrix.bitsandbytes, *matrix.torch)
    known = sorted({(row.os, row.machine) for row in rows})
    for one in known:
        if "-".join(one) == text.strip().lower():
            return one
    names = ["-".join(one) for one in known]
    raise UsageError("unknown-platform", f"the matrix has no platform {shown(text)}", f"It has {', '.join(names)}.")


def find_arch(text: str, matrix: Matrix) -> GpuArch:
    """The architecture that is meant by ``sm_120``, ``12.0``, ``RTX 5090`` or ``Hopper``.

    Raises UsageError, with what is near, for an unknown GPU and for a name that several have.
    """
    by_number = _by_number(text.strip(), matrix)
    if by_number is not None:
        return by_number
    words = _words(text)
    exact = {row.arch: row for row in matrix.archs if any(_words(product) == words for product in row.products)}
    if len(exact) == 1:
        return next(iter(exact.values()))
    meant = {row.arch: (row, row.generation) for row in matrix.archs if row.generation.lower() == text.strip().lower()}
    model = set(words) - _BRANDS
    meant = meant or {
        row.arch: (row, product)
        for row in matrix.archs
        for product in row.products
        if model and model <= set(_words(product))
    }
    if len(meant) == 1:
        return next(iter(meant.values()))[0]
    if meant:
        found = ", ".join(f"{product} ({arch})" for arch, (_, product) in meant.items())
        raise UsageError("ambiguous-gpu", f"{shown(text)} may be {found}", "Name one of them, or its sm_XX.")
    raise UsageError("unknown-gpu", f"the matrix has no GPU {shown(text)}", _near_gpus(text, matrix))


def _by_number(text: str, matrix: Matrix) -> GpuArch | None:
    match = _ARCH.fullmatch(text)
    arch = f"sm_{match[1]}" if match and (text[0].isalpha() or len(match[1]) < 4) else None
    number = text if _CAPABILITY.fullmatch(text) else None
    return next((row for row in matrix.archs if row.arch == arch or row.compute_capability == number), None)


def _words(name: str) -> tuple[str, ...]:
    """A product's name as words in lower case, without the vendor."""
    return tuple(word for word in re.findall(r"[a-z0-9]+", name.lower()) if word != "nvidia")


def _near_gpus(text: str, matrix: Matrix) -> str:
    plain = {" ".join(_words(product)): product for row in matrix.archs for product in row.products}
    short = {" ".join(word for word in name.split() if word not in _BRANDS): name for name in plain}
    near = difflib.get_close_matches(" ".join(_words(text)), [*plain, *short], 3, 0.6)
    names = list(dict.fromkeys(plain[short.get(name, name)] for name in near))
    if names:
        return f"Did you mean: {' or '.join(names)}"
    return f"Give its compute capability or one of {', '.join(row.arch for row in matrix.archs)}."


def runs_on(arch: GpuArch, targets: tuple[str, ...]) -> Code | None:
    """Whether targets run on an architecture natively, by PTX that a driver compiles, or not at all."""
    if sass_for(capability(arch), targets):
        return "sass"
    return "ptx" if ptx_for(capability(arch), targets) else None


def libraries_for(arch: GpuArch, matrix: Matrix) -> list[tuple[BitsandbytesWheel, dict[str, Code]]]:
    """The wheels of which something runs on an architecture, and what runs of each library that may be loaded there."""
    gpu = Gpu(0, "", arch.arch, arch.compute_capability, 0)
    host = HostFacts(Platform("linux", "x86_64"), Driver("ok"), (gpu,))
    situation = situate(host, matrix, Request(), Availability(), managed=False)
    found = []
    for wheel in matrix.bitsandbytes:
        loader = loader_of(matrix, wheel)
        libraries = loadable(situation, loader, wheel) if loader else wheel.libraries
        kinds = {one.name: kind for one in libraries if (kind := runs_on(arch, (*one.sass, *one.ptx)))}
        if kinds:
            found.append((wheel, kinds))
    return found


def narrowed(matrix: Matrix, wanted: Wanted) -> Matrix:
    """The rows that are concerned; all of them where nothing is asked. May be without wheels and builds."""
    wheels, builds, files = matrix.bitsandbytes, matrix.torch, matrix.packages
    if wanted.platform is not None:
        system, machine = wanted.platform
        files = tuple(row for row in files if row.os in (None, system) and row.machine in (None, machine))
        wheels = tuple(row for row in wheels if (row.os, row.machine) == wanted.platform)
        builds = tuple(row for row in builds if (row.os, row.machine) == wanted.platform)
    if wanted.project is not None:
        is_torch, is_wheel = wanted.project == "torch", wanted.project == "bitsandbytes"
        wheels = tuple(row for row in wheels if admits(wanted.spec, row.version)) if is_wheel else ()
        builds = tuple(row for row in builds if admits(wanted.spec, row.version)) if is_torch else ()
        files = tuple(row for row in files if row.name == wanted.project and admits(wanted.spec, row.version))
    arch = wanted.arch
    if arch is not None:
        wheels = tuple(wheel for wheel, _ in libraries_for(arch, replace(matrix, bitsandbytes=wheels)))
        builds = tuple(row for row in builds if runs_on(arch, row.arch_list))
        files = tuple(row for row in files if any(runs_on(arch, (*one.sass, *one.ptx)) for one in row.libraries))
    about = tuple(
        one
        for one in matrix.package_advisories
        if any(row.name == one.package and admits(one.versions, row.version, pre=True) for row in files)
    )
    rows = replace(matrix, bitsandbytes=wheels, torch=builds, packages=files, package_advisories=about)
    advisories = tuple(one for one in matrix.advisories if concerns(one, rows, wanted))
    if wanted.project is None and arch is None:
        return replace(rows, advisories=advisories)
    return replace(_around(rows, wanted), advisories=advisories)


def _around(rows: Matrix, wanted: Wanted) -> Matrix:
    """What stands beside some wheels and builds: drivers, toolkits, architectures, loaders, families, sources."""
    arch = wanted.arch
    kernels = [one for row in rows.packages for one in row.libraries]
    libraries = [*(one for row in rows.bitsandbytes for one in row.libraries), *kernels]
    cudas = {library_cuda(one) for one in libraries if one.backend == "cuda"} | {build.cuda for build in rows.torch}
    targets = {name for one in libraries for name in (*one.sass, *one.ptx)}
    targets |= {name for build in rows.torch for name in build.arch_list}
    numbers = {re.sub("[^0-9]", "", name) for name in targets}
    released = {row.version for row in rows.bitsandbytes}
    toolkits = tuple(row for row in rows.toolkits if row.cuda in cudas)
    if arch is not None:
        toolkits = tuple(row for row in rows.toolkits if sass_for(capability(arch), row.sass))
    return replace(
        rows,
        loaders=tuple(
            rule for rule in rows.loaders if any(admits(rule.versions, row.version) for row in rows.bitsandbytes)
        ),
        drivers=tuple(row for row in rows.drivers if row.cuda in cudas),
        archs=(arch,) if arch else tuple(row for row in rows.archs if row.arch.removeprefix("sm_") in numbers),
        toolkits=toolkits,
        families=tuple(row for row in rows.families if wanted.project in row.packages),
        source_releases=tuple(row for row in rows.source_releases if row.version in released),
    )


def concerns(advisory: Advisory, rows: Matrix, wanted: Wanted) -> bool:
    """Whether a known-bad combination may touch what is asked about; conditions on other things stay open."""
    if wanted.platform is not None and advisory.os and wanted.platform[0] not in advisory.os:
        return False
    if wanted.arch is not None:
        cc = wanted.arch.compute_capability
        if advisory.capability is not None and not admits(advisory.capability, cc):
            return False
        if advisory.capability is None and wanted.project is None:
            return False
    if wanted.project == "bitsandbytes":
        return any(_touches(advisory, row) for row in rows.bitsandbytes)
    if wanted.project == "torch":
        conditions = bool(advisory.torch or advisory.torch_cuda)
        return conditions and any(_touches_torch(advisory, build) for build in rows.torch)
    return wanted.project is None


def _touches(advisory: Advisory, row: BitsandbytesWheel) -> bool:
    if advisory.bitsandbytes is not None and not admits(advisory.bitsandbytes, row.version):
        return False
    if advisory.os and row.os not in advisory.os:
        return False
    names = [library.name for library in row.libraries]
    return not advisory.libraries or any(fnmatchcase(name, one) for name in names for one in advisory.libraries)


def _touches_torch(advisory: Advisory, build: TorchBuild) -> bool:
    if advisory.torch is not None and not admits(advisory.torch, build.version):
        return False
    if not advisory.torch_cuda:
        return True
    return build.cuda is not None and any(
        build.cuda == one or build.cuda.startswith(f"{one}.") for one in advisory.torch_cuda
    )
