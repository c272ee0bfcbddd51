"""Source builds of bitsandbytes: a release compiled for exactly the selected GPUs with the CUDA of torch. Pure.

Upstream's ``cmake -DCOMPUTE_BACKEND=cuda -DCOMPUTE_CAPABILITY=...`` names the library after its compiler's CUDA, which
the loader takes where that is torch's own. What a compiler can do is known from the matrix' toolkits; what a release
can be compiled for, from the oldest architecture in any library that was published of it.
"""

from __future__ import annotations

from bnbenv.facts.model import Gpu
from bnbenv.matrix.model import BitsandbytesWheel, Evidence, Matrix, NativeLibrary, Toolkit, TorchBuild
from bnbenv.solve.coverage import sass_for, target
from bnbenv.solve.model import Cover
from bnbenv.solve.pairs import Pairing, advise, fit_together, pairings, torch_code
from bnbenv.solve.rules import wheel_pythons
from bnbenv.solve.situation import Fails, Reason, Situation
from bnbenv.solve.versions import admits, public

# From here on the loader takes the library of torch's CUDA whatever the GPU, and cmake gives it that name.
_FIRST = public("0.45.0")


class SourceRelease(BitsandbytesWheel, frozen=True, kw_only=True):
    """The source of a release. It has no libraries yet; ``oldest`` is the lowest compute capability published of it."""

    oldest: tuple[int, int]


def source_releases(matrix: Matrix, system: str, machine: str) -> list[SourceRelease]:
    """The releases that can be compiled on a platform, the newest first; requirements as those of its wheels."""
    if system not in ("linux", "windows"):
        return []
    rows: dict[str, BitsandbytesWheel] = {}
    oldest: dict[str, tuple[int, int]] = {}
    for wheel in matrix.bitsandbytes:
        if wheel.version not in rows or (wheel.os, wheel.machine) == (system, machine):
            rows[wheel.version] = wheel
        known = [oldest[wheel.version]] if wheel.version in oldest else []
        archs = [*known, *_capabilities(wheel)]
        if archs:
            oldest[wheel.version] = min(archs)
    return [
        _release(row, system, machine, oldest[version])
        for version, row in sorted(rows.items(), key=lambda item: public(item[0]), reverse=True)
        if version in oldest and public(version) >= _FIRST
    ]


def _capabilities(wheel: BitsandbytesWheel) -> list[tuple[int, int]]:
    codes = (target(name) for library in wheel.libraries if library.backend == "cuda" for name in library.sass)
    return [(code.major, code.minor) for code in codes if code is not None]


def _release(row: BitsandbytesWheel, system: str, machine: str, oldest: tuple[int, int]) -> SourceRelease:
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
        evidence=Evidence("declared", f"the source of bitsandbytes {row.version}, CMakeLists.txt", row.evidence.date),
        oldest=oldest,
    )


def release_fails(situation: Situation, release: SourceRelease) -> Fails:
    """What stands against compiling a release here, whatever torch is."""
    fails: Fails = {}
    source = release.evidence.source
    wish = situation.request.bitsandbytes
    if situation.backend == "cpu":
        because = "a source build is for GPUs: published wheels hold the library for the CPU"
        fails["build"] = Reason(because, "the request")
    if not admits(wish, release.version):
        fails["bitsandbytes-wish"] = Reason(f"bitsandbytes {wish} was asked for", "the request")
    if not wheel_pythons(situation, release):
        because = f"bitsandbytes {release.version} is for Python {release.requires_python}, and none here is"
        fails["python"] = Reason(because, source)
    for gpu in situation.gpus:
        if gpu.capability < release.oldest:
            oldest = "sm_{}{}".format(*release.oldest)
            because = f"the source of bitsandbytes {release.version} is for {oldest} and newer; {_named(gpu)} is older"
            fails[f"build-arch[{gpu.index}]"] = Reason(because, source)
    return fails


def paired(situation: Situation, matrix: Matrix, build: TorchBuild, wheel: BitsandbytesWheel) -> list[Pairing]:
    """A torch build with a wheel, in each way that the wheel's loader knows; or with a release compiled for it."""
    if isinstance(wheel, SourceRelease):
        return [_compiled(situation, matrix, build, wheel)]
    return pairings(situation, matrix, build, wheel)


def _compiled(situation: Situation, matrix: Matrix, build: TorchBuild, release: SourceRelease) -> Pairing:
    fails, python = fit_together(situation, build, release)
    if build.cuda is None or situation.backend == "cpu":
        fails.setdefault("torch-cuda", Reason("a source build is for a CUDA build of torch", build.evidence.source))
        return Pairing(build, release, None, None, python, (), fails)
    toolkit = toolkit_of(matrix, build.cuda)
    if toolkit is None:
        because = f"the matrix does not say what the compiler of CUDA {build.cuda} can compile"
        fails["toolkit"] = Reason(because, "the matrix")
        return Pairing(build, release, None, None, python, (), fails)
    plain = tuple(name for name in toolkit.sass if name[-1:].isdigit())
    codes: dict[int, str] = {}
    for gpu in situation.gpus:
        code = sass_for(gpu.capability, plain)
        if code is None:
            because = f"the compiler of CUDA {toolkit.cuda} cannot compile for {_named(gpu)}"
            fails[f"toolkit-arch[{gpu.index}]"] = Reason(because, toolkit.evidence.source)
        else:
            codes[gpu.index] = code
    library = _library(situation, toolkit, tuple(dict.fromkeys(codes.values())))
    covers = tuple(
        Cover(gpu.index, gpu.arch, torch_code(gpu, build), f"sass {codes[gpu.index]}")
        for gpu in situation.gpus
        if gpu.index in codes
    )
    advise(situation, matrix, build, release, library, None, fails)
    return Pairing(build, release, library, None, python, covers, fails)


def toolkit_of(matrix: Matrix, cuda: str) -> Toolkit | None:
    """The toolkit of a torch build's CUDA."""
    return next((row for row in matrix.toolkits if row.cuda == cuda), None)


def _library(situation: Situation, toolkit: Toolkit, sass: tuple[str, ...]) -> NativeLibrary:
    suffix = "dll" if situation.facts.platform.os == "windows" else "so"
    name = f"libbitsandbytes_cuda{toolkit.cuda.replace('.', '')}.{suffix}"
    return NativeLibrary(name=name, backend="cuda", sass=sass)


def _named(gpu: Gpu) -> str:
    return f"GPU {gpu.index} ({gpu.name}, {gpu.arch})"
