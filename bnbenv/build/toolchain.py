"""All that compiles for a CUDA release: toolkit, host compiler, CMake and Ninja; or why it cannot be had.

CUDA 13 comes from packages, and from the system where they cannot be had; what is older from the system alone.
"""

from __future__ import annotations

import platform
import sys
from pathlib import Path
from typing import Literal, NamedTuple

from bnbenv.build.advice import complete_toolkit, install_toolkit
from bnbenv.build.hostcompiler import find_host_compiler
from bnbenv.build.model import HostCompiler, Toolchain
from bnbenv.build.packaged import (
    can_hold,
    get_toolkit,
    get_tools,
    kept_toolkit,
    kept_tools,
    requirements,
)
from bnbenv.build.ports import Ports
from bnbenv.build.toolkit import (
    Look,
    limits_in,
    limits_of,
    look_at,
    nvcc_version,
    release_of,
    row_of,
    targets_of,
)
from bnbenv.errors import BnbenvError, NoCombination, SourceUnreachable
from bnbenv.facts.model import Toolkit
from bnbenv.matrix.drivers import number
from bnbenv.matrix.model import Matrix

# One chip under two names: Thor is sm_101 until CUDA 12.9, sm_110 from CUDA 13.0 on.
_RENAMED = {"sm_101": "sm_110", "sm_110": "sm_101"}


class _Usable(NamedTuple):
    """A toolkit that is complete and is of the release that was asked for."""

    look: Look
    nvcc: str
    sass: tuple[str, ...]
    origin: Literal["packages", "system"]


class _Unusable(NamedTuple):
    """A toolkit that is not; ``near``: it is of that release and lacks something."""

    root: Path
    why: str
    near: tuple[str, ...] = ()


def prepare(
    cuda: str,
    archs: tuple[str, ...],
    ports: Ports,
    matrix: Matrix,
    toolkits: tuple[Toolkit, ...],
    extras: tuple[str, ...] = (),
) -> Toolchain:
    """A toolchain of a CUDA release (``13.0``) for targets (``sm_90``); made first where it is from packages.

    ``toolkits`` are those of this machine, ``extras`` further libraries that the source links (``cusparse``). Raises
    NoCombination: ``toolkit-arch``, ``no-toolkit``; Failed: ``no-host-compiler``, ``host-compiler-unfit``,
    ``bad-toolkit``, ``no-space``; SourceUnreachable; Busy; OSError.
    """
    machine = _machine()
    check_known(cuda, archs, ports, matrix)
    if can_hold(cuda) and kept_toolkit(cuda, ports.home, extras) is None:
        _check_host(cuda, ports, matrix, machine)  # before a gigabyte is fetched
    usable = _toolkit(cuda, ports, matrix, toolkits, machine, extras)
    _check_archs(cuda, archs, usable.sass, ports, matrix)
    host, note = find_host_compiler(ports, limits_of(usable.look), cuda, machine)
    if note:
        ports.progress.say(note)
    tools = get_tools(ports)
    return _toolchain(cuda, usable, host, tools.cmake, tools.ninja)


def prepared(cuda: str, ports: Ports, extras: tuple[str, ...] = ()) -> Toolchain | None:
    """The toolchain from packages, if it is there and whole. Nothing is asked of the network, and nothing made."""
    kept, tools = kept_toolkit(cuda, ports.home, extras), kept_tools(ports.home)
    if kept is None or tools is None:
        return None
    try:
        machine = _machine()
        look = look_at(kept.root, machine)
        host, _ = find_host_compiler(ports, limits_of(look), cuda, machine)
    except BnbenvError:
        return None
    return _toolchain(cuda, _Usable(look, kept.nvcc, kept.sass, "packages"), host, tools.cmake, tools.ninja)


def within_reach(cuda: str, archs: tuple[str, ...], ports: Ports, matrix: Matrix, toolkits: tuple[Toolkit, ...]) -> str:
    """Why no toolchain of a CUDA release can be had for these targets, and what helps; empty where one can.

    Nothing is downloaded and nothing kept. It takes a second or less where the package sources answer.
    """
    try:
        machine = _machine()
        check_known(cuda, archs, ports, matrix)
        why = _why_not_packaged(cuda, ports)
        if why:
            usable, others = _system(cuda, ports, matrix, toolkits, machine, ())
            if usable is None and can_hold(cuda):
                return f"the compiler of CUDA {cuda} cannot be had: {why}"
            if usable is None:
                raise _no_toolkit(cuda, others, ports)
            _check_archs(cuda, archs, usable.sass, ports, matrix)
            find_host_compiler(ports, limits_of(usable.look), cuda, machine)
        else:
            _check_host(cuda, ports, matrix, machine)
        if kept_tools(ports.home) is None:
            why = ports.packages.missing(("cmake", "ninja"))
            return f"CMake and Ninja cannot be had: {why}" if why else ""
    except BnbenvError as error:
        step = error.next_step.rstrip(".")
        return f"{error.message}; {step[:1].lower()}{step[1:]}" if step else error.message
    return ""


def _why_not_packaged(cuda: str, ports: Ports) -> str:
    """Why a toolkit cannot be had from packages, empty where it can."""
    if not can_hold(cuda):
        return "packages hold a compiler from CUDA 13 on only"
    return "" if kept_toolkit(cuda, ports.home) is not None else ports.packages.missing(requirements(cuda))


def _machine() -> str:
    """The machine that compiles. Raises NoCombination where bnbenv does not compile."""
    machine = platform.machine()
    if sys.platform != "linux" or machine not in ("x86_64", "aarch64"):
        message = f"bnbenv compiles on Linux for x86_64 and aarch64, and this is {sys.platform} on {machine}"
        raise NoCombination("no-toolkit", message, "Take a published wheel: bnbenv sync --no-build")
    return machine


def _toolchain(cuda: str, usable: _Usable, host: HostCompiler, cmake: str, ninja: str) -> Toolchain:
    return Toolchain(cuda, usable.nvcc, str(usable.look.root), usable.origin, usable.sass, host, cmake, ninja)


def _toolkit(
    cuda: str,
    ports: Ports,
    matrix: Matrix,
    toolkits: tuple[Toolkit, ...],
    machine: str,
    extras: tuple[str, ...],
) -> _Usable:
    """Raises as ``prepare``."""
    refused: BnbenvError | None = None
    if can_hold(cuda):
        try:
            got = get_toolkit(cuda, ports, matrix, machine, extras)
            return _Usable(look_at(got.root, machine, extras), got.nvcc, got.sass, "packages")
        except (NoCombination, SourceUnreachable) as error:
            refused = error
    usable, others = _system(cuda, ports, matrix, toolkits, machine, extras)
    if usable is None:
        raise refused or _no_toolkit(cuda, others, ports)
    if refused is not None:
        ports.progress.say(f"{usable.look.root} compiles, since its packages cannot be had: {refused.message}")
    return usable


def _system(
    cuda: str,
    ports: Ports,
    matrix: Matrix,
    toolkits: tuple[Toolkit, ...],
    machine: str,
    extras: tuple[str, ...],
) -> tuple[_Usable | None, list[_Unusable]]:
    """The first toolkit of this machine that does, and what is the matter with those before it."""
    others: list[_Unusable] = []
    for toolkit in toolkits:
        root = Path(toolkit.path)
        look = look_at(root, machine, extras)
        if "nvcc" in look.missing:
            others.append(_Unusable(root, "has no nvcc"))
            continue
        try:
            version = nvcc_version(look.nvcc, ports.runner)  # what a toolkit's version.json says may be another's
            if release_of(version) != cuda:
                others.append(_Unusable(root, f"is CUDA {release_of(version)}"))
            elif look.missing:
                others.append(_Unusable(root, f"lacks {', '.join(look.missing)}", look.missing))
            else:
                return _Usable(look, version, targets_of(root, cuda, matrix, ports.runner), "system"), others
        except BnbenvError as error:
            others.append(_Unusable(root, error.message))
    return None, others


def _no_toolkit(cuda: str, others: list[_Unusable], ports: Ports) -> NoCombination:
    release = ports.sysroot.read("/etc/os-release") or ""
    near = next((other for other in others if other.near), None)
    detail = "\n".join(f"{other.root} {other.why}" for other in others)
    if near is not None:
        message = f"the toolkit of CUDA {cuda} on this machine is not complete: {near.root} {near.why}"
        return NoCombination("no-toolkit", message, complete_toolkit(release, cuda, near.root, near.near), detail)
    only = "" if can_hold(cuda) else f", and {_why_not_packaged(cuda, ports)}"
    found = f" (here: {', '.join(f'{other.root} {other.why}' for other in others)})" if others else ""
    message = f"there is no toolkit of CUDA {cuda} on this machine{only}{found}"
    return NoCombination("no-toolkit", message, install_toolkit(release, cuda))


def check_known(cuda: str, archs: tuple[str, ...], ports: Ports, matrix: Matrix) -> None:
    """Raises NoCombination (``toolkit-arch``) for targets that a release is known not to compile for."""
    row = row_of(matrix, cuda)
    if row is not None:
        _check_archs(cuda, archs, row.sass, ports, matrix)


def _check_host(cuda: str, ports: Ports, matrix: Matrix, machine: str) -> None:
    """Raises Failed where no host compiler is one that this release is known to take."""
    row = row_of(matrix, cuda)
    if row is not None:
        find_host_compiler(ports, limits_in(row), cuda, machine)


def _major(release: str) -> str:
    return release.partition(".")[0]


def _check_archs(cuda: str, archs: tuple[str, ...], sass: tuple[str, ...], ports: Ports, matrix: Matrix) -> None:
    """Raises NoCombination (``toolkit-arch``), which names the toolkits that can."""
    impossible = [arch for arch in archs if arch not in sass]
    if not impossible:
        return
    message = f"the compiler of CUDA {cuda} cannot compile for {', '.join(impossible)}"
    renamed = [(arch, _RENAMED[arch]) for arch in impossible if _RENAMED.get(arch) in sass]
    if len(renamed) == len(impossible):
        said = ", ".join(f"{arch} is called {other} there" for arch, other in renamed)
        wanted = dict.fromkeys(dict(renamed).get(arch, arch) for arch in archs)
        raise NoCombination("toolkit-arch", f"{message}: {said}", f"Ask for {' '.join(f'--arch {a}' for a in wanted)}")
    able = [row.cuda for row in matrix.toolkits if all(arch in row.sass for arch in archs)]
    torches = {row.cuda for row in matrix.torch}
    best = max(able, key=lambda one: (one in torches, _major(one) == _major(cuda), number(one)), default=None)
    if best is None:
        step = "No toolkit that is known here compiles for all that was asked; ask for fewer architectures at once."
        raise NoCombination("toolkit-arch", message, step)
    which = f"{message}; that of CUDA {best} can"
    named = " ".join(f"--arch {arch}" for arch in archs)
    other = f"a torch for CUDA {_major(best)}, and: " if _major(best) != _major(cuda) else ""
    step = f"Take {other}bnbenv build --cuda {best} {named}"
    if not can_hold(best):
        step += f". {install_toolkit(ports.sysroot.read('/etc/os-release') or '', best)}"
    raise NoCombination("toolkit-arch", which, step)
