"""What the solver says for a machine and an environment: a bitsandbytes for its torch, a pair, a build. Pure."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from bnbenv.build.order import of_version, ordered
from bnbenv.doctor.fixes.model import Chosen
from bnbenv.doctor.model import Cause, Examination, Said
from bnbenv.errors import BnbenvError
from bnbenv.facts.model import Driver, Gpu, HostFacts, Libc, Platform, Python
from bnbenv.matrix.model import BitsandbytesWheel, Evidence, Matrix, NativeLibrary, TorchBuild
from bnbenv.matrix.rows import is_version
from bnbenv.solve.model import KEEP, Availability, Existing, Request, Solution
from bnbenv.solve.situation import on_windows_driver
from bnbenv.solve.solver import solve, try_out
from bnbenv.solve.versions import public

# What another torch may be the answer to: the package sources have to be asked which they offer.
PAIR: frozenset[Cause] = frozenset({"driver_too_old", "cpu_only_torch", "no_kernel_image", "python_abi", "rocm"})
PAIR_CODES = frozenset({"torch-missing", "torch-lacks-gpu", "torch-rocm", "undefined-torch-symbol"})


def needs_pair(wanted: Iterable[tuple[str, Cause]], chosen: Chosen) -> bool:
    """Whether what was found (codes and causes) asks for another torch."""
    return any(cause in PAIR or code in PAIR_CODES for code, cause in wanted) or chosen.kept is None


def decide(
    examination: Examination | None, said: Said | None, matrix: Matrix, offered: Availability | None = None
) -> Chosen:
    """What the solver says. ``offered`` is what the package sources offer, which decides over a pair; None: they were
    not asked, and the matrix alone decides.
    """
    if examination is None or examination.target.python is None:
        return Chosen(suits=_suits(examination, said, matrix))
    facts, installed = _facts(examination), examination.bitsandbytes
    existing = existing_torch(examination)
    chosen = Chosen(no_kept="its torch cannot be judged")
    if existing is not None:
        chosen = _for_existing(chosen, facts, matrix, existing, installed.version if installed else None)
    found = msgspec.structs.replace(offered or Availability(), managed_python=False)
    pair, why = _asked(facts, matrix, Request(python=">=3", build="never"), found)
    chosen = msgspec.structs.replace(chosen, pair=pair.choice if pair else None, no_pair=why)
    return msgspec.structs.replace(chosen, hashes=_hashes(facts, matrix), driver=_driver(existing, facts, matrix))


def _for_existing(
    chosen: Chosen, facts: HostFacts, matrix: Matrix, existing: Existing, installed: str | None
) -> Chosen:
    keep = Request(torch=KEEP, python=">=3", build="never")  # a wheel first: a build is asked for below
    found = Availability(existing=existing, managed_python=False)
    if installed is not None and is_version(installed):
        same = msgspec.structs.replace(keep, bitsandbytes=f"=={installed}")
        known = _with_compiled(matrix, facts, installed)
        chosen = msgspec.structs.replace(chosen, stays=_asked(facts, known, same, found, reason=False)[0] is not None)
    kept, why = _asked(facts, matrix, keep, found)
    chosen = msgspec.structs.replace(chosen, kept=kept.choice if kept else None, no_kept=why)
    if kept is not None:
        return chosen
    build, _ = _asked(facts, matrix, msgspec.structs.replace(keep, build="always"), found, reason=False)
    if build is None:
        return chosen
    archs = ordered(cover.bitsandbytes.removeprefix("sass ") for cover in build.covers)
    return msgspec.structs.replace(chosen, build=build.choice, build_archs=archs)


def _with_compiled(matrix: Matrix, facts: HostFacts, version: str) -> Matrix:
    """The matrix, and a wheel that bnbenv compiled, as its version says what it holds; else as it is."""
    order, platform = of_version(version), facts.platform
    if order is None:
        return matrix
    release = next((one for one in matrix.bitsandbytes if public(one.version) == public(version)), None)
    name = f"libbitsandbytes_cuda{order.cuda.replace('.', '')}.so"
    row = BitsandbytesWheel(
        version=version,
        filename="",
        sha256="",
        size=0,
        os=platform.os,
        machine=platform.machine,
        libc_tag=None,
        requires_python=release.requires_python if release else None,
        requires_dist=release.requires_dist if release else (),
        libraries=(NativeLibrary(name, "cuda", order.archs),),
        evidence=Evidence("declared", version, ""),
    )
    return msgspec.structs.replace(matrix, bitsandbytes=(row, *matrix.bitsandbytes))


def _asked(
    facts: HostFacts, matrix: Matrix, request: Request, found: Availability, reason: bool = True
) -> tuple[Solution | None, str]:
    """The solver's choice, or None and the first reason against one."""
    try:
        solution = try_out(facts, matrix, request, found)
        if solution is not None or not reason:
            return solution, ""
        refusal = solve(facts, matrix, request, found)
    except BnbenvError as error:
        return None, error.message
    if isinstance(refusal, Solution):
        return refusal, ""
    return None, refusal.conflict[0].because if refusal.conflict else "nothing fits"


def _facts(examination: Examination) -> HostFacts:
    """The host with no Python but the environment's own, and without the override that may be what is wrong."""
    target, facts = examination.target, examination.facts
    version = target.version or "3"
    environment = {name: value for name, value in facts.environment.items() if name != "BNB_CUDA_VERSION"}
    pythons = (Python(target.python or "", version),)
    return msgspec.structs.replace(facts, pythons=pythons, environment=environment)


def existing_torch(examination: Examination) -> Existing | None:
    """The torch of an environment as a row for the solver; None where there is none that it can judge."""
    torch, facts, version = examination.torch, examination.facts, examination.target.version
    if torch is None or torch.fault or torch.hip or torch.version is None or not is_version(torch.version):
        return None
    if version is None or version.count(".") < 1:
        return None
    package, triton = examination.package("torch"), examination.package("triton")
    build = TorchBuild(
        version=torch.version,
        source="existing",
        os=facts.platform.os,
        machine=facts.platform.machine,
        cuda=torch.cuda,
        arch_list=torch.arch_list,
        pythons=(f"cp{''.join(version.split('.')[:2])}",),
        requires_dist=package.requires_dist if package else (),
        evidence=Evidence("measured", torch.path, ""),
        triton=triton.version if triton else None,
        path=torch.path,
    )
    return Existing(build, version)


def _hashes(facts: HostFacts, matrix: Matrix) -> dict[str, str]:
    here = (facts.platform.os, facts.platform.machine)
    return {f"bitsandbytes=={one.version}": one.sha256 for one in matrix.bitsandbytes if (one.os, one.machine) == here}


def _driver(existing: Existing | None, facts: HostFacts, matrix: Matrix) -> str | None:
    """The first driver that runs the CUDA of a torch."""
    cuda = existing.torch.cuda if existing else None
    row = next((one for one in matrix.drivers if one.cuda == cuda), None)
    if row is None:
        return None
    return row.family_min_windows if on_windows_driver(facts) else row.family_min_linux


def _suits(examination: Examination | None, said: Said | None, matrix: Matrix) -> str | None:
    """The newest bitsandbytes for the torch that a text names, on a machine that lacks nothing else."""
    if said is None or said.torch is None or not is_version(said.torch):
        return None
    system, cuda = said.os or "linux", said.torch_cuda
    of_that = [one for one in matrix.torch if public(one.version) == public(said.torch)]
    rows = [one for one in of_that if (one.os, one.machine, one.cuda) == (system, "x86_64", cuda) and cuda is not None]
    if not rows:
        return None
    wanted = said.capability or ("8.0" if "sm_80" in rows[0].arch_list else "")
    if not wanted.replace(".", "", 1).isdigit():
        return None
    python = next((tag[3:] for tag in reversed(rows[0].pythons) if tag.startswith("cp3") and tag[3:].isdigit()), "11")
    version = said.python if said.python and said.python.startswith("3.") else f"3.{python}"
    row = msgspec.structs.replace(rows[0], source="existing", pythons=(f"cp{''.join(version.split('.')[:2])}",))
    facts = HostFacts(
        platform=Platform(os=system, machine="x86_64", libc=Libc("glibc", "2.39") if system == "linux" else None),
        driver=Driver(state="ok", version="999"),
        gpus=(Gpu(0, "GPU-0", said.gpu or "the GPU of the text", wanted if "." in wanted else f"{wanted}.0", 0),),
        pythons=(Python("python", version),),
    )
    found = Availability(existing=Existing(row, version), managed_python=False)
    keep = Request(torch=KEEP, python=">=3", build="never")
    solution = _asked(facts, matrix, keep, found, reason=False)[0]
    return solution.choice.bitsandbytes.version if solution else None
