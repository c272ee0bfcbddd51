"""Source builds of bitsandbytes: a release compiled for exactly the selected GPUs with the CUDA of torch. Pure.

Upstream's ``cmake -DCOMPUTE_BACKEND=cuda -DCOMPUTE_CAPABILITY=...`` names the library after its compiler's CUDA, which
the loader takes where that is torch's own; one of another release of the same major by its rules, or with an override.
What a compiler can do is known from the matrix' toolkits; which CUDA a release takes, from its CMakeLists.txt; what it
can be compiled for, from the oldest architecture that its kernels name, else from what was published of it.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from bnbenv.facts.model import Gpu
from bnbenv.matrix.drivers import number
from bnbenv.matrix.model import BitsandbytesWheel, Evidence, Matrix, NativeLibrary, SourceTag, Toolkit, TorchBuild
from bnbenv.solve.coverage import sass_for, target
from bnbenv.solve.families import pair_set
from bnbenv.solve.model import Cover
from bnbenv.solve.package_sets import PackageSet
from bnbenv.solve.pairs import Pairing, advise, fit_together, loaded_library, loader_of, pairings, torch_code
from bnbenv.solve.rules import ASKED_NOW, label, wheel_pythons
from bnbenv.solve.situation import Fails, PythonOption, Reason, Situation
from bnbenv.solve.versions import admits, is_built, public

# From here on the loader takes the library of torch's CUDA whatever the GPU, and cmake gives it that name.
_FIRST = public("0.45.0")


class SourceRelease(BitsandbytesWheel, frozen=True, kw_only=True):
    """The source of a release. It has no libraries yet.

    ``oldest`` is the lowest compute capability that it is for; ``tag`` what was read in its source, or in that of the
    newest release before it of which that is known.
    """

    oldest: tuple[int, int]
    tag: SourceTag


def compiles_on(system: str) -> bool:
    """Whether bnbenv compiles on an operating system."""
    return system == "linux"


def source_releases(
    matrix: Matrix, system: str, machine: str, offered: frozenset[str] | None = None
) -> list[SourceRelease]:
    """The releases that can be compiled on a platform, the newest first; requirements as those of its wheels.

    ``offered`` are the versions of the source that is asked. Where the matrix knows none of them (a tree between two
    releases, a fork) each is taken to be as the newest release before it.
    """
    if not compiles_on(system):
        return []
    rows: dict[str, BitsandbytesWheel] = {}
    published: dict[str, list[BitsandbytesWheel]] = {}
    for wheel in matrix.bitsandbytes:
        if is_built(wheel.version) or public(wheel.version) < _FIRST:
            continue
        if wheel.version not in rows or (wheel.os, wheel.machine) == (system, machine):
            rows[wheel.version] = wheel
        published.setdefault(wheel.version, []).append(wheel)
    if offered and rows and not offered & rows.keys():
        for version in sorted((one for one in offered if public(one) >= _FIRST), key=public):
            before = [known for known in published if public(known) <= public(version)]
            like = max(before or published, key=public)
            rows[version], published[version] = msgspec.structs.replace(rows[like], version=version), published[like]
    tags = sorted(matrix.source_releases, key=lambda tag: public(tag.version), reverse=True)
    found = (
        (row, next((tag for tag in tags if public(tag.version) <= public(version)), None))
        for version, row in sorted(rows.items(), key=lambda item: public(item[0]), reverse=True)
    )
    return [
        _release(row, system, machine, oldest, tag)
        for row, tag in found
        if tag is not None and (oldest := _oldest(tag, published[row.version])) is not None
    ]


def _oldest(tag: SourceTag, published: list[BitsandbytesWheel]) -> tuple[int, int] | None:
    """The lowest compute capability that a source's kernels name, else of those published of it; None: of neither."""
    if tag.sass_min:
        names = {tag.sass_min}
    else:
        names = {
            name for one in published for library in one.libraries if library.backend == "cuda" for name in library.sass
        }
    codes = map(target, names)
    return min(((code.major, code.minor) for code in codes if code is not None), default=None)


def _release(
    row: BitsandbytesWheel, system: str, machine: str, oldest: tuple[int, int], tag: SourceTag
) -> SourceRelease:
    evidence = tag.evidence
    if tag.version != row.version:
        said = f"the source of bitsandbytes {row.version}, taken to be as that of {tag.version}: {evidence.source}"
        evidence = Evidence("declared", said, evidence.date)
    return SourceRelease(
        version=row.version,
        filename="",
        sha256="",
        size=0,
        os=system,
        machine=machine,
        libc_tag=None,
        requires_python=row.requires_python,
        requires_dist=row.requires_dist,
        libraries=(),
        evidence=evidence,
        oldest=oldest,
        tag=tag,
    )


def release_fails(situation: Situation, release: SourceRelease) -> Fails:
    """What stands against compiling a release here, whatever torch is."""
    fails: Fails = {}
    source = release.evidence.source
    wish, builds = situation.request.bitsandbytes, situation.availability.builds
    libc = situation.facts.platform.libc
    if libc is not None and libc.name != "glibc":
        because = f"a source build is for glibc, as torch is; this host has {libc.name} {libc.version}"
        fails["libc"] = Reason(because, "the facts")
    if situation.backend == "cpu":
        because = "a source build is for GPUs: published wheels hold the library for the CPU"
        fails["build"] = Reason(because, "the request")
    only = builds is not None and builds.releases == frozenset((release.version,))  # the source is this one tree
    if not admits(wish, release.version, pre=only):
        fails["bitsandbytes-wish"] = Reason(f"bitsandbytes {wish} was asked for", "the request")
    if not wheel_pythons(situation, release):
        because = f"bitsandbytes {release.version} is for Python {release.requires_python}, and none here is"
        fails["python"] = Reason(because, source)
    if builds is not None and builds.releases is not None and release.version not in builds.releases:
        because = builds.no_source or f"the source that is asked has no bitsandbytes {release.version}"
        fails["build-source"] = Reason(f"bitsandbytes cannot be compiled here: {because}", ASKED_NOW)
    for gpu in situation.gpus:
        if gpu.capability < release.oldest:
            oldest = "sm_{}{}".format(*release.oldest)
            because = f"the source of bitsandbytes {release.version} is for {oldest} and newer; {_named(gpu)} is older"
            fails[f"build-arch[{gpu.index}]"] = Reason(because, source)
    return fails


def paired(situation: Situation, matrix: Matrix, build: TorchBuild, wheel: BitsandbytesWheel) -> list[Pairing]:
    """A torch build with a wheel, in each way that the wheel's loader knows; or with a release compiled for it; or
    with packages of another family."""
    if isinstance(wheel, PackageSet):
        return [pair_set(situation, matrix, build, wheel)]
    if isinstance(wheel, SourceRelease):
        return _compiled(situation, matrix, build, wheel)
    return pairings(situation, matrix, build, wheel)


def _compiled(situation: Situation, matrix: Matrix, build: TorchBuild, release: SourceRelease) -> list[Pairing]:
    """By the toolkit of torch's CUDA or, where that cannot be had here, by each other one of its major."""
    fails, python = fit_together(situation, build, release)
    if build.cuda is None or situation.backend == "cpu":
        fails.setdefault("torch-cuda", Reason("a source build is for a CUDA build of torch", build.evidence.source))
        return [Pairing(build, release, None, None, python, (), fails)]
    toolkits = _toolkits(situation, matrix, build.cuda, fails)
    if not toolkits:
        return [Pairing(build, release, None, None, python, (), fails)]
    return [_by_toolkit(situation, matrix, build, release, toolkit, python, fails) for toolkit in toolkits]


def _toolkits(situation: Situation, matrix: Matrix, cuda: str, fails: Fails) -> list[Toolkit]:
    """The toolkits that may compile for a torch of a CUDA release, the preferred first; adds why there is none."""
    rows = {row.cuda: row for row in matrix.toolkits}
    builds = situation.availability.builds
    unknown = f"the matrix does not say what the compiler of CUDA {cuda} can compile"
    if builds is None:
        if cuda not in rows:
            fails["toolkit"] = Reason(unknown, "the matrix")
        return [rows[cuda]] if cuda in rows else []
    had = [other for other, why in builds.toolkits.items() if not why and other in rows]
    if cuda in had:
        return [rows[cuda]]
    found = _nearest((other for other in had if number(other)[:1] == number(cuda)[:1]), cuda)
    if not found:
        none = f"no toolkit of CUDA {cuda} is within reach" if cuda in rows else unknown
        why = builds.toolkits.get(cuda) or none
        because = f"bitsandbytes cannot be compiled here for a torch of CUDA {cuda}: {why}"
        fails["build-toolkit"] = Reason(because, ASKED_NOW)
    return [rows[other] for other in found]


def _nearest(releases: Iterable[str], cuda: str) -> list[str]:
    """Those not above a CUDA release, the highest first; then those above it, the lowest first."""
    known = sorted(releases, key=number)
    below = [release for release in reversed(known) if number(release) <= number(cuda)]
    return below + [release for release in known if number(release) > number(cuda)]


def _by_toolkit(
    situation: Situation,
    matrix: Matrix,
    build: TorchBuild,
    release: SourceRelease,
    toolkit: Toolkit,
    python: PythonOption | None,
    common: Fails,
) -> Pairing:
    fails, tag = dict(common), release.tag
    if not number(tag.cuda_min) <= number(toolkit.cuda) < number(tag.cuda_end):
        because = f"the source of bitsandbytes {release.version} is for CUDA {tag.cuda_min} and newer, before "
        because += f"{tag.cuda_end}; {label(build)} needs CUDA {toolkit.cuda}"
        fails["build-cuda"] = Reason(because, release.evidence.source)
    plain = tuple(name for name in toolkit.sass if name[-1:].isdigit())
    codes: dict[int, str] = {}
    for gpu in situation.gpus:
        code = sass_for(gpu.capability, plain)
        if code is None:
            because = f"the compiler of CUDA {toolkit.cuda} cannot compile for {_named(gpu)}"
            fails[f"toolkit-arch[{gpu.index}]"] = Reason(because, toolkit.evidence.source)
        else:
            codes[gpu.index] = code
    library = _library(toolkit, tuple(dict.fromkeys(codes.values())))
    covers = tuple(
        Cover(gpu.index, gpu.arch, torch_code(gpu, build), f"sass {codes[gpu.index]}")
        for gpu in situation.gpus
        if gpu.index in codes
    )
    override = _override(matrix, release, library, build, fails)
    advise(situation, matrix, build, release, library, override, fails)
    return Pairing(build, release, library, override, python, covers, fails)


def _override(
    matrix: Matrix, release: SourceRelease, library: NativeLibrary, build: TorchBuild, fails: Fails
) -> str | None:
    """The variable that makes the loader take the one library that there will be; None where it takes it by itself."""
    loader = loader_of(matrix, release)
    if loader is None:
        fails["loader"] = Reason(f"the matrix does not say what bitsandbytes {release.version} loads", "the matrix")
        return None
    if loaded_library(loader, [library], build.cuda or "") is not None:
        return None
    if loader.override is None:
        because = f"bitsandbytes {release.version} does not load {library.name} with a torch of CUDA {build.cuda}"
        fails["loader"] = Reason(because, loader.source)
    return loader.override


def toolkit_of(matrix: Matrix, cuda: str) -> Toolkit | None:
    """The toolkit of a CUDA release."""
    return next((row for row in matrix.toolkits if row.cuda == cuda), None)


def _library(toolkit: Toolkit, sass: tuple[str, ...]) -> NativeLibrary:
    name = f"libbitsandbytes_cuda{toolkit.cuda.replace('.', '')}.so"
    return NativeLibrary(name=name, backend="cuda", sass=sass)


def _named(gpu: Gpu) -> str:
    return f"GPU {gpu.index} ({gpu.name}, {gpu.arch})"
