"""The C++ compiler of this machine that nvcc works with: those there are, asked for real, against the toolkit's limits.

nvcc refuses compilers that are too new; its ``crt/host_config.h`` names the newest. The oldest is that of CUB, which
the CUDA code of bitsandbytes includes: gcc 7 and clang 7 (``cub/util_cpp_dialect.cuh`` of CUDA 13.0).
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from bnbenv.build.advice import install_compiler, install_compiler_of
from bnbenv.build.model import HostCompiler
from bnbenv.build.ports import Ports
from bnbenv.errors import BnbenvError, Failed
from bnbenv.process import Command, Runner

OLDEST = 7  # gcc and clang, for C++17
LIMIT = 20.0  # seconds for one answer; the first start of a compiler from a slow disk

# nvcc's own variable, CMake's for CUDA, and everybody's.
_VARIABLES = ("NVCC_CCBIN", "CUDAHOSTCXX", "CXX")
_LAUNCHERS = ("ccache", "sccache", "distcc", "icecc")
_DRIVERS = {"gcc": "g++", "clang": "clang++", "cc": "c++"}  # of C, and of C++ beside it
_NAME = re.compile(r"(?:\w+(?:-\w+)*-linux-gnu-)?(?:g\+\+|c\+\+|clang\+\+)(?:-(\d+))?")
_OTHERS = {
    "__INTEL_COMPILER": "Intel's compiler",
    "__INTEL_CLANG_COMPILER": "Intel's compiler",
    "__NVCOMPILER": "the compiler of NVIDIA's HPC SDK",
}
_MACHINES = {"__x86_64__": "x86_64", "__aarch64__": "aarch64"}
# What it is asked to read is what every CUDA source includes: a compiler without the headers of C++ is none.
_SOURCE = "#include <cstdint>\n#include <type_traits>\n"


class Limits(NamedTuple):
    """What a toolkit takes, null where no limit is known.

    The newest major of gcc, the oldest and the newest of clang, and the first glibc that its headers contradict.
    """

    gcc_max: int | None
    clang_min: int | None
    clang_max: int | None
    glibc_end: tuple[int, int] | None = None


@dataclass(frozen=True)
class Asked:
    """What a compiler says of itself. ``trouble`` says why it cannot be used by anybody, empty where it can.

    ``glibc`` is the C library whose headers it finds, where that is one.
    """

    compiler: HostCompiler
    trouble: str = ""
    glibc: tuple[int, int] | None = None


def find_host_compiler(ports: Ports, limits: Limits, cuda: str, machine: str) -> tuple[HostCompiler, str]:
    """The host compiler for a CUDA release, and a sentence where it is not this machine's usual one.

    One that a variable names is the one. Raises Failed: ``no-host-compiler``, ``host-compiler-unfit``.
    """
    named = _named(ports.environ)
    if named is not None:
        return _check_named(named, ports, limits, cuda, machine), ""
    asked: list[Asked] = []
    path = ports.environ.get("PATH", os.defpath)
    usual = [found for name in ("c++", "g++") if (found := shutil.which(name, path=path))]
    for place in usual:
        answer = ask(place, ports.runner, machine)
        asked.append(answer)
        if not unfit(answer, limits, cuda):
            return answer.compiler, ""
    asked += [ask(place, ports.runner, machine) for place in _versioned(path) if place not in usual]
    fit = [one.compiler for one in asked if not unfit(one, limits, cuda)]
    if not fit:
        raise _none(asked, limits, cuda, ports)
    best = max(fit, key=lambda one: (one.kind == "gcc", _numbers(one.version)))
    if not usual:
        return best, ""
    return best, f"{best.path} compiles in place of {asked[0].compiler.path}: {unfit(asked[0], limits, cuda)}"


def ask(place: str, runner: Runner, machine: str) -> Asked:
    """What a compiler says of itself, by the macros that it predefines. Raises nothing."""
    unknown = HostCompiler(place, "gcc", "")
    words = (place, "-std=c++17", "-dM", "-E", "-x", "c++", "-")
    try:
        done = runner.run(Command(words, LIMIT, {"LC_ALL": "C"}, stdin=_SOURCE))
        headers = done.ok
        if not headers and not done.timed_out:  # one that is too old for C++17 can still say so
            done = runner.run(Command((place, *words[2:]), LIMIT, {"LC_ALL": "C"}, stdin=""))
    except OSError as error:
        return Asked(unknown, f"cannot be started: {error.strerror}")
    if not done.ok:
        said = "did not answer" if done.timed_out else (done.stderr.strip().splitlines() or ["it does not compile"])[0]
        return Asked(unknown, said)
    return read_macros(place, done.stdout, machine, headers)


def read_macros(place: str, text: str, machine: str, headers: bool = True) -> Asked:
    """A compiler by its predefined macros. ``headers``: it found those of C++. Pure."""
    macros = dict(re.findall(r"^#define (__\w+) (\S+)$", text, re.M))
    clang = "__clang_major__" in macros
    gcc_names = ("__GNUC__", "__GNUC_MINOR__", "__GNUC_PATCHLEVEL__")
    names = ("__clang_major__", "__clang_minor__", "__clang_patchlevel__") if clang else gcc_names
    version = ".".join(macros.get(name, "0") for name in names)
    compiler = HostCompiler(place, "clang" if clang else "gcc", version)
    other = next((what for name, what in _OTHERS.items() if name in macros), "")
    made_for = next((name for macro, name in _MACHINES.items() if macro in macros), "another machine")
    if names[0] not in macros:
        return Asked(compiler, "is neither gcc nor clang")
    if other:
        return Asked(compiler, f"is {other}, which nvcc does not take")
    if made_for != machine:
        return Asked(compiler, f"compiles for {made_for} and not for {machine}")
    if not headers and _numbers(version)[0] >= OLDEST:
        return Asked(compiler, "does not find the headers of C++ (cstdint)")
    known = [macros.get(name, "") for name in ("__GLIBC__", "__GLIBC_MINOR__")]
    glibc = (int(known[0]), int(known[1])) if all(part.isdecimal() for part in known) else None
    return Asked(compiler, glibc=glibc)


def unfit(asked: Asked, limits: Limits, cuda: str) -> str:
    """Why a compiler does not do for a toolkit, empty where it does. Pure."""
    if asked.trouble:
        return asked.trouble
    one = asked.compiler
    newest = limits.gcc_max if one.kind == "gcc" else limits.clang_max
    oldest = max(OLDEST, limits.clang_min or 0) if one.kind == "clang" else OLDEST
    major = _numbers(one.version)[0]
    if newest is not None and major > newest:
        return f"CUDA {cuda} takes {one.kind} up to {newest}, and this is {one.version}"
    if major < oldest:
        return f"{one.kind} {oldest} or newer is needed for C++17, and this is {one.version}"
    if _beyond(asked, limits):
        return f"the headers of CUDA {cuda} contradict those of its C library, glibc {_dotted(asked.glibc)}"
    return ""


def _beyond(asked: Asked, limits: Limits) -> bool:
    """Whether it includes a C library that the toolkit's headers do not know."""
    return asked.glibc is not None and limits.glibc_end is not None and asked.glibc >= limits.glibc_end


def _dotted(version: tuple[int, int] | None) -> str:
    return ".".join(map(str, version or ()))


def _named(environ: Mapping[str, str]) -> tuple[str, str] | None:
    """The compiler that a variable names, and the variable. Words before and behind it, as in CXX, are left out."""
    for variable in _VARIABLES:
        value = environ.get(variable, "").strip()
        if not value:
            continue
        try:
            words = shlex.split(value)
        except ValueError:
            words = [value]
        if len(words) > 1 and Path(words[0]).name in _LAUNCHERS:
            words = words[1:]
        return variable, words[0] if words else value
    return None


def _check_named(named: tuple[str, str], ports: Ports, limits: Limits, cuda: str, machine: str) -> HostCompiler:
    variable, word = named
    step = f"Unset {variable}, or let it name another compiler."
    place = shutil.which(_of_cpp(word), path=ports.environ.get("PATH", os.defpath))
    if place is None:
        message = f"{variable} names a compiler that is not there: {word}"
        raise Failed("no-host-compiler", message, step)
    answer = ask(place, ports.runner, machine)
    why = unfit(answer, limits, cuda)
    if why:
        raise Failed("host-compiler-unfit", f"the compiler that {variable} names cannot be used: {place}: {why}", step)
    return answer.compiler


def _of_cpp(word: str) -> str:
    """The compiler of C++ where that of C, or the folder of both, is named, as nvcc admits."""
    place = Path(word)
    if place.is_dir():
        return str(place / "g++")
    name = re.sub(r"(?:(?<=-)|^)(gcc|clang|cc)(?=-\d+$|$)", lambda found: _DRIVERS[found[1]], place.name)
    return str(place.with_name(name)) if place.name else word


def _versioned(path: str) -> Iterable[str]:
    """All compilers on PATH by any of their names, each path once."""
    found: dict[str, None] = {}
    for folder in path.split(os.pathsep):
        try:
            names = sorted(os.listdir(folder)) if folder else []
        except OSError:
            continue
        places = [str(Path(folder, name)) for name in names if _NAME.fullmatch(name)]
        found |= dict.fromkeys(place for place in places if os.access(place, os.X_OK))
    return found


def _none(asked: list[Asked], limits: Limits, cuda: str, ports: Ports) -> BnbenvError:
    release = ports.sysroot.read("/etc/os-release") or ""
    if not asked:
        message = "there is no C++ compiler on this machine, and nvcc needs one"
        return Failed("no-host-compiler", message, f"Install it: {install_compiler(release)}")
    lines = dict.fromkeys(f"{one.compiler.path}: {unfit(one, limits, cuda)}" for one in asked)
    message = f"no C++ compiler of this machine does for CUDA {cuda}: {next(iter(lines))}"
    usable = [one for one in asked if not one.trouble]
    if not usable:
        return Failed("host-compiler-unfit", message, f"Install one: {install_compiler(release)}", "\n".join(lines))
    step = install_compiler_of(release, OLDEST, limits.gcc_max)
    if all(_beyond(one, limits) for one in usable):  # another compiler includes the same headers
        step = "Take CUDA 13.2 or newer, which knows them: --cuda 13.2. Another g++ does not help."
    return Failed("host-compiler-unfit", message, step, "\n".join(lines) if len(lines) > 1 else "")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)) or (0,)
