"""The native library of bitsandbytes: there, whole, with code for the GPUs, and what it links against."""

from __future__ import annotations

from collections.abc import Iterator

from bnbenv.doctor.model import Answer, LibraryFile, Linked, Verdict
from bnbenv.doctor.rules.case import NO, Case, Rule, unknown, yes
from bnbenv.doctor.rules.torches import runs
from bnbenv.matrix.drivers import at_least, number
from bnbenv.solve.coverage import ptx_for
from bnbenv.solve.rules import ptx_need
from bnbenv.solve.versions import admits, is_version

_LIBC = ("GLIBC_",)
_CXX = ("GLIBCXX_", "CXXABI_")
_MSVC = ("vcruntime", "msvcp", "concrt", "vcomp")
FIRST_FOR_WINDOWS = "0.43"


def none_at_all(case: Case) -> Verdict:
    wheel = case.examination.bitsandbytes
    if wheel is None or wheel.libraries or wheel.fault is None or wheel.own_version is None:
        return NO
    return yes(f"{wheel.path}: {wheel.fault}")


def package_damaged(case: Case) -> Verdict:
    wheel = case.examination.bitsandbytes
    if wheel is None or wheel.fault is None or none_at_all(case).answer == "yes":
        return NO
    return yes(f"{wheel.path}: {wheel.fault}")


def _not_found(case: Case) -> tuple[str, str | None] | None:
    """Why no library is loaded, and the name that was looked for; None where one is, or it is not known."""
    loads, wheel = case.examination.loads, case.examination.bitsandbytes
    if loads is None or loads.answer != "no" or wheel is None or (wheel.fault and not wheel.libraries):
        return None
    return loads.because, loads.wanted


def _seeks_cuda(case: Case) -> bool:
    loads = case.examination.loads
    return loads is not None and (loads.wanted or "").startswith("libbitsandbytes_cuda")


def for_cuda_missing(case: Case) -> Verdict:
    found, loads = _not_found(case), case.examination.loads
    if loads is None or loads.override is not None or not _seeks_cuda(case):
        return NO
    if loads.answer == "unknown":
        return unknown(loads.because)
    if found is None:
        return NO
    return yes(found[0], *_have(case)) if gone(case).answer == "no" else NO


def gone(case: Case) -> Verdict:
    """The library that is looked for was installed: another release is not what is needed."""
    loads = case.examination.loads
    if loads is None or not _seeks_cuda(case) or loads.answer != "no":
        return NO
    lost = [path for one in case.examination.leftovers if one.kind == "gone" for path in one.paths]
    found = [path for path in lost if _name(path) == loads.wanted]
    return yes(f"{found[0]} is in the RECORD of bitsandbytes {case.bitsandbytes} and not there") if found else NO


def cpu_missing(case: Case) -> Verdict:
    found, loads = _not_found(case), case.examination.loads
    if found is None or loads is None or loads.override is not None:
        return NO
    if not (loads.wanted or "libbitsandbytes_cpu").startswith("libbitsandbytes_cpu"):
        return NO
    return yes(found[0], *_have(case))


def rocm_missing(case: Case) -> Verdict:
    found, torch, loads = _not_found(case), case.examination.torch, case.examination.loads
    if torch is None or torch.hip is None or case.examination.facts.gpus:
        return NO
    if loads is not None and loads.answer == "unknown" and loads.wanted is not None:
        return unknown(loads.because)
    if found is None:
        return NO
    return yes(found[0], *_have(case))


def _have(case: Case) -> Iterator[str]:
    """For which CUDA releases there are libraries; of others only that they are there."""
    wheel = case.examination.bitsandbytes
    if wheel is None:
        return
    releases = sorted({one.cuda for one in wheel.libraries if one.cuda is not None}, key=number)
    others = sorted({one.backend for one in wheel.libraries if one.backend != "cuda"})
    have = [f"CUDA {', '.join(releases)}"] if releases else []
    yield f"bitsandbytes {case.bitsandbytes} has libraries for {'; '.join([*have, *others]) or 'nothing'}"


def library_damaged(case: Case) -> Verdict:
    """The one that is loaded; of others it matters only that they are there."""
    library = case.loaded
    if library is None or library.fault is None:
        return NO
    return yes(library.fault if library.path in library.fault else f"{library.path}: {library.fault}")


def lacks_gpu(case: Case) -> Verdict:
    library = case.loaded
    if library is None or library.backend != "cuda" or library.fault is not None:
        return NO
    gpus, names = case.visible(), (*library.sass, *library.ptx)
    if gpus and not names:
        return unknown(f"for which GPUs {library.name} was compiled could not be read")
    bare = [gpu for gpu in gpus if not runs(case, gpu, names, library.cuda)]
    if not bare:
        return NO
    said = [
        f"GPU {gpu.index} ({gpu.name or 'no name'}, {gpu.arch}): {_why(case, gpu.capability, library)}" for gpu in bare
    ]
    return yes(*said, f"{library.name} has {' '.join(names)}")


def _why(case: Case, capability: tuple[int, int], library: LibraryFile) -> str:
    if ptx_for(capability, library.ptx) is None:
        return "no code for it"
    return f"only PTX for it, {ptx_need(case.situation, library.cuda)}"


# ---- what is linked --------------------------------------------------------------------------------------------


def _linked(case: Case, answer: Answer = "no") -> Iterator[Linked]:
    """What is wrong with what is linked. libcuda is the driver's: without a GPU nothing is to be said of it."""
    library = case.loaded
    if library is not None and library.fault is not None:
        return
    for one in case.examination.linked:
        if one.answer == answer and not one.soname.startswith(("libcuda.so", "nvcuda")):
            yield one


def _needs(one: Linked) -> str:
    return f"{_name(one.needed_by)} needs {one.soname}"


def _name(path: str) -> str:
    return path.replace("\\", "/").rpartition("/")[2]


def shared_missing(case: Case) -> Verdict:
    """What a whole torch would have loaded before is no library that is missing, where a copy is at hand."""
    torch, copies = case.examination.torch, {one.soname for one in case.examination.runtimes}
    at_hand = copies if torch is not None and torch.fault is not None else set()
    lost = [one for one in _linked(case) if one.path is None and not one.soname.lower().startswith(_MSVC)]
    lost = [one for one in lost if one.soname not in at_hand]
    if not lost:
        untold = next(_linked(case, "unknown"), None)
        return unknown(f"{_needs(untold)}: {untold.because or 'not looked for'}") if untold is not None else NO
    return yes(*(f"{_needs(one)}: {one.because or 'not found'}" for one in lost))


def mixed(case: Case) -> Verdict:
    """Only where a process would really stop: two copies that both do are no trouble."""
    wrong = [one for one in _linked(case) if one.path and _lacking(one, _LIBC + _CXX, without=True)]
    said = [f"{_needs(one)} with {_lacking(one, _LIBC + _CXX, without=True)}" for one in wrong]
    found = [f"{one.path} is found first ({one.via or 'how is unknown'}) and lacks it" for one in wrong]
    return yes(*(line for pair in zip(said, found, strict=True) for line in pair)) if wrong else NO


def _lacking(one: Linked, kinds: tuple[str, ...], without: bool = False) -> str:
    """The symbol versions of some kinds that are lacking, or of all but these."""
    return ", ".join(name for name in one.lacks if name.startswith(kinds) != without)


def glibc(case: Case) -> Verdict:
    library, libc = case.loaded, case.examination.facts.platform.libc
    lacking = [one for one in _linked(case) if _lacking(one, _LIBC)]
    if lacking:
        return yes(*(f"{_name(one.needed_by)} needs {_lacking(one, _LIBC)}{_libc(case)}" for one in lacking))
    if library is None or library.fault is not None or library.glibc is None:
        return NO
    if libc is None:
        linux = case.examination.facts.platform.os == "linux"
        return unknown("the version of this system's C library is not known") if linux else NO
    if libc.name != "glibc" or at_least(libc.version, library.glibc):
        return NO
    return yes(f"{library.name} needs GLIBC_{library.glibc}{_libc(case)}")


def _libc(case: Case) -> str:
    libc = case.examination.facts.platform.libc
    return f"; this system has {libc.version}" if libc is not None else ""


def glibcxx(case: Case) -> Verdict:
    library, cxx = case.loaded, case.examination.cxx
    lacking = [one for one in _linked(case) if _lacking(one, _CXX)]
    if lacking:
        return yes(*(f"{_name(one.needed_by)} needs {_lacking(one, _CXX)}; {one.path} lacks it" for one in lacking))
    if library is None or library.glibcxx is None or cxx is None or cxx.glibcxx is None:
        return NO
    if at_least(cxx.glibcxx, library.glibcxx):
        return NO
    return yes(f"{library.name} needs GLIBCXX_{library.glibcxx}; {cxx.path} has {cxx.glibcxx}")


# ---- Windows ---------------------------------------------------------------------------------------------------


def windows_none(case: Case) -> Verdict:
    version = case.bitsandbytes
    if case.examination.facts.platform.os != "windows" or version is None or not is_version(version):
        return NO
    wheel = case.examination.bitsandbytes
    if admits(f">={FIRST_FOR_WINDOWS}", version, pre=True) or wheel is None:
        return NO
    if any(one.name.endswith(".dll") for one in wheel.libraries):
        return NO
    return yes(f"bitsandbytes {version} in {wheel.path} has no .dll")


def msvc(case: Case) -> Verdict:
    windows = case.examination.windows
    lost = [name for name, where in windows.runtimes.items() if where is None] if windows is not None else []
    wanted = {one.soname.lower(): one for one in _linked(case) if one.soname.lower().startswith(_MSVC) and not one.path}
    said = [f"{_needs(one)}, which is not found" for one in wanted.values()]
    said += [f"{name} is not found" for name in lost if name.lower() not in wanted]
    return yes(*said) if said else NO


NATIVES = (
    Rule("no-native-library", none_at_all),
    Rule("bitsandbytes-damaged", package_damaged),
    Rule("windows-no-library", windows_none),
    Rule("windows-msvc-runtime", msvc),
    Rule("library-for-cuda-missing", for_cuda_missing),
    Rule("cuda-library-gone", gone),
    Rule("rocm-library-missing", rocm_missing),
    Rule("cpu-library-missing", cpu_missing),
    Rule("native-library-damaged", library_damaged),
    Rule("library-lacks-gpu", lacks_gpu),
    Rule("shared-library-missing", shared_missing),
    Rule("mixed-runtimes", mixed),
    Rule("glibc-too-old", glibc),
    Rule("glibcxx-too-old", glibcxx),
)
