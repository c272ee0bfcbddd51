"""Which native library a bitsandbytes will load on a host. Pure.

Sources, read in the wheels: ``bitsandbytes/cuda_setup/main.py`` of 0.37.2 to 0.42.0, ``bitsandbytes/cextension.py`` of
0.43.3 to 0.50.2; the loader's rule of each version is in the matrix.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass

from bnbenv.doctor.examine.devices import Available, cuda_available
from bnbenv.doctor.model import Bitsandbytes, Loads, Torch
from bnbenv.facts.model import HostFacts
from bnbenv.matrix.drivers import number
from bnbenv.matrix.model import LoaderRule, Matrix, NativeLibrary
from bnbenv.solve.pairs import loaded_library, loader_for

_SUFFIXES = {"linux": ".so", "windows": ".dll", "macos": ".dylib"}
_CUBLASLT = (7, 5)  # the first compute capability that needs no _nocublaslt twin
_CUDART = re.compile(r"libcudart\.so\.([0-9]+)\.([0-9]+)\.[0-9]+")  # a whole release; 11.0 alone is all of 11
_ROCM = re.compile(r"libbitsandbytes_rocm([0-9])([0-9]+)\.")


@dataclass(frozen=True)
class _Case:
    """What decides, at hand. ``version`` is that of bitsandbytes as numbers, ``suffix`` that of its libraries."""

    names: frozenset[str]
    version: tuple[int, ...]
    shown: str
    loader: LoaderRule
    suffix: str

    def found(self, name: str, because: str, override: str | None = None) -> Loads:
        """It loads what has that name, if that is there."""
        if name in self.names:
            return Loads(answer="yes", because=because, library=name, override=override)
        because = f"{because}, and there is no such file{self._instead(name)}"
        return Loads(answer="no", because=because, wanted=name, override=override)

    def cpu(self, why: str) -> Loads:
        return self.found(self._cpu, f"{why}: it loads its CPU library")

    @property
    def _cpu(self) -> str:
        return f"libbitsandbytes_cpu{self.suffix}"

    def _instead(self, name: str) -> str:
        """What a version does where its library for the GPU is not there."""
        silent = name != self._cpu and (0, 43) <= self.version < (0, 46) and self._cpu in self.names
        return "; it then loads its CPU library, with a warning alone" if silent else ""


def which_library(
    bitsandbytes: Bitsandbytes,
    torch: Torch | None,
    override: str | None,
    facts: HostFacts,
    matrix: Matrix,
    libcudarts: tuple[str, ...] | None = None,
) -> Loads:
    """The library that this version loads beside that torch, by the rule that the matrix has for the version.

    ``override`` is the value of ``BNB_CUDA_VERSION`` in its process, empty where it is set to nothing, null where it is
    not set; that of ``BNB_ROCM_VERSION`` is in the facts. ``libcudarts`` are the copies of libcudart on the search
    paths that versions through 0.40 look at (``cudart.libcudarts``), null where they were not looked for.
    """
    version = bitsandbytes.version or bitsandbytes.own_version
    loader = loader_for(matrix, version) if version else None
    if version is None or loader is None:
        because = f"nothing tells what version {version or 'that is not known'} loads"
        return Loads(answer="unknown", because=because)
    case = _Case(
        names=frozenset(one.name for one in bitsandbytes.libraries),
        version=number(version),
        shown=version,
        loader=loader,
        suffix=_SUFFIXES.get(facts.platform.os, ".so") if number(version) >= (0, 43) else ".so",
    )
    if torch is not None and torch.version is not None:
        if torch.xpu and case.version >= (0, 48):
            return _xpu(case, torch.xpu)
        if torch.hip:
            return _rocm(case, torch.hip, override, facts)
    available = cuda_available(torch, facts, matrix)
    if available.answer == "no":
        return case.cpu(available.because)
    if torch is None or torch.cuda is None:
        return Loads(answer="unknown", because=available.because)
    loads = _cuda(case, torch, torch.cuda, override, available, libcudarts)
    if available.answer == "yes":
        return loads
    because = f"{available.because}; if torch can use them: {loads.because}"
    return Loads(answer="unknown", because=because, library=loads.library, wanted=loads.wanted, override=loads.override)


def _cuda(
    case: _Case,
    torch: Torch,
    cuda: str,
    override: str | None,
    available: Available,
    libcudarts: tuple[str, ...] | None,
) -> Loads:
    """With a GPU that torch can use."""
    if case.loader.rule == "libcudart":
        return _by_libcudart(case, available, libcudarts)
    twin = "_nocublaslt" if _old(case, available) else ""
    exact = f"libbitsandbytes_cuda{''.join(cuda.split('.')[:2])}{twin}{case.suffix}"
    if case.loader.override and override is not None:
        digits = override.isdigit()
        if case.version >= (0, 50) and not digits:
            because = f"{case.loader.override} is {override!r}, which is not digits only: it refuses to load anything"
            return Loads(answer="no", because=because, override=override)
        if override:
            name = _overridden(case, exact, override)
            return case.found(name, f"{case.loader.override}={override} names {name}", override)
    libraries = [
        NativeLibrary(name, "cuda")
        for name in sorted(case.names)
        if name.startswith("libbitsandbytes_cuda")
        and name.endswith(case.suffix)
        and ("_nocublaslt" in name) == bool(twin)
    ]
    chosen = loaded_library(case.loader, libraries, cuda)
    name = chosen.name if chosen else exact
    because = f"torch {torch.version} is for CUDA {cuda}: {case.shown} takes {name}"
    return case.found(name, because)


def _overridden(case: _Case, exact: str, override: str) -> str:
    """The file name that a version makes of what it would load and BNB_CUDA_VERSION; some of them spoil it."""
    if case.version < (0, 43, 1):
        return f"{exact[:-6]}{override}.so"
    if case.version < (0, 44):  # bitsandbytes issue 1312: digits are only cut off at the very end
        return f"{exact[: -len(case.suffix)].rstrip('0123456789')}{override}{case.suffix}"
    return re.sub(r"cuda\d+", lambda _: f"cuda{override}", exact, count=1)


def _old(case: _Case, available: Available) -> bool:
    """Whether a twin without cuBLASLt is taken: where the highest of all visible GPUs is below 7.5."""
    highest = max((gpu.capability for gpu in available.gpus), default=_CUBLASLT)
    return case.loader.nocublaslt and highest < _CUBLASLT


def _by_libcudart(case: _Case, available: Available, libcudarts: tuple[str, ...] | None) -> Loads:
    """Through 0.40: the release of the libcudart that is found decides, whatever torch was built with."""
    what = "it takes what fits the libcudart on its search paths"
    if libcudarts is None:
        return Loads(answer="unknown", because=f"{what}, which were not looked at")
    if not libcudarts:
        return case.cpu("no libcudart.so is in CONDA_PREFIX/lib, LD_LIBRARY_PATH or /usr/local/cuda/lib64")
    twins = {gpu.capability < _CUBLASLT for gpu in available.gpus}
    named = [_CUDART.search(posixpath.basename(one)) for one in libcudarts]
    releases = {f"{match[1]}{match[2]}" if match else "" for match in named}
    if len(releases) != 1 or "" in releases or len(twins) > 1:
        return Loads(answer="unknown", because=f"{what}, and finds {', '.join(libcudarts)}: any of them may decide")
    twin = "_nocublaslt" if twins == {True} else ""
    name = f"libbitsandbytes_cuda{releases.pop()}{twin}{case.suffix}"
    return case.found(name, f"it finds {libcudarts[0]} and takes {name}")


def _rocm(case: _Case, hip: str, override: str | None, facts: HostFacts) -> Loads:
    """Whether an AMD GPU can be used the facts do not tell."""
    if case.version < (0, 46):
        return Loads(answer="no", because=f"torch is for ROCm {hip}, which {case.shown} does not support")
    major, minor = (int(part) for part in [*re.findall(r"[0-9]+", hip), "0", "0"][:2])
    chosen = facts.environment.get("BNB_ROCM_VERSION") if case.version >= (0, 50) else None
    if chosen is not None and not chosen.isdigit():
        because = f"BNB_ROCM_VERSION is {chosen!r}, which is not digits only: it refuses to load anything"
        return Loads(answer="no", because=because, override=chosen)
    if (0, 47) <= case.version < (0, 50) and override:
        because = f"BNB_CUDA_VERSION is {override!r} and torch is for ROCm: it refuses to load anything"
        return Loads(answer="no", because=because, override=override)
    name = f"libbitsandbytes_rocm{chosen or _rocm_number(case, major, minor)}{case.suffix}"
    because = f"torch is for ROCm {hip}: with an AMD GPU that it can use, {case.shown} takes {name}"
    if name in case.names:
        return Loads(answer="unknown", because=because, library=name, override=chosen)
    return Loads(answer="unknown", because=f"{because}, and there is no such file", wanted=name, override=chosen)


def _rocm_number(case: _Case, major: int, minor: int) -> str:
    """Through 0.49 the exact one, written as one number; then the rule is that of CUDA."""
    if case.version < (0, 50):
        return str(major * 10 + minor)
    have = sorted((int(match[1]), int(match[2])) for name in case.names if (match := _ROCM.match(name)))
    same = [one for one in have if one[0] == major]
    lower = [one for one in same if one <= (major, minor)]
    best = lower[-1] if lower else same[0] if same else (major, minor)
    return f"{best[0]}{best[1]}"


def _xpu(case: _Case, xpu: str) -> Loads:
    """torch's own build decides, whatever GPU there is."""
    versioned = f"libbitsandbytes_xpu{xpu[:4]}{case.suffix}"
    plain = f"libbitsandbytes_xpu{case.suffix}"
    name = versioned if case.version >= (0, 50) and versioned in case.names else plain
    return case.found(name, f"torch is for XPU {xpu}: it takes {name}")
