"""The rules on packages of the families gptq and awq, and on torch alone. Pure.

They are judged with torch builds as wheels of bitsandbytes are (``preference.judge``, ``best_of``, ``refusal``), by
rules of their own: nothing is chosen among libraries, and no variable is set. A package without binary kernels asks
for nothing beyond its metadata; it needs none, or compiles them when they are first used. Binary kernels have to have
code for every selected GPU, to be for the CUDA major of torch, and to find in torch the names that they take from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache

from bnbenv.facts.model import Gpu
from bnbenv.matrix.drivers import at_least, number
from bnbenv.matrix.model import (
    BitsandbytesWheel,
    Matrix,
    NativeLibrary,
    PackageAdvisory,
    PackageFile,
    TorchBuild,
)
from bnbenv.solve.coverage import ptx_for, sass_for
from bnbenv.solve.model import Choice, Cover, EvidenceLine, PackageChoice
from bnbenv.solve.package_sets import EXTRA, KERNELS, PackageSet, wish_of
from bnbenv.solve.pairs import Pairing, torch_code
from bnbenv.solve.rules import (
    ASKED_NOW,
    compiles_ptx,
    jetson_fails,
    label,
    libc_fails,
    ptx_need,
    python_reason,
    torch_pythons,
)
from bnbenv.solve.situation import Fails, PythonOption, Reason, Situation
from bnbenv.solve.versions import admits, public, requirement_on


def set_fails(situation: Situation, matrix: Matrix, one: PackageSet) -> Fails:
    """Everything that stands against a candidate on this host, whatever torch is."""
    fails: Fails = {}
    if not one.main:
        return fails
    wish = wish_of(situation.request, matrix)
    if not admits(wish.spec, one.version):
        fails["package-wish"] = Reason(f"{situation.request.package} was asked for", "the request")
    for files in (one.main, one.kernels):
        _files_fail(situation, files, fails)
    for advisory in matrix.package_advisories:
        if advisory.refuses and _applies(advisory, one.versions, None) and _system(advisory, situation):
            fails[f"package-advisory:{advisory.id}"] = Reason(
                f"{advisory.summary} {advisory.remedy}", advisory.reference
            )
    if not set_pythons(situation, one):
        fails.setdefault("python", Reason(_no_python(situation, one), one.filename))
    return fails


def _files_fail(situation: Situation, files: tuple[PackageFile, ...], fails: Fails) -> None:
    """What stands against all files of a release: the libc, the sources, how it is built, the code in it."""
    if not files:
        return
    first = files[0]
    what = f"{first.name} {first.version}"
    libc_fails(situation, first.libc_tag, lambda: what, first.filename, fails)
    offered = situation.availability.packages
    if offered is not None and all(file.filename not in offered for file in files):
        closed = situation.availability.unreachable.get("default-index")
        why = f"; default-index cannot be reached: {closed}" if closed else ""
        fails.setdefault("reachable", Reason(f"no source here offers {first.filename}{why}", ASKED_NOW))
    if first.build_needs_torch:
        because = f"the setup.py of {what} looks for torch, which is not there while its archive is built"
        fails["package-build"] = Reason(because, first.evidence.source)
    libraries = _gpu_code(first)
    if not libraries or situation.backend == "cpu":
        return
    jetson_fails(situation, fails)
    libc = situation.facts.platform.libc
    needs = max((one.glibc for one in first.libraries if one.glibc), key=number, default=None)
    if needs and libc is not None and libc.name == "glibc" and not at_least(libc.version, needs):
        because = f"the kernels of {what} need GLIBC_{needs}; this host has {libc.version}"
        fails["library-libc"] = Reason(because, first.filename)
    for gpu in situation.gpus:
        if _code(situation, first, gpu) is None:
            _no_code(situation, first, gpu, fails)


def _no_code(situation: Situation, file: PackageFile, gpu: Gpu, fails: Fails) -> None:
    libraries = _gpu_code(file)
    what = f"the kernels of {file.name} {file.version} have"
    who = f"GPU {gpu.index} ({gpu.name}, {gpu.arch})"
    if any(ptx_for(gpu.capability, one.ptx) for one in libraries):
        because = f"{what} only PTX for {who}, {ptx_need(situation, file.ptx_cuda)}"
        fails[f"kernels-ptx[{gpu.index}]"] = Reason(because, file.filename)
        return
    have = " ".join(dict.fromkeys(name for one in libraries for name in (*one.sass, *one.ptx)))
    fails[f"kernels-arch[{gpu.index}]"] = Reason(f"{what} no code for {who}; they have {have}", file.filename)


def _gpu_code(file: PackageFile) -> tuple[NativeLibrary, ...]:
    return tuple(one for one in file.libraries if one.sass or one.ptx)


def _code(situation: Situation, file: PackageFile, gpu: Gpu) -> str | None:
    """What of a file's kernels runs on a GPU: the best of its libraries, of which each is for some operations."""
    libraries = _gpu_code(file)
    native = [code for one in libraries if (code := sass_for(gpu.capability, one.sass))]
    if native:
        return f"sass {native[0]}"
    ptx = next((code for one in libraries if (code := ptx_for(gpu.capability, one.ptx))), None)
    return f"ptx {ptx}" if ptx and compiles_ptx(situation, file.ptx_cuda or file.cuda or "") else None


def file_for(situation: Situation, files: Iterable[PackageFile], python: PythonOption) -> PackageFile | None:
    """The file of a release for an interpreter, among those that the sources offer."""
    tag = f"cp{python.minor.replace('.', '')}"
    for file in offered_of(situation, files):
        if (not file.pythons or tag in file.pythons) and admits(file.requires_python or "*", python.full):
            return file
    return None


def offered_of(situation: Situation, files: Iterable[PackageFile]) -> tuple[PackageFile, ...]:
    """The files that the sources offer; all of them where that is none, which is a rule of its own."""
    offered = situation.availability.packages
    every = tuple(files)
    return every if offered is None else tuple(file for file in every if file.filename in offered) or every


def set_pythons(situation: Situation, one: PackageSet) -> frozenset[str]:
    """The minors of the interpreters that every package of a candidate has a file for."""
    if id(one) not in situation.minors:
        parts = [files for files in (one.main, one.kernels) if files]
        situation.minors[id(one)] = frozenset(
            python.minor
            for python in situation.pythons
            if all(file_for(situation, files, python) is not None for files in parts)
        )
    return situation.minors[id(one)]


def beside(situation: Situation, one: BitsandbytesWheel, builds: list[TorchBuild]) -> list[TorchBuild]:
    """The torch builds of the series that the kernels of a candidate load beside; all of them where it has none."""
    if not isinstance(one, PackageSet) or situation.backend == "cpu":
        return builds
    known = [file.torch_releases for part in (one.main, one.kernels) for file in part[:1] if _gpu_code(file)]
    allowed = [frozenset(releases) for releases in known if releases is not None]
    if not allowed:
        return builds
    fit = frozenset.intersection(*allowed)
    return [build for build in builds if series(build.version) in fit]


def _no_python(situation: Situation, one: PackageSet) -> str:
    files = one.kernels if one.kernels and not any(file.pythons for file in one.main) else one.main
    tags = tuple(tag for file in offered_of(situation, files) for tag in file.pythons)
    return python_reason(situation, f"{files[0].name} {files[0].version}", tags or files[0].requires_python or "*")


def pair_set(situation: Situation, matrix: Matrix, build: TorchBuild, one: PackageSet) -> Pairing:
    """A torch build with a candidate."""
    fails: Fails = {}
    for files in (one.main, one.kernels):
        if files:
            _with_torch(situation, build, files[0], fails)
    for advisory in matrix.package_advisories:
        about = advisory.refuses and _applies(advisory, one.versions, build.version)
        if about and advisory.torch and _system(advisory, situation):
            because = f"{advisory.summary} {advisory.remedy}"
            fails[f"package-advisory:{advisory.id}"] = Reason(because, advisory.reference)
    suited = set_pythons(situation, one)
    python = next((option for option in torch_pythons(situation, build) if option.minor in suited), None)
    if python is None:
        fails["python"] = Reason(f"no Python fits both {label(build)} and {one.title}", one.filename)
    if id(one) not in situation.memo:
        situation.memo[id(one)] = (tuple(_code_of(situation, one, gpu) for gpu in situation.gpus), {})
    codes, _ = situation.memo[id(one)]
    covers = tuple(
        Cover(gpu.index, gpu.arch, torch_code(gpu, build), kernels=code or "")
        for gpu, code in zip(situation.gpus, codes, strict=True)
    )
    return Pairing(build, one, None, None, python, covers, fails)


def _code_of(situation: Situation, one: PackageSet, gpu: Gpu) -> str:
    """What of the kernels runs on a GPU; empty where there are none."""
    found = [_code(situation, files[0], gpu) for files in (one.main, one.kernels) if files and _gpu_code(files[0])]
    return next((code for code in found if code), "")


def _with_torch(situation: Situation, build: TorchBuild, file: PackageFile, fails: Fails) -> None:
    """What a package asks of torch, and its kernels of torch's binaries."""
    what = f"{file.name} {file.version}"
    spec = requirement_on("torch", file.requires_dist)
    if spec and not admits(spec, build.version, pre=build.source == "existing"):
        because = f"{what} requires torch{spec}, which {build.version} is not"
        fails["torch-requirement"] = Reason(because, file.filename)
    if situation.backend == "cpu" or not _gpu_code(file):
        return
    known = file.torch_releases
    if known is not None and series(build.version) not in known:
        because = f"the kernels of {what} load beside torch {' '.join(known)} only, which {build.version} is not"
        fails["kernels-torch"] = Reason(because, file.filename)
    elif build.cuda and file.cuda and build.cuda.split(".")[0] != file.cuda:
        because = f"the kernels of {what} are for CUDA {file.cuda}, and {label(build)} is not"
        fails["kernels-cuda"] = Reason(because, file.filename)


@lru_cache(maxsize=1024)
def series(text: str) -> str:
    """``2.6`` of 2.6.0+cu124."""
    version = public(text)
    return f"{version.major}.{version.minor}"


def chosen_packages(situation: Situation, best: Pairing, one: PackageSet) -> tuple[PackageChoice, ...]:
    """The files that were chosen, the main package's first."""
    assert best.python is not None
    files = [file_for(situation, part, best.python) for part in (one.main, one.kernels) if part]
    return tuple(
        PackageChoice(file.name, file.version, file.kind, file.filename, file.sha256) for file in files if file
    )


def set_evidence(situation: Situation, best: Pairing, one: PackageSet) -> Iterator[EvidenceLine]:
    """What is known of the chosen files, and from where."""
    assert best.python is not None
    for part in (one.main, one.kernels):
        file = file_for(situation, part, best.python)
        if file is not None:
            origin = file.evidence
            yield EvidenceLine(f"{file.name} {file.version}", origin.level, origin.source, origin.date)


def set_notes(situation: Situation, matrix: Matrix, best: Pairing, one: PackageSet) -> Iterator[str]:
    """What to know of a choice beside what was chosen."""
    versions = one.versions
    for advisory in matrix.package_advisories:
        about = not advisory.refuses and _applies(advisory, versions, best.torch.version)
        if about and _system(advisory, situation):
            yield f"{advisory.summary} {advisory.remedy} [{advisory.reference}]"
    pinned = KERNELS.get(one.name)
    if pinned and not one.kernels and EXTRA in wish_of(situation.request, matrix).extras:
        yield f"{pinned} holds kernels for GPUs: it is left out for the CPU"
    if situation.backend == "cuda" and one.without_kernels and one.version in _with_kernels(matrix, one.name):
        yield f"{one.title} is built without its kernels, since no wheel with them fits here: it is slower"
    for files in (one.main, one.kernels):
        if files and situation.backend == "cuda":
            yield from _partly_covered(situation, files[0])
            # Who built a torch that is kept may have taken another C++ ABI than that of the published wheels.
            unread = files[0].torch_releases is None or best.torch.source == "existing"
            if _gpu_code(files[0]) and unread:
                what = f"{files[0].name} {files[0].version}"
                yield f"whether the kernels of {what} load beside torch {best.torch.version} is not known"


def _partly_covered(situation: Situation, file: PackageFile) -> Iterator[str]:
    """Kernels that one of the GPUs cannot run though the package's others can."""
    for library in _gpu_code(file):
        bare = [
            str(gpu.index)
            for gpu in situation.gpus
            if not sass_for(gpu.capability, library.sass) and not ptx_for(gpu.capability, library.ptx)
        ]
        if bare:
            name = library.name.partition(".")[0]
            gpus = ", ".join(bare)
            yield f"{name} of {file.name} {file.version} has no code for GPU {gpus}: its operations fail there"


def _with_kernels(matrix: Matrix, name: str) -> frozenset[str]:
    """The releases of a package whose wheels hold kernels."""
    return frozenset(row.version for row in matrix.packages if row.name == name and _gpu_code(row))


def extra_requirements(matrix: Matrix, choice: Choice) -> tuple[str, ...]:
    """What the environment needs beside the chosen packages' own requirements: ``("transformers<5",)``."""
    found = [
        requirement
        for advisory in matrix.package_advisories
        if _applies(advisory, choice.versions, choice.torch.version)
        for requirement in advisory.requires
    ]
    return tuple(dict.fromkeys(found))


def _applies(advisory: PackageAdvisory, versions: dict[str, str], torch: str | None) -> bool:
    """Whether it is about one of the packages and this torch; ``torch`` None: whether it is, whatever torch is."""
    version = versions.get(advisory.package)
    if version is None or advisory.without in versions or not admits(advisory.versions, version, pre=True):
        return False
    return advisory.torch is None or (torch is not None and admits(advisory.torch, torch, pre=True))


def _system(advisory: PackageAdvisory, situation: Situation) -> bool:
    """Whether it is about this host."""
    if advisory.backend not in (None, situation.backend):
        return False
    spec = advisory.capability
    if spec and not any(admits(spec, gpu.compute_capability) for gpu in situation.gpus):
        return False
    return not advisory.os or situation.facts.platform.os in advisory.os
