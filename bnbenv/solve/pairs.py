"""The rules on a torch build and a wheel together: the library that is loaded, and what it runs on. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from bnbenv.facts.model import Gpu
from bnbenv.matrix import native
from bnbenv.matrix.drivers import at_least, number
from bnbenv.matrix.model import Advisory, BitsandbytesWheel, LoaderRule, Matrix, NativeLibrary, TorchBuild
from bnbenv.solve.coverage import ptx_for, sass_for
from bnbenv.solve.model import Cover
from bnbenv.solve.package_sets import PackageSet
from bnbenv.solve.rules import compiles_ptx, label, ptx_need, torch_pythons, wheel_pythons
from bnbenv.solve.situation import Fails, PythonOption, Reason, Situation
from bnbenv.solve.versions import admits, release, requirement_on

_TWIN = "_nocublaslt."  # in the name of a library for GPUs that cuBLASLt does not serve
_CUBLASLT = (7, 5)  # the first compute capability that it serves


@dataclass(frozen=True)
class Pairing:
    """One torch build with one wheel: the library that is loaded, and what still stands against it."""

    torch: TorchBuild
    wheel: BitsandbytesWheel
    library: NativeLibrary | None
    override: str | None
    python: PythonOption | None
    covers: tuple[Cover, ...]
    fails: Fails

    @property
    def uses_ptx(self) -> bool:
        return any("ptx" in (one.torch[:3], one.bitsandbytes[:3], one.kernels[:3]) for one in self.covers)


def pairings(situation: Situation, matrix: Matrix, build: TorchBuild, wheel: BitsandbytesWheel) -> list[Pairing]:
    """A pair as the loader would have it and, where that does not give SASS for all GPUs, with each override."""
    fails, python = fit_together(situation, build, wheel)
    loader = loader_of(matrix, wheel)
    if loader is None:
        fails["loader"] = Reason(f"the matrix does not say what bitsandbytes {wheel.version} loads", "the matrix")
        return [Pairing(build, wheel, None, None, python, (), fails)]
    if situation.backend == "cpu" or build.cuda is None:
        return [_cpu_pairing(situation, matrix, build, wheel, python, fails)]
    libraries = loadable(situation, loader, wheel)
    if loader.rule == "libcudart":
        fails.update(_by_search_path(situation, matrix, wheel, loader))
        advise(situation, matrix, build, wheel, None, None, fails)
        return [Pairing(build, wheel, None, None, python, (), fails)]
    default = loaded_library(loader, libraries, build.cuda)
    if default is None:
        against = _no_library(situation, build, wheel, libraries)
        advise(situation, matrix, build, wheel, None, None, against)
        first = Pairing(build, wheel, None, None, python, (), {**fails, **against})
    else:
        first = _pairing(situation, matrix, build, wheel, default, None, python, fails)
    if (not first.fails and not first.uses_ptx) or loader.override is None:
        return [first]
    major = build.cuda.split(".")[0]
    others = [lib for lib in libraries if lib is not default and library_cuda(lib).split(".")[0] == major]
    named = [_pairing(situation, matrix, build, wheel, lib, loader.override, python, fails) for lib in others]
    # Where the loader finds nothing by itself, what stands against the libraries it could be told to take says more.
    return named if default is None and named else [first, *named]


def fit_together(
    situation: Situation, build: TorchBuild, wheel: BitsandbytesWheel
) -> tuple[Fails, PythonOption | None]:
    """What the requirements of a pair have against it, whatever is loaded, and the Python for both."""
    fails: Fails = {}
    spec = requirement_on("torch", wheel.requires_dist)
    if spec and not admits(spec, build.version, pre=build.source == "existing"):
        because = f"bitsandbytes {wheel.version} requires torch{spec}, which {build.version} is not"
        fails["torch-requirement"] = Reason(because, wheel.filename or wheel.evidence.source)
    minors = wheel_pythons(situation, wheel)
    python = next((option for option in torch_pythons(situation, build) if option.minor in minors), None)
    if python is None:
        because = f"no Python fits both {label(build)} and bitsandbytes {wheel.version}"
        fails["python"] = Reason(because, wheel.filename or wheel.evidence.source)
    return fails, python


def loadable(situation: Situation, loader: LoaderRule, wheel: BitsandbytesWheel) -> list[NativeLibrary]:
    """The CUDA libraries among which the loader looks: all twins where the highest GPU is below 7.5, else none.

    Where a libcudart decides, so does another GPU: any of them.
    """
    twins = loader.nocublaslt and max((gpu.capability for gpu in situation.gpus), default=_CUBLASLT) < _CUBLASLT
    either = loader.rule == "libcudart"
    return [one for one in wheel.libraries if one.backend == "cuda" and (either or (_TWIN in one.name) == twins)]


def _by_search_path(situation: Situation, matrix: Matrix, wheel: BitsandbytesWheel, loader: LoaderRule) -> Fails:
    """Against a version that looks for a libcudart where torch's own does not lie; what it finds the facts do not tell.

    Where it finds none, it loads its CPU library.
    """
    because = f"bitsandbytes {wheel.version} loads what fits a libcudart on the host's search paths, not torch's CUDA"
    bare = Reason(f"no library that bitsandbytes {wheel.version} may load has code for this GPU", wheel.filename)
    archs = (rule for rule in with_any_torch(situation, matrix, wheel) if rule.startswith("library-arch"))
    return {
        **dict.fromkeys(archs, bare),
        "loader": Reason(f"{because}; what it would load here is unknown", loader.source),
    }


def library_cuda(library: NativeLibrary) -> str:
    """The CUDA version in a library's name: ``libbitsandbytes_cuda128.so`` -> ``12.8``."""
    return native.library_cuda(library.name) or ""


def loader_of(matrix: Matrix, wheel: BitsandbytesWheel) -> LoaderRule | None:
    """The row about what a bitsandbytes version loads, or None."""
    return loader_for(matrix, wheel.version)


def loader_for(matrix: Matrix, version: str) -> LoaderRule | None:
    """The row about what a bitsandbytes version loads, or None."""
    return next((rule for rule in matrix.loaders if admits(rule.versions, release(version))), None)


def loaded_library(loader: LoaderRule, libraries: list[NativeLibrary], cuda: str) -> NativeLibrary | None:
    """What the loader takes of the libraries for ``torch.version.cuda``, or None where it finds nothing."""
    by_cuda = {number(library_cuda(library)): library for library in libraries}
    wanted = number(cuda)[:2]
    if wanted in by_cuda or loader.rule != "same-major":
        return by_cuda.get(wanted)
    same = [version for version in by_cuda if version[:1] == wanted[:1]]
    lower = [version for version in same if version < wanted]
    higher = [version for version in same if version > wanted]
    best = max(lower) if lower else min(higher) if higher else None
    return by_cuda[best] if best else None


def _cpu_pairing(
    situation: Situation,
    matrix: Matrix,
    build: TorchBuild,
    wheel: BitsandbytesWheel,
    python: PythonOption | None,
    fails: Fails,
) -> Pairing:
    library = next((library for library in wheel.libraries if library.backend == "cpu"), None)
    fails = dict(fails)
    if library is None:
        fails["loader"] = Reason(f"bitsandbytes {wheel.version} ships no CPU library here", wheel.filename)
    else:
        _library_libc(situation, wheel, library, fails)
        advise(situation, matrix, build, wheel, library, None, fails)
    return Pairing(build, wheel, library, None, python, (), fails)


def _no_library(
    situation: Situation, build: TorchBuild, wheel: BitsandbytesWheel, libraries: list[NativeLibrary]
) -> Fails:
    """The loader finds nothing for torch's CUDA, and no library is no code either."""
    have = " ".join(library_cuda(one) for one in libraries) or "none"
    old = " and compute capability below 7.5" if any(_TWIN in one.name for one in libraries) else ""
    because = f"bitsandbytes {wheel.version} has no library for CUDA {build.cuda}{old}; it has {have}"
    reason = Reason(because, wheel.filename)
    return dict.fromkeys(("loader", *(f"library-arch[{gpu.index}]" for gpu in situation.gpus)), reason)


def _pairing(
    situation: Situation,
    matrix: Matrix,
    build: TorchBuild,
    wheel: BitsandbytesWheel,
    library: NativeLibrary,
    override: str | None,
    python: PythonOption | None,
    common: Fails,
) -> Pairing:
    fails = dict(common)
    codes, against = judge_library(situation, wheel, library)
    fails.update(against)
    covers = tuple(
        Cover(gpu.index, gpu.arch, torch_code(gpu, build), code)
        for gpu, code in zip(situation.gpus, codes, strict=True)
        if code is not None
    )
    advise(situation, matrix, build, wheel, library, override, fails)
    return Pairing(build, wheel, library, override, python, covers, fails)


def torch_code(gpu: Gpu, build: TorchBuild) -> str:
    """What of a torch build that covers a GPU runs on it."""
    sass = sass_for(gpu.capability, build.arch_list)
    return f"sass {sass}" if sass else f"ptx {ptx_for(gpu.capability, build.arch_list)}"


def judge_library(
    situation: Situation, wheel: BitsandbytesWheel, library: NativeLibrary
) -> tuple[tuple[str | None, ...], Fails]:
    """What of a library runs on each selected GPU, and what stands against it; the same for every torch build."""
    key = id(library)
    if key not in situation.memo:
        fails: Fails = {}
        codes = tuple(_library_code(situation, wheel, library, gpu, fails) for gpu in situation.gpus)
        _library_libc(situation, wheel, library, fails)
        situation.memo[key] = (codes, fails)
    return situation.memo[key]


def with_any_torch(situation: Situation, matrix: Matrix, wheel: BitsandbytesWheel) -> frozenset[str]:
    """The rules against a wheel that stand whatever torch is.

    No library has code for a GPU, or any may be loaded, or this host alone is enough for an advisory.
    """
    if isinstance(wheel, PackageSet):  # what stands against it whatever torch is, is found when it is judged alone
        return frozenset()
    rules = {
        f"advisory:{advisory.id}"
        for advisory in matrix.advisories
        if advisory.refuses and not _has_other_conditions(advisory) and _applies_to_wheel(situation, advisory, wheel)
    }
    loader = loader_of(matrix, wheel)
    libraries = loadable(situation, loader, wheel) if loader and situation.backend == "cuda" else []
    if loader is None or not libraries:
        return frozenset(rules)
    bare = {
        capability
        for capability in {gpu.capability for gpu in situation.gpus}
        if not any(sass_for(capability, one.sass) or ptx_for(capability, one.ptx) for one in libraries)
    }
    rules.update(f"library-arch[{gpu.index}]" for gpu in situation.gpus if gpu.capability in bare)
    return frozenset(rules | {"loader"} if loader.rule == "libcudart" else rules)


def _library_code(
    situation: Situation, wheel: BitsandbytesWheel, library: NativeLibrary, gpu: Gpu, fails: Fails
) -> str | None:
    sass = sass_for(gpu.capability, library.sass)
    if sass:
        return f"sass {sass}"
    what = f"{library.name} of bitsandbytes {wheel.version}"
    ptx = ptx_for(gpu.capability, library.ptx)
    if ptx is None:
        have = " ".join((*library.sass, *library.ptx)) or "nothing"
        because = f"{what} has no code for GPU {gpu.index} ({gpu.name}, {gpu.arch}); it has {have}"
        fails[f"library-arch[{gpu.index}]"] = Reason(because, wheel.filename)
    elif compiles_ptx(situation, library_cuda(library)):
        return f"ptx {ptx}"
    else:
        need = ptx_need(situation, library_cuda(library))
        because = f"{what} has only PTX for GPU {gpu.index} ({gpu.arch}), {need}"
        fails[f"library-ptx[{gpu.index}]"] = Reason(because, wheel.filename)
    return None


def _library_libc(situation: Situation, wheel: BitsandbytesWheel, library: NativeLibrary, fails: Fails) -> None:
    """What the binary really needs, which a wheel's tag does not always say."""
    libc = situation.facts.platform.libc
    if libc is None or libc.name != "glibc" or library.glibc is None:
        return
    if not at_least(libc.version, library.glibc):
        because = f"{library.name} of bitsandbytes {wheel.version} needs GLIBC_{library.glibc}; "
        because += f"this host has {libc.version}"
        fails["library-libc"] = Reason(because, wheel.filename)


def advise(
    situation: Situation,
    matrix: Matrix,
    build: TorchBuild,
    wheel: BitsandbytesWheel,
    library: NativeLibrary | None,
    override: str | None,
    fails: Fails,
) -> None:
    """Add the first advisory that refuses a combination, if there is one; without a library, whatever is loaded."""
    for advisory in matrix.advisories:
        if advisory.refuses and applies(situation, advisory, build, wheel, library, override):
            fails[f"advisory:{advisory.id}"] = Reason(f"{advisory.summary} {advisory.remedy}", advisory.reference)
            return


def remarks(situation: Situation, matrix: Matrix, pairing: Pairing) -> list[Advisory]:
    """Advisories about some uses of a combination, which do not stand against it."""
    build, wheel, library = pairing.torch, pairing.wheel, pairing.library
    if library is None:
        return []
    notes = [advisory for advisory in matrix.advisories if not advisory.refuses]
    return [note for note in notes if applies(situation, note, build, wheel, library, pairing.override)]


def applies(
    situation: Situation,
    advisory: Advisory,
    build: TorchBuild,
    wheel: BitsandbytesWheel,
    library: NativeLibrary | None,
    override: str | None,
) -> bool:
    """Whether all conditions of a known-bad combination hold."""
    if not _applies_to_wheel(situation, advisory, wheel):
        return False
    if advisory.torch and not admits(advisory.torch, build.version, pre=True):
        return False
    if advisory.triton and not (build.triton and admits(advisory.triton, build.triton, pre=True)):
        return False
    if advisory.torch_cuda and not any(_cuda_is(build.cuda, wanted) for wanted in advisory.torch_cuda):
        return False
    if advisory.libraries and not (library and any(fnmatchcase(library.name, name) for name in advisory.libraries)):
        return False
    return advisory.override is None or advisory.override == (override is not None)


def _applies_to_wheel(situation: Situation, advisory: Advisory, wheel: BitsandbytesWheel) -> bool:
    """Whether the conditions on the version and the host hold."""
    libc = situation.facts.platform.libc
    if advisory.bitsandbytes and not admits(advisory.bitsandbytes, release(wheel.version)):
        return False
    if advisory.glibc_below and (libc is None or at_least(libc.version, advisory.glibc_below)):
        return False
    if advisory.os and situation.facts.platform.os not in advisory.os:
        return False
    return not advisory.capability or any(admits(advisory.capability, gpu.compute_capability) for gpu in situation.gpus)


def _has_other_conditions(advisory: Advisory) -> bool:
    return bool(advisory.torch or advisory.triton or advisory.torch_cuda or advisory.libraries) or (
        advisory.override is not None
    )


def _cuda_is(cuda: str | None, wanted: str) -> bool:
    return cuda is not None and (cuda == wanted or cuda.startswith(f"{wanted}."))
