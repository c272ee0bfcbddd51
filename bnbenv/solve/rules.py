"""The compatibility rules, each on one torch build, one bitsandbytes wheel, or a pair of them. Pure.

A rule that stands against a candidate adds its name and the reason; no entry means that it fits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bnbenv.facts.model import Gpu
from bnbenv.matrix.model import Advisory, BitsandbytesWheel, LoaderRule, Matrix, NativeLibrary, TorchBuild
from bnbenv.solve.coverage import ptx_for, sass_for
from bnbenv.solve.model import Cover
from bnbenv.solve.situation import DRIVER_RULES_SOURCE, Fails, PythonOption, Reason, Situation
from bnbenv.solve.versions import admits, at_least, number, requirement_on

LOADER_SOURCE = "the loader's source"


def source_key(build: TorchBuild) -> str:
    """How availability names where a torch build comes from: ``default-index``, ``pytorch-index/cu126``."""
    return f"{build.source}/{build.index}" if build.index else build.source


def label(build: TorchBuild) -> str:
    """A torch build for people: ``torch 2.15.0 (CUDA 13.2, default-index)``."""
    return f"torch {build.version} ({f'CUDA {build.cuda}' if build.cuda else 'CPU'}, {source_key(build)})"


def torch_fails(situation: Situation, build: TorchBuild) -> Fails:
    """Everything that stands against a torch build on this host, whatever bitsandbytes is."""
    fails: Fails = {}
    evidence = build.evidence.source
    _libc(situation, build.libc_tag, lambda: label(build), evidence, fails)
    if not admits(situation.request.torch, build.version):
        fails["torch-wish"] = Reason(f"torch {situation.request.torch} was asked for", "the request")
    if not torch_pythons(situation, build):
        fails["python"] = Reason(_python_reason(situation, label(build), build.pythons), evidence)
    _reachable(situation, build, fails)
    if situation.backend == "cuda":
        if build.cuda is None:
            fails["torch-cuda"] = Reason(f"{label(build)} has no CUDA", evidence)
        else:
            _driver_runs(situation, build.cuda, fails)
            for gpu in situation.gpus:
                _torch_covers(situation, build, gpu, fails)
    return fails


def _torch_covers(situation: Situation, build: TorchBuild, gpu: Gpu, fails: Fails) -> None:
    if sass_for(gpu.capability, build.arch_list):
        return
    ptx = ptx_for(gpu.capability, build.arch_list)
    if ptx and _compiles_ptx(situation, build.cuda or ""):
        return
    have = " ".join(build.arch_list) or "nothing"
    because = f"{label(build)} has no code for GPU {gpu.index} ({gpu.name}, {gpu.arch}); it has {have}"
    if ptx:
        because = f"{label(build)} has only PTX for GPU {gpu.index} ({gpu.arch}), {_ptx_need(situation, build.cuda)}"
    fails[f"torch-{'ptx' if ptx else 'arch'}[{gpu.index}]"] = Reason(because, build.evidence.source)


def _ptx_need(situation: Situation, cuda: str | None) -> str:
    row = situation.drivers.get(cuda or "")
    bundled = row and (row.bundled_windows if situation.windows_driver else row.bundled_linux)
    return f"which needs driver {bundled or f'of CUDA {cuda}'} or newer"


def _compiles_ptx(situation: Situation, cuda: str) -> bool:
    """Whether the driver can compile the PTX that a toolkit wrote: it must be as new as that toolkit."""
    row = situation.drivers.get(cuda)
    version = situation.driver.version
    if row is None or version is None:
        return situation.driver.cuda is not None and at_least(situation.driver.cuda, cuda)
    bundled = row.bundled_windows if situation.windows_driver else row.bundled_linux
    return bundled is not None and at_least(version, bundled)


def _driver_runs(situation: Situation, cuda: str, fails: Fails) -> None:
    """Minor-version compatibility: any driver of the CUDA major's family runs the SASS of all its releases."""
    major = cuda.split(".")[0]
    rows = [row for row in situation.drivers.values() if row.cuda.split(".")[0] == major]
    driver = situation.driver
    if not rows:
        fails["driver-cuda"] = Reason(f"no row says which driver CUDA {cuda} needs", "the matrix")
        return
    row = situation.drivers.get(cuda) or rows[0]
    need = row.family_min_windows if situation.windows_driver else row.family_min_linux
    if driver.version is not None:
        if not at_least(driver.version, need):
            because = f"CUDA {cuda} needs driver {need} or newer; this is {driver.version}"
            fails["driver-cuda"] = Reason(because, row.source)
    elif driver.cuda is None:
        because = f"the driver's version is unknown and CUDA {cuda} needs {need} or newer"
        fails["driver-cuda"] = Reason(because, row.source)
    elif int(driver.cuda.split(".")[0]) < int(major):
        because = f"CUDA {cuda} needs a driver for CUDA {major}; this one supports {driver.cuda}"
        fails["driver-cuda"] = Reason(because, DRIVER_RULES_SOURCE)


def _libc(situation: Situation, tag: str | None, what: Callable[[], str], source: str, fails: Fails) -> None:
    libc = situation.facts.platform.libc
    if tag is None or libc is None:
        return
    if libc.name != "glibc":
        fails["libc"] = Reason(f"{what()} is built for glibc; this host has {libc.name} {libc.version}", source)
    elif not at_least(libc.version, tag):
        fails["libc"] = Reason(f"{what()} is tagged for glibc {tag}; this host has {libc.version}", source)


def torch_pythons(situation: Situation, build: TorchBuild) -> tuple[PythonOption, ...]:
    """The interpreters that a torch build has wheels for, in the order of preference."""
    return tuple(
        option
        for option in situation.pythons
        if f"cp{option.minor.replace('.', '')}" in build.pythons
        and (build.requires_python is None or admits(build.requires_python, option.full))
    )


def _python_reason(situation: Situation, what: str, needs: tuple[str, ...] | str) -> str:
    needs = needs if isinstance(needs, str) else " ".join(needs)
    have = ", ".join(option.minor for option in situation.pythons)
    if not have:
        found = ", ".join(python.version for python in situation.facts.pythons) or "none"
        return f"no Python here fits {situation.request.python} (found: {found})"
    return f"{what} is for Python {needs}; there is {have}"


def _reachable(situation: Situation, build: TorchBuild, fails: Fails) -> None:
    key = source_key(build)
    reason = situation.availability.unreachable.get(key)
    offered = situation.availability.torch.get(key)
    if reason is not None:
        fails["reachable"] = Reason(f"{key} cannot be reached: {reason}", "asked just now")
    elif offered is not None and build.version not in offered:
        fails["reachable"] = Reason(f"{key} does not offer torch {build.version}", "asked just now")


def wheel_fails(situation: Situation, wheel: BitsandbytesWheel) -> Fails:
    """Everything that stands against a bitsandbytes wheel on this host, whatever torch is."""
    fails: Fails = {}
    what = f"bitsandbytes {wheel.version}"
    _libc(situation, wheel.libc_tag, lambda: what, wheel.filename, fails)
    if not admits(situation.request.bitsandbytes, wheel.version):
        wish = situation.request.bitsandbytes
        fails["bitsandbytes-wish"] = Reason(f"bitsandbytes {wish} was asked for", "the request")
    if not wheel_pythons(situation, wheel):
        reason = _python_reason(situation, what, wheel.requires_python or "*")
        fails["python"] = Reason(reason, wheel.filename)
    offered = situation.availability.bitsandbytes
    if offered is not None and wheel.filename not in offered:
        fails["reachable"] = Reason(f"no source here offers {wheel.filename}", "asked just now")
    if situation.facts.platform.jetson and situation.backend == "cuda":
        release = situation.facts.platform.jetson
        because = f"Jetson with L4T {release} is not the server kind of aarch64: wheels do not run there"
        fails["jetson"] = Reason(because, "bitsandbytes installation guide")
    return fails


def wheel_pythons(situation: Situation, wheel: BitsandbytesWheel) -> frozenset[str]:
    """The minors of the interpreters that a wheel admits."""
    spec = wheel.requires_python
    return frozenset(o.minor for o in situation.pythons if spec is None or admits(spec, o.full))


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
        return any("ptx" in (cover.torch[:3], cover.bitsandbytes[:3]) for cover in self.covers)


def pairings(situation: Situation, matrix: Matrix, build: TorchBuild, wheel: BitsandbytesWheel) -> list[Pairing]:
    """A pair as the loader would have it and, where that does not give SASS for all GPUs, with each override."""
    fails: Fails = {}
    spec = requirement_on("torch", wheel.requires_dist)
    if spec and not admits(spec, build.version):
        because = f"bitsandbytes {wheel.version} requires torch{spec}"
        fails["torch-requirement"] = Reason(because, wheel.filename)
    minors = wheel_pythons(situation, wheel)
    python = next((option for option in torch_pythons(situation, build) if option.minor in minors), None)
    if python is None:
        because = f"no Python fits both {label(build)} and bitsandbytes {wheel.version}"
        fails["python"] = Reason(because, wheel.filename)
    loader = next((rule for rule in matrix.loaders if admits(rule.versions, wheel.version)), None)
    if loader is None:
        fails["loader"] = Reason(f"no row says what bitsandbytes {wheel.version} loads", "the matrix")
        return [Pairing(build, wheel, None, None, python, (), fails)]
    if situation.backend == "cpu" or build.cuda is None:
        return [_cpu_pairing(situation, matrix, build, wheel, python, fails)]
    default = loaded_library(loader, wheel, build.cuda)
    first = _pairing(situation, matrix, build, wheel, default, None, python, fails)
    if (not first.fails and not first.uses_ptx) or loader.override is None:
        return [first]
    major = build.cuda.split(".")[0]
    others = [lib for lib in cuda_libraries(wheel) if lib is not default and library_cuda(lib).split(".")[0] == major]
    named = [_pairing(situation, matrix, build, wheel, lib, loader.override, python, fails) for lib in others]
    # Where the loader finds nothing by itself, what stands against the libraries it could be told to take says more.
    return named if default is None and named else [first, *named]


def cuda_libraries(wheel: BitsandbytesWheel) -> list[NativeLibrary]:
    return [library for library in wheel.libraries if library.backend == "cuda"]


def library_cuda(library: NativeLibrary) -> str:
    """The CUDA version in a library's name: ``libbitsandbytes_cuda128.so`` -> ``12.8``."""
    digits = "".join(c for c in library.name.partition("_cuda")[2] if c.isdigit())
    return f"{digits[:-1]}.{digits[-1:]}"


def loaded_library(loader: LoaderRule, wheel: BitsandbytesWheel, cuda: str) -> NativeLibrary | None:
    """What the loader takes for ``torch.version.cuda``, or None where it finds nothing."""
    by_cuda = {number(library_cuda(library)): library for library in cuda_libraries(wheel)}
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
        _advisories(situation, matrix, build, wheel, library, None, fails)
    return Pairing(build, wheel, library, None, python, (), fails)


def _pairing(
    situation: Situation,
    matrix: Matrix,
    build: TorchBuild,
    wheel: BitsandbytesWheel,
    library: NativeLibrary | None,
    override: str | None,
    python: PythonOption | None,
    common: Fails,
) -> Pairing:
    fails = dict(common)
    if library is None:
        have = " ".join(library_cuda(one) for one in cuda_libraries(wheel)) or "none"
        because = f"bitsandbytes {wheel.version} has no library for CUDA {build.cuda}; it has {have}"
        fails["loader"] = Reason(because, wheel.filename)
        for gpu in situation.gpus:  # no library is no code either
            fails[f"library-arch[{gpu.index}]"] = Reason(because, wheel.filename)
        return Pairing(build, wheel, None, override, python, (), fails)
    covers: list[Cover] = []
    for gpu in situation.gpus:
        code = _library_code(situation, library, gpu)
        if code is None and ptx_for(gpu.capability, library.ptx):
            because = f"{library.name} of bitsandbytes {wheel.version} has only PTX for GPU {gpu.index} ({gpu.arch}), "
            because += _ptx_need(situation, library_cuda(library))
            fails[f"library-ptx[{gpu.index}]"] = Reason(because, wheel.filename)
            continue
        if code is None:
            have = " ".join((*library.sass, *library.ptx)) or "nothing"
            because = f"{library.name} of bitsandbytes {wheel.version} has no code for GPU {gpu.index} "
            because += f"({gpu.name}, {gpu.arch}); it has {have}"
            fails[f"library-arch[{gpu.index}]"] = Reason(because, wheel.filename)
            continue
        torch_code = sass_for(gpu.capability, build.arch_list)
        torch_text = f"sass {torch_code}" if torch_code else f"ptx {ptx_for(gpu.capability, build.arch_list)}"
        covers.append(Cover(gpu.index, gpu.arch, torch_text, code))
    _library_libc(situation, wheel, library, fails)
    _advisories(situation, matrix, build, wheel, library, override, fails)
    return Pairing(build, wheel, library, override, python, tuple(covers), fails)


def _library_code(situation: Situation, library: NativeLibrary, gpu: Gpu) -> str | None:
    sass = sass_for(gpu.capability, library.sass)
    if sass:
        return f"sass {sass}"
    ptx = ptx_for(gpu.capability, library.ptx)
    return f"ptx {ptx}" if ptx and _compiles_ptx(situation, library_cuda(library)) else None


def _library_libc(situation: Situation, wheel: BitsandbytesWheel, library: NativeLibrary, fails: Fails) -> None:
    """What the binary really needs, which a wheel's tag does not always say."""
    libc = situation.facts.platform.libc
    if libc is None or libc.name != "glibc" or library.glibc is None:
        return
    if not at_least(libc.version, library.glibc):
        because = f"{library.name} of bitsandbytes {wheel.version} needs GLIBC_{library.glibc}; "
        because += f"this host has {libc.version}"
        fails["library-libc"] = Reason(because, wheel.filename)


def _advisories(
    situation: Situation,
    matrix: Matrix,
    build: TorchBuild,
    wheel: BitsandbytesWheel,
    library: NativeLibrary,
    override: str | None,
    fails: Fails,
) -> None:
    for advisory in matrix.advisories:
        if applies(situation, advisory, build, wheel, library, override):
            fails[f"advisory:{advisory.id}"] = Reason(f"{advisory.summary} {advisory.remedy}", advisory.reference)
            return


def applies(
    situation: Situation,
    advisory: Advisory,
    build: TorchBuild,
    wheel: BitsandbytesWheel,
    library: NativeLibrary,
    override: str | None,
) -> bool:
    """Whether all conditions of a known-bad combination hold."""
    libc = situation.facts.platform.libc
    if advisory.bitsandbytes and not admits(advisory.bitsandbytes, wheel.version):
        return False
    if advisory.torch and not admits(advisory.torch, build.version):
        return False
    if advisory.triton and not (build.triton and admits(advisory.triton, build.triton)):
        return False
    if advisory.torch_cuda and not any(_cuda_is(build.cuda, wanted) for wanted in advisory.torch_cuda):
        return False
    if advisory.libraries and library.name not in advisory.libraries:
        return False
    if advisory.glibc_below and (libc is None or at_least(libc.version, advisory.glibc_below)):
        return False
    if advisory.os and situation.facts.platform.os not in advisory.os:
        return False
    if advisory.override is not None and advisory.override != (override is not None):
        return False
    if advisory.capability:
        return any(admits(advisory.capability, gpu.compute_capability) for gpu in situation.gpus)
    return True


def _cuda_is(cuda: str | None, wanted: str) -> bool:
    return cuda is not None and (cuda == wanted or cuda.startswith(f"{wanted}."))
