"""The compatibility rules on one torch build or one bitsandbytes wheel, whatever the other is. Pure.

A rule that stands against a candidate adds its name and the reason; no entry means that it fits.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

from bnbenv.facts.model import Gpu
from bnbenv.matrix.drivers import at_least, family_minimum, number
from bnbenv.matrix.model import BitsandbytesWheel, TorchBuild
from bnbenv.solve.coverage import ptx_for, sass_for
from bnbenv.solve.model import KEEP
from bnbenv.solve.situation import DRIVER_RULES_SOURCE, Fails, PythonOption, Reason, Situation
from bnbenv.solve.versions import admits, is_built

ASKED_NOW = "the package sources, asked just now"


def source_key(build: TorchBuild) -> str:
    """How availability names where a torch build comes from: ``default-index``, ``pytorch-index/cu126``."""
    return f"{build.source}/{build.index}" if build.index else build.source


def label(build: TorchBuild) -> str:
    """A torch build for people: ``torch 2.15.0 (CUDA 13.2, default-index)``."""
    return f"torch {build.version} ({f'CUDA {build.cuda}' if build.cuda else 'CPU'}, {source_key(build)})"


def torch_fails(situation: Situation, build: TorchBuild, quick: bool = False) -> Fails:
    """Everything that stands against a torch build on this host, whatever bitsandbytes is.

    ``quick``: only whether anything does; what is found first is enough.
    """
    fails: Fails = {}
    evidence = build.evidence.source
    libc_fails(situation, build.libc_tag, lambda: label(build), evidence, fails)
    if situation.request.torch != KEEP and not admits(situation.request.torch, build.version):
        fails["torch-wish"] = Reason(f"torch {situation.request.torch} was asked for", "the request")
    if quick and fails:
        return fails
    if not torch_pythons(situation, build):
        fails["python"] = Reason(python_reason(situation, label(build), build.pythons), evidence)
    _reachable(situation, build, fails)
    if build.source in ("default-index", "pytorch-index"):
        jetson_fails(situation, fails)
    if situation.backend == "cuda":
        if build.cuda is None:
            fails["torch-cuda"] = Reason(f"{label(build)} has no CUDA", evidence)
        else:
            driver_runs(situation, build.cuda, fails)
            for gpu in situation.gpus:
                if quick and fails:
                    return fails
                _torch_covers(situation, build, gpu, fails)
    return fails


def _torch_covers(situation: Situation, build: TorchBuild, gpu: Gpu, fails: Fails) -> None:
    if sass_for(gpu.capability, build.arch_list):
        return
    ptx = ptx_for(gpu.capability, build.arch_list)
    if ptx and compiles_ptx(situation, build.cuda or ""):
        return
    have = " ".join(build.arch_list) or "nothing"
    because = f"{label(build)} has no code for GPU {gpu.index} ({gpu.name}, {gpu.arch}); it has {have}"
    if ptx:
        because = f"{label(build)} has only PTX for GPU {gpu.index} ({gpu.arch}), {ptx_need(situation, build.cuda)}"
    fails[f"torch-{'ptx' if ptx else 'arch'}[{gpu.index}]"] = Reason(because, build.evidence.source)


def ptx_need(situation: Situation, cuda: str | None) -> str:
    row = situation.drivers.get(cuda or "")
    bundled = row and (row.bundled_windows if situation.windows_driver else row.bundled_linux)
    return f"which needs driver {bundled or f'of CUDA {cuda}'} or newer"


def compiles_ptx(situation: Situation, cuda: str) -> bool:
    """Whether the driver can compile the PTX that a toolkit wrote: it must be as new as that toolkit."""
    row = situation.drivers.get(cuda)
    version = situation.driver.version
    if row is None or version is None:
        return situation.driver.cuda is not None and at_least(situation.driver.cuda, cuda)
    bundled = row.bundled_windows if situation.windows_driver else row.bundled_linux
    return bundled is not None and at_least(version, bundled)


def driver_runs(situation: Situation, cuda: str, fails: Fails) -> None:
    """Minor-version compatibility: any driver of the CUDA major's family runs the SASS of all its releases."""
    driver = situation.driver
    row = situation.drivers.get(cuda) or family_minimum(situation.drivers.values(), cuda)
    if row is None:
        fails["driver-cuda"] = Reason(f"the matrix does not say which driver CUDA {cuda} needs", "the matrix")
        return
    need = row.family_min_windows if situation.windows_driver else row.family_min_linux
    if driver.version is not None:
        if not at_least(driver.version, need):
            because = f"CUDA {cuda} needs driver {need} or newer; this is {driver.version}"
            fails["driver-cuda"] = Reason(because, row.source)
    elif driver.cuda is None:
        because = f"the driver's version is unknown and CUDA {cuda} needs {need} or newer"
        fails["driver-cuda"] = Reason(because, row.source)
    elif number(driver.cuda)[:1] < number(cuda)[:1]:
        because = f"CUDA {cuda} needs a driver for CUDA {cuda.split('.')[0]}; this one supports {driver.cuda}"
        fails["driver-cuda"] = Reason(because, DRIVER_RULES_SOURCE)


def libc_fails(situation: Situation, tag: str | None, what: Callable[[], str], source: str, fails: Fails) -> None:
    """Whether the host has the glibc that a wheel's tag names."""
    libc = situation.facts.platform.libc
    if tag is None or libc is None:
        return
    if libc.name != "glibc":
        fails["libc"] = Reason(f"{what()} is built for glibc; this host has {libc.name} {libc.version}", source)
    elif not at_least(libc.version, tag):
        fails["libc"] = Reason(f"{what()} is tagged for glibc {tag}; this host has {libc.version}", source)


def torch_pythons(situation: Situation, build: TorchBuild) -> tuple[PythonOption, ...]:
    """The interpreters that a torch build has wheels for, in the order of preference."""
    return _for_tags(situation.pythons, None if build.source == "existing" else build.pythons, build.requires_python)


@lru_cache(maxsize=4096)
def _for_tags(
    options: tuple[PythonOption, ...], tags: tuple[str, ...] | None, spec: str | None
) -> tuple[PythonOption, ...]:
    return tuple(
        option
        for option in options
        if (tags is None or f"cp{option.minor.replace('.', '')}" in tags)
        and (spec is None or admits(spec, option.full))
    )


def python_reason(situation: Situation, what: str, needs: tuple[str, ...] | str) -> str:
    """Why no interpreter fits: ``needs`` are wheel tags or a specifier."""
    needs = needs if isinstance(needs, str) else " ".join(re.sub(r"^cp3(?=\d)", "3.", tag) for tag in needs)
    have = ", ".join(option.minor for option in situation.pythons)
    if not have:
        found = ", ".join(python.version for python in situation.facts.pythons) or "none"
        return f"no Python here fits {situation.request.python} (found: {found})"
    return f"{what} is for Python {needs}; there is {have}"


def _reachable(situation: Situation, build: TorchBuild, fails: Fails) -> None:
    key = source_key(build)
    reason = situation.availability.unreachable.get(key)
    offered = situation.availability.torch.get(key)
    if offered is not None and build.version in offered:
        return
    if reason is not None:
        fails["reachable"] = Reason(f"{key} cannot be reached: {reason}", ASKED_NOW)
    elif offered is not None:
        fails["reachable"] = Reason(f"{key} does not offer torch {build.version}", ASKED_NOW)


def wheel_fails(situation: Situation, wheel: BitsandbytesWheel) -> Fails:
    """Everything that stands against a bitsandbytes wheel on this host, whatever torch is."""
    fails: Fails = {}
    what = f"bitsandbytes {wheel.version}"
    # One for any platform names no version, though its binaries are built for glibc, too.
    tag = "0" if wheel.filename.endswith("-any.whl") else wheel.libc_tag
    libc_fails(situation, tag, lambda: what, wheel.filename, fails)
    if not admits(situation.request.bitsandbytes, wheel.version, pre=is_built(wheel.version)):
        wish = situation.request.bitsandbytes
        fails["bitsandbytes-wish"] = Reason(f"bitsandbytes {wish} was asked for", "the request")
    if not wheel_pythons(situation, wheel):
        reason = python_reason(situation, what, wheel.requires_python or "*")
        fails["python"] = Reason(reason, wheel.filename)
    offered = situation.availability.bitsandbytes
    if offered is not None and wheel.filename not in offered:
        closed = situation.availability.unreachable.get("default-index")
        why = f"; default-index cannot be reached: {closed}" if closed else ""
        because = f"no source here offers {wheel.filename}{why}"
        fails["reachable"] = Reason(because, ASKED_NOW)
    if not is_built(wheel.version):
        jetson_fails(situation, fails)
    return fails


def jetson_fails(situation: Situation, fails: Fails) -> None:
    """Published binaries do not run on a Jetson with L4T."""
    release = situation.facts.platform.jetson
    if release and situation.backend == "cuda":
        because = f"Jetson with L4T {release} is not the server kind of aarch64: published wheels do not run there"
        because += ", only NVIDIA's own torch with a bitsandbytes compiled for it (--torch keep)"
        fails["jetson"] = Reason(because, "bitsandbytes installation guide")


def wheel_pythons(situation: Situation, wheel: BitsandbytesWheel) -> frozenset[str]:
    """The minors of the interpreters that a wheel admits."""
    return frozenset(option.minor for option in _for_tags(situation.pythons, None, wheel.requires_python))
