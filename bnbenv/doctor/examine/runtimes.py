"""The copies of CUDA libraries that a process of an environment may meet, each with the release that is known of it."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator

from bnbenv.doctor.examine.disk import Disk, Stop
from bnbenv.doctor.examine.linking import CUDA_LIBRARY, Linker
from bnbenv.doctor.model import Runtime

_MOST = 200
_FULL = re.compile(r"\.so\.([0-9]+\.[0-9]+\.[0-9]+(?:\.[0-9]+)*)$")
_METADATA = re.compile(r"nvidia[_-](\w+?)([_-]cu[0-9]+)?-([0-9][\w.]*)\.dist-info", re.IGNORECASE)
# The nvidia package that holds a library, without the CUDA major that some names end with.
_PACKAGES = {
    "cudart": "cuda_runtime",
    "cublas": "cublas",
    "cublasLt": "cublas",
    "cusparse": "cusparse",
    "cusparseLt": "cusparselt",
    "cusolver": "cusolver",
    "cusolverMg": "cusolver",
    "curand": "curand",
    "cufft": "cufft",
    "cudnn": "cudnn",
    "nvrtc": "cuda_nvrtc",
    "nvJitLink": "nvjitlink",
    "nccl": "nccl",
    "cupti": "cuda_cupti",
}


def find_runtimes(
    linker: Linker, disk: Disk, search: tuple[str, ...], torch: str | None, prefix: str | None
) -> tuple[Runtime, ...]:
    """Those that are loaded, then the others: LD_LIBRARY_PATH, packages, the linker's cache."""
    found: dict[tuple[int, int], Runtime] = {}
    used = [(one.path, one.via, True) for one in linker.objects if _is_cuda(one.path)]
    for path, via, is_used in (*used, *_places(linker, disk, search, torch, prefix)):
        file = disk.identity(path)
        if file is None or file in found or len(found) >= _MOST:
            continue
        try:
            dynamic = disk.dynamic(path)
        except Stop:
            continue
        if dynamic is None:
            continue
        soname = dynamic.soname or posixpath.basename(path)
        if CUDA_LIBRARY.fullmatch(soname):
            found[file] = Runtime(soname, path, via, _release(disk, path, soname), is_used)
    return tuple(found.values())


def _is_cuda(path: str) -> bool:
    return bool(CUDA_LIBRARY.fullmatch(posixpath.basename(path)))


def _places(
    linker: Linker, disk: Disk, search: tuple[str, ...], torch: str | None, prefix: str | None
) -> Iterator[tuple[str, str, bool]]:
    """Every file that is called like one, and the way to it."""
    folders = [(folder, "LD_LIBRARY_PATH") for folder in linker.search.library_path]
    for site in search:
        nvidia = f"{site}/nvidia"
        folders += [(f"{nvidia}/{name}/lib", "package") for name in disk.listed(nvidia)]
    folders += [(f"{torch}/lib", "package")] if torch else []
    folders += [(f"{prefix}/lib", "package")] if prefix else []
    for folder, via in folders:
        for path in disk.matching(folder.rstrip("/"), CUDA_LIBRARY):
            if not path.endswith(".so"):  # a link for compilers
                yield path, via, False
    for name, path in (linker.search.cache.paths if linker.search.cache else {}).items():
        if name.startswith("lib") and CUDA_LIBRARY.fullmatch(name) and not name.endswith(".so"):
            yield path, "ld-cache", False


def _release(disk: Disk, path: str, soname: str) -> str | None:
    """By the real file's name, else by the metadata beside the folder ``nvidia`` that it lies in."""
    real = disk.real(path)
    full = _FULL.search(posixpath.basename(real))
    match = CUDA_LIBRARY.fullmatch(soname)
    site, nvidia, _ = real.rpartition("/nvidia/")
    if full or not match or not nvidia:
        return full[1] if full else None
    package, number = _PACKAGES.get(match[1]), soname.rpartition(".")[2]
    names = [_METADATA.fullmatch(name) for name in disk.listed(site) if name[:6].lower() == "nvidia"]
    # A package's release begins with the number of its library, whatever the CUDA.
    fitting = [one for one in names if one and one[1].lower() == package and one[3].partition(".")[0] == number]
    # Those of several majors lie side by side: nvidia/cu13/lib is of packages without a suffix.
    of_cuda = bool(re.search(r"/nvidia/cu[0-9]+/", real))
    fitting.sort(key=lambda one: bool(one[2]) == of_cuda)
    return fitting[0][3] if fitting else None
