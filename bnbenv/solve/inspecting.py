"""Would a binary run on a host? One answer a question: platform, C library, each GPU; unknown stays unknown. Pure."""

from __future__ import annotations

from typing import Literal

import msgspec

from bnbenv.decode import shown
from bnbenv.facts.model import Gpu, HostFacts
from bnbenv.matrix.drivers import at_least
from bnbenv.matrix.found import FoundLibrary, FoundPackage
from bnbenv.matrix.model import BitsandbytesWheel, Evidence, LoaderRule, Matrix, NativeLibrary
from bnbenv.solve.coverage import ptx_for, sass_for
from bnbenv.solve.model import Availability, Request
from bnbenv.solve.pairs import library_cuda, loadable, loaded_library, loader_of
from bnbenv.solve.rules import compiles_ptx, driver_runs, ptx_need
from bnbenv.solve.situation import Fails, Situation, situate

_OTHERS = {"rocm": "AMD's GPUs (ROCm)", "xpu": "Intel's GPUs (XPU)"}
_NAMES = {"linux": "Linux", "windows": "Windows", "macos": "macOS"}


class Answer(msgspec.Struct, frozen=True):
    """Whether something runs, as far as ``about`` goes: ``platform``, ``libc``, ``gpu`` or ``loader``.

    ``gpu`` is its index, null where the question is not about one. ``code`` is what would run (``sass sm_90``,
    ``ptx compute_90``), null where nothing would or none is needed.
    """

    about: Literal["platform", "libc", "gpu", "loader"]
    answer: Literal["yes", "no", "unknown"]
    because: str
    gpu: int | None = None
    code: str | None = None


def situation_of(facts: HostFacts, matrix: Matrix) -> Situation:
    """The host as the rules see it, with all of its GPUs; also where a reboot is required."""
    if facts.driver.state == "mismatch":
        facts = msgspec.structs.replace(facts, driver=msgspec.structs.replace(facts.driver, state="error"))
    return situate(facts, matrix, Request(), Availability(), managed=False)


def judge_package(package: FoundPackage, situation: Situation) -> tuple[Answer, ...]:
    """What can be said of a package as a whole: its platform and the C library of its tag; of torch also each GPU.

    Of what is for another platform nothing more is said.
    """
    answers = []
    if package.os is not None and package.machine is not None:
        answers.append(_platform(package.os, package.machine, situation))
    if any(answer.answer == "no" for answer in answers):
        return tuple(answers)
    if package.libc_tag is not None:
        answers.append(_libc(package.libc_tag, f"its tag asks for glibc {package.libc_tag}", situation))
    if package.arch_list is not None and package.cuda is not None:
        answers += _gpus(package.cuda, package.cuda, package.arch_list, situation)
    return tuple(answers)


def judge_library(library: FoundLibrary, situation: Situation) -> tuple[Answer, ...]:
    """What can be said of one library; where it is for another platform nothing more."""
    answers = [_platform(library.os, library.machine, situation)]
    if answers[0].answer == "no":
        return tuple(answers)
    if library.glibc is not None:
        answers.append(_libc(library.glibc, f"it needs GLIBC_{library.glibc}", situation))
    if library.sass or library.ptx:
        answers += _gpus(library.cuda, library.ptx_cuda, (*library.sass, *library.ptx), situation)
    elif library.backend in _OTHERS:
        answers.append(Answer("gpu", "no", f"it is for {_OTHERS[library.backend]}, not for NVIDIA's"))
    return tuple(answers)


def _platform(system: str, machine: str, situation: Situation) -> Answer:
    host = situation.facts.platform
    fits = system == host.os and machine in (host.machine, "any")
    is_for = f"it is for {_NAMES.get(system, system)} {machine if machine != 'any' else 'on any machine'}"
    here = "" if fits else f"; this machine is {_NAMES.get(host.os, host.os)} {host.machine}"
    return Answer("platform", "yes" if fits else "no", is_for + here)


def _libc(need: str, what: str, situation: Situation) -> Answer:
    libc = situation.facts.platform.libc
    if libc is None:
        return Answer("libc", "unknown", f"{what}; the C library of this machine is unknown")
    fits = libc.name == "glibc" and at_least(libc.version, need)
    return Answer("libc", "yes" if fits else "no", f"{what}; this machine has {libc.name} {libc.version}")


def _gpus(cuda: str | None, ptx_cuda: str | None, targets: tuple[str, ...], situation: Situation) -> list[Answer]:
    facts = situation.facts
    if facts.gpus:
        return [_on_gpu(gpu, cuda, ptx_cuda, targets, situation) for gpu in facts.gpus]
    unknown = next((one.reason for one in facts.unknown if one.fact.split("[")[0] in ("gpus", "driver")), None)
    if facts.driver.state == "absent" or (facts.driver.state == "ok" and not unknown):
        without = " and no NVIDIA driver" if facts.driver.state == "absent" else ""
        return [Answer("gpu", "no", f"no NVIDIA GPU{without} is known here")]
    reason = _trouble(situation) if _reboot(situation) or unknown is None else unknown
    return [Answer("gpu", "unknown", f"the GPUs are unknown: {reason}")]


def _on_gpu(gpu: Gpu, cuda: str | None, ptx_cuda: str | None, targets: tuple[str, ...], situation: Situation) -> Answer:
    sass, ptx = sass_for(gpu.capability, targets), ptx_for(gpu.capability, targets)
    if not sass and not ptx:
        return Answer("gpu", "no", f"it has no code for {gpu.arch}", gpu.index)
    against = situation.fails.get(f"driver-arch[{gpu.index}]")
    if against is not None:
        return Answer("gpu", "no", against.because, gpu.index)
    driver = situation.driver
    if driver.state != "ok":
        answer: Literal["no", "unknown"] = "no" if driver.state == "absent" else "unknown"
        return Answer("gpu", answer, f"it has code for {gpu.arch}, but {_trouble(situation)}", gpu.index)
    if sass:
        return _by_sass(gpu, sass, cuda, situation)
    assert ptx is not None
    if ptx_cuda is None:
        because = f"it has only PTX {ptx}, and nothing tells which driver compiles that"
        return Answer("gpu", "unknown", because, gpu.index)
    if not compiles_ptx(situation, ptx_cuda):
        because = f"it has only PTX {ptx}, {ptx_need(situation, ptx_cuda)}"
        return Answer("gpu", "no", f"{because}; this is {driver.version or 'unknown'}", gpu.index)
    return Answer("gpu", "yes", f"by PTX {ptx}, which the driver compiles", gpu.index, f"ptx {ptx}")


def _by_sass(gpu: Gpu, sass: str, cuda: str | None, situation: Situation) -> Answer:
    """Native code runs on any driver of its CUDA major; where that is unknown, on one that runs all majors."""
    fails: Fails = {}
    majors = [cuda] if cuda else sorted({known.partition(".")[0] for known in situation.drivers})
    for major in majors:
        driver_runs(situation, major, fails)
    if not fails:
        return Answer("gpu", "yes", f"by native code (SASS {sass})", gpu.index, f"sass {sass}")
    because = f"it has SASS {sass}, but {fails['driver-cuda'].because}"
    if cuda is None:
        because = f"it has SASS {sass}, but nothing tells its CUDA release, and so which driver it needs"
        return Answer("gpu", "unknown", because, gpu.index)
    return Answer("gpu", "no", because, gpu.index)


def _reboot(situation: Situation) -> str | None:
    driver = situation.facts.driver
    if not driver.kernel_module or not driver.userland or driver.kernel_module == driver.userland:
        return None
    return f"a reboot is required (kernel module {driver.kernel_module}, library {driver.userland})"


def _trouble(situation: Situation) -> str:
    """What is wrong with the driver, for the middle of a sentence."""
    if situation.facts.driver.state == "absent":
        return "there is no NVIDIA driver"
    reason = situation.fails.get("driver-state")
    return _reboot(situation) or (reason.because if reason else "the driver does not work")


def loaded(
    packages: tuple[FoundPackage, ...], matrix: Matrix, situation: Situation
) -> tuple[str | None, Answer | None]:
    """The library that the bitsandbytes among some packages loads beside the torch among them, on this host.

    None where it finds none, and where it is unknown what it does. The answer is None where there are not both of them,
    or they are for another platform.
    """
    platform, found = situation.facts.platform, {package.name: package for package in packages}
    torch, package = found.get("torch"), found.get("bitsandbytes")
    if torch is None or package is None or (package.os, package.machine) != (platform.os, platform.machine):
        return None, None
    if torch.arch_list is None:
        return None, Answer("loader", "unknown", "which library it loads is unknown: torch is not for NVIDIA's GPUs")
    row = _as_row(package)
    loader = loader_of(matrix, row)
    if loader is None or loader.rule == "libcudart":
        because = "it takes what fits a libcudart on the search paths" if loader else "the matrix has no rule for it"
        return None, Answer("loader", "unknown", f"which library it loads is unknown: {because}")
    library, missing = _chosen(row, loader, torch, situation)
    if library is None:
        return None, Answer("loader", "no", f"it finds no library: {missing}")
    return library.name, Answer("loader", "yes", f"beside torch {torch.version} it loads {library.name}")


def _chosen(
    row: BitsandbytesWheel, loader: LoaderRule, torch: FoundPackage, situation: Situation
) -> tuple[NativeLibrary | None, str]:
    """What a loader takes, and what it looked for."""
    if torch.cuda is None or not situation.gpus:
        return next((one for one in row.libraries if one.backend == "cpu"), None), "it ships none for the CPU"
    wanted = situation.facts.environment.get(loader.override) if loader.override else None
    if wanted:
        named = (one for one in row.libraries if one.name.startswith(f"libbitsandbytes_cuda{wanted}."))
        return next(named, None), f"{loader.override} is {shown(wanted)}"
    libraries = loadable(situation, loader, row)
    have = " ".join(library_cuda(one) for one in libraries) or "none"
    return loaded_library(loader, libraries, torch.cuda), f"torch is for CUDA {torch.cuda}, its libraries for {have}"


def _as_row(package: FoundPackage) -> BitsandbytesWheel:
    """A bitsandbytes package as a row of the matrix, for the rules on what is loaded."""
    return BitsandbytesWheel(
        version=package.version or "",
        filename=package.place,
        sha256=package.sha256 or "",
        size=0,
        os=package.os or "",
        machine=package.machine or "",
        libc_tag=package.libc_tag,
        requires_python=package.requires_python,
        requires_dist=package.requires_dist,
        libraries=tuple(NativeLibrary(one.name, one.backend, one.sass, one.ptx) for one in package.libraries),
        evidence=Evidence("measured", package.place, ""),
    )
