"""Looking at a CUDA toolkit: whether all that a build needs is in it, and what its own programs say they can do.

The layouts: NVIDIA's (``bin``, ``include``, ``lib64``, the last two links into ``targets/<target>``), conda's (without
``lib64``), that of the Python packages (``include`` and ``lib``), and Debian's, whose compiler lies in
``lib/nvidia-cuda-toolkit`` and everything else where all headers and libraries of the system do.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from bnbenv.build.hostcompiler import Limits
from bnbenv.errors import Failed
from bnbenv.matrix.model import Matrix
from bnbenv.matrix.model import Toolkit as Row
from bnbenv.matrix.toolkits import compile_targets, glibc_end, host_compilers, tool_version
from bnbenv.paths import exists
from bnbenv.process import Command, Finished, Runner

LIMIT = 30.0  # seconds for one answer of nvcc or ptxas; the first from a slow disk

_TARGETS = {"x86_64": ("x86_64-linux",), "aarch64": ("sbsa-linux", "aarch64-linux")}
_PROGRAMS = ("nvcc", "ptxas")
_HEADERS = ("cuda_runtime.h", "crt/host_config.h", "cublas_v2.h", "cublasLt.h", "cub/cub.cuh")
_LIBRARIES = ("libcudart.so", "libcublas.so", "libcublasLt.so")
# What the source of a release links beside them (cuSPARSE through 0.49.2), and what must be there for it.
EXTRAS = {"cusparse": (("cusparse.h",), ("libcusparse.so",))}


class Look(NamedTuple):
    """A toolkit as it lies there. ``missing`` names the files that a build needs and that are not in it."""

    root: Path
    nvcc: Path
    includes: tuple[Path, ...]
    libraries: tuple[Path, ...]
    missing: tuple[str, ...]

    def header(self, name: str) -> Path | None:
        """The place of a header, None where it is missing."""
        return next((place for folder in self.includes if exists(place := folder / name)), None)


def look_at(root: Path, machine: str, extras: tuple[str, ...] = ()) -> Look:
    """What is in a toolkit's folder. ``extras`` are names of ``EXTRAS``. Raises nothing."""
    bases = [root, *(root / "targets" / name for name in _TARGETS.get(machine, ()))]
    if root.name == "nvidia-cuda-toolkit" and root.parent.name == "lib":
        bases.append(root.parent.parent)  # Debian's
    includes = [base / "include" for base in bases]
    includes += [folder / "cccl" for folder in includes]
    libraries = [base / name for base in bases for name in ("lib64", "lib", f"lib/{machine}-linux-gnu")]
    headers, links = [*_HEADERS], [*_LIBRARIES]
    for extra in extras:
        headers += EXTRAS[extra][0]
        links += EXTRAS[extra][1]
    missing = [name for name in _PROGRAMS if not exists(root / "bin" / name)]
    missing += [name for name in headers if not any(exists(folder / name) for folder in includes)]
    missing += [name for name in links if not any(exists(folder / name) for folder in libraries)]
    return Look(root, root / "bin" / "nvcc", tuple(includes), tuple(libraries), tuple(missing))


def nvcc_version(nvcc: Path, runner: Runner) -> str:
    """The version that nvcc gives itself (``13.0.88``). Raises Failed (``bad-toolkit``)."""
    return tool_version(_answer((str(nvcc), "--version"), runner).stdout)


def release_of(version: str) -> str:
    """``13.0`` of ``13.0.88``."""
    return ".".join(version.split(".")[:2])


def targets_of(root: Path, cuda: str, matrix: Matrix, runner: Runner) -> tuple[str, ...]:
    """The SASS targets of a toolkit: as the matrix has measured them, else as its assembler lists them.

    Raises Failed (``bad-toolkit``).
    """
    row = row_of(matrix, cuda)
    if row is not None:
        return row.sass
    return compile_targets(_answer((str(root / "bin" / "ptxas"), "--help"), runner).stdout)[0]


def limits_of(look: Look) -> Limits:
    """The host compilers that a toolkit takes, by its own headers. Raises Failed (``bad-toolkit``)."""
    taken = host_compilers(_header(look, "crt/host_config.h"))
    end = glibc_end(_header(look, "crt/math_functions.h"))
    return Limits(taken.gcc_max, taken.clang_min, taken.clang_max, end)


def _header(look: Look, name: str) -> str:
    header = look.header(name)
    try:
        return header.read_text("utf-8", "replace") if header else ""
    except OSError as error:
        raise Failed("bad-toolkit", f"{header} cannot be read: {error.strerror}", _AGAIN) from None


def row_of(matrix: Matrix, cuda: str) -> Row | None:
    """What the matrix knows of a toolkit's release."""
    return next((row for row in matrix.toolkits if row.cuda == cuda), None)


def limits_in(row: Row) -> Limits:
    """The same of a release from packages, as measured before."""
    return Limits(row.gcc_max, row.clang_min, row.clang_max, _GLIBC_END.get(row.cuda))


# What crt/math_functions.h of the packages says: from 13.2 on it knows glibc 2.42.
_GLIBC_END = {"13.0": (2, 42), "13.1": (2, 42)}
_AGAIN = "Install that toolkit again, or name another: CUDA_HOME"
_OWN = {"NVCC_PREPEND_FLAGS": None, "NVCC_APPEND_FLAGS": None, "LC_ALL": "C"}


def _answer(words: tuple[str, ...], runner: Runner) -> Finished:
    try:
        done = runner.run(Command(words, LIMIT, _OWN))
    except OSError as error:
        step = _AGAIN
        if isinstance(error, PermissionError):  # a home folder that is mounted so
            step = "Is its file system mounted noexec? Then set BNBENV_HOME to a folder elsewhere."
        raise Failed("bad-toolkit", f"{words[0]} cannot be started: {error.strerror}", step) from None
    if not done.ok:
        how = "did not answer" if done.timed_out else f"failed: {(done.stderr.strip() or 'it said nothing')[:200]}"
        raise Failed("bad-toolkit", f"{words[0]} {how}", _AGAIN)
    return done
