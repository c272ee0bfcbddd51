"""What has to be done to bring an environment in sync, and why. A plan is a value; ``sync`` carries it out."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

import msgspec

from bnbenv.envs.check import InUse, Reason
from bnbenv.envs.generations import Generation
from bnbenv.envs.lockfile import Locked
from bnbenv.envs.record import Record, versions_in
from bnbenv.facts.model import HostFacts
from bnbenv.matrix.model import Matrix, TorchBuild
from bnbenv.matrix.native import library_cuda
from bnbenv.solve.model import KEEP, Availability, Choice, Existing, Request, Solution
from bnbenv.solve.refusal import refuse
from bnbenv.solve.situation import situate, with_request
from bnbenv.solve.solver import choose
from bnbenv.solve.versions import admits, is_built, public

# Reasons that only ask for a new look: the packages themselves are as they should be.
_LOOK_AGAIN = frozenset(
    {
        *("host-changed", "gpu-lost", "driver-too-old", "driver-asked", "base-changed"),
        *("unverified", "wishes-changed", "lock-changed", "lock-missing", "switch-unfinished"),
    }
)


class Step(Enum):
    """What has to be done once the lock to use is known."""

    NOTHING = "nothing"
    RECORD = "record"  # the generation in use is right: verify it and renew its record
    REUSE = "reuse"  # a finished generation holds just this lock: verify it and switch
    STAGE = "stage"  # a new generation


@dataclass(frozen=True)
class EnvPlan:
    """The plan for one environment. ``lock`` is None where a new one has to be made, ``why_lock`` says why.

    ``notes`` are about GPUs that are gone. ``verified``: the kernels of the generation to switch to ran on this host.
    ``open``: packages that the new lock may hold as well lie in a generation, which only locking tells.
    ``adopted``: the generation that it is about was made by others, so that it needs no lock.
    """

    env: str
    reasons: tuple[Reason, ...]
    lock: Locked | None
    why_lock: str | None
    step: Step
    reuse: Generation | None = None
    notes: tuple[str, ...] = ()
    verified: bool = False
    open: bool = False
    adopted: bool = False

    @property
    def in_sync(self) -> bool:
        return self.step is Step.NOTHING and (self.lock is not None or self.adopted)

    def actions(self, solution: Solution | None, current: Record | None) -> list[dict[str, Any]]:
        """The steps in order, for people and ``--json``."""
        words: list[tuple[str, str]] = []
        if self.lock is None and not self.adopted:
            target = describe(solution) if solution else "what fits"
            if solution is not None and solution.choice.compiled:
                words.append(("build", f"{_to_compile(solution)}, or take the wheel that was made of it before"))
            words.append(("lock", f"{target}{_difference(solution, current)}, since {self.why_lock}"))
        words += self._steps()
        return [{"env": self.env, "action": action, "what": what} for action, what in words]

    def _steps(self) -> list[tuple[str, str]]:
        if self.step is Step.STAGE:
            unless = ", unless one holds just these files" if self.open else ""
            return [
                ("stage", f"make a new generation from the lock{unless}"),
                ("verify", f"run its kernels against references{', unless they ran on this host' if unless else ''}"),
                ("switch", f"point .venv-{self.env} at it"),
            ]
        if self.step is Step.REUSE and self.reuse is not None:
            number = self.reuse.number
            what = self.reuse.prefix if self.adopted else f"generation {number}, which holds this lock"
            switch = ("switch", f"point .venv-{self.env} at {what}")
            return [switch] if self.verified else [("verify", f"run the kernels of generation {number}"), switch]
        if self.step is Step.RECORD:
            return [("verify", "run the kernels again and renew the record; the packages stay")]
        return []


def describe(solution: Solution) -> str:
    """``bitsandbytes 0.50.2 with torch 2.15.0 (CUDA 13.2)`` and the override, if one is needed.

    ``on top of`` a torch that is kept.
    """
    choice = solution.choice
    torch = f"torch {choice.torch.version} ({f'CUDA {choice.torch.cuda}' if choice.torch.cuda else 'CPU'})"
    override = "".join(f", {name}={value}" for name, value in choice.environment.items())
    joined = "on top of" if choice.torch.source == "existing" else "with"
    return f"{choice.title} {joined} {torch}{override}" if choice.versions else f"{torch}{override}"


def _to_compile(solution: Solution) -> str:
    """``compile bitsandbytes 0.50.2 for sm_52 with CUDA 12.8``."""
    chosen = solution.choice.bitsandbytes
    archs = " ".join(dict.fromkeys(cover.bitsandbytes.removeprefix("sass ") for cover in solution.covers))
    cuda = library_cuda(chosen.library) or solution.choice.torch.cuda
    return f"compile bitsandbytes {public(chosen.version)} for {archs} with CUDA {cuda}"


def _difference(solution: Solution | None, current: Record | None) -> str:
    if solution is None or current is None:
        return ""
    had, before = current.decision.get("choice", {}), versions_in(current.decision)
    pairs = [
        ("torch", had.get("torch", {}).get("version"), solution.choice.torch.version),
        *((name, *_versions(before.get(name), name, solution)) for name in solution.choice.versions),
        ("Python", had.get("python"), solution.choice.python),
    ]
    changes = [f"{name} {old} -> {new}" for name, old, new in pairs if old and old != new]
    return f" ({', '.join(changes)})" if changes else ""


def lock_problem(
    locked: Locked, env: str, wishes_digest: str, request: Request, facts: HostFacts, matrix: Matrix
) -> str | None:
    """Why a lock cannot be used for these wishes on this host; None if it can. Pure.

    Raises RebootRequired if the driver's module and library differ.
    """
    decision, choice = locked.decision, locked.decision.solution.choice
    if decision.env != env:
        return f"it is the lock of {decision.env}"
    if decision.wishes != wishes_digest:
        return "the wishes changed"
    if request.torch != KEEP and not admits(request.torch, choice.torch.version):
        return f"torch {request.torch} was asked for and it holds {choice.torch.version}"
    version = choice.versions.get("bitsandbytes")
    if version is not None and not admits(request.bitsandbytes, version, pre=is_built(version)):
        return f"bitsandbytes {request.bitsandbytes} was asked for and it holds {version}"
    return fits_host(locked, request, facts, matrix)


def fits_host(locked: Locked, request: Request, facts: HostFacts, matrix: Matrix) -> str | None:
    """Why a lock's choice is not a solution for this host; None if it is. Raises RebootRequired."""
    solution, choice = locked.decision.solution, locked.decision.solution.choice
    backend = situate(facts, matrix, request, Availability(), managed=True).backend
    if backend != solution.backend:
        return f"it was made for {solution.backend} and this host calls for {backend}"
    again = judged_again(choice, _locked_torch(locked, matrix), request, facts, matrix)
    if isinstance(again, str):
        return f"{describe(solution)} does not fit this host: {again}"
    loads = [one.wheel.library if one.wheel is not None else None for one in (again.choice, choice)]
    if again.choice.environment != choice.environment or loads[0] != loads[1]:
        return "bitsandbytes would load another library here than the one it was made for"
    if again.visible_devices != solution.visible_devices:
        return "the selected GPUs are others than those it was made for"
    return None


def _versions(had: str | None, name: str, solution: Solution) -> tuple[str | None, str]:
    """The version that is there and the new one; of a build that is still to be made there is only the release."""
    choice = solution.choice
    new = choice.versions[name]
    to_build = choice.compiled and name not in choice.hashes
    return (new if to_build and had and had.partition("+")[0] == new else had), new


def judged_again(
    choice: Choice, torch: tuple[TorchBuild, ...], request: Request, facts: HostFacts, matrix: Matrix
) -> Solution | str:
    """The solver on a choice alone, with just these rows for its torch; a text says what stands against it. Pure.

    A bitsandbytes that was compiled is judged as any wheel is: the matrix has to have its row.
    """
    below = choice.torch.source == "existing"  # where a pre-release is what there is, and not one to be asked for
    pinned = with_request(
        request,
        torch=KEEP if below else f"==={choice.torch.version}",
        bitsandbytes=f"==={choice.wheel.version}" if choice.wheel is not None else "*",
        python=f"=={choice.python}.*",
        build="never",
        prefer="newest",
        current=None,
    )
    held = choice.versions.items()
    packages = tuple(row for row in matrix.packages if (row.name, row.version) in held)
    only = Availability(existing=Existing(torch[0], choice.python)) if below else Availability(local=torch)
    narrowed = msgspec.structs.replace(matrix, torch=(), packages=packages)
    again = choose(facts, narrowed, pinned, only)
    return again if again is not None else refuse(facts, narrowed, pinned, only).conflict[0].because


def _locked_torch(locked: Locked, matrix: Matrix) -> tuple[TorchBuild, ...]:
    """The rows of the locked build: the matrix's own where it knows the build, since a lock may say anything."""
    row = locked.decision.torch
    keys = ("version", "source", "index", "cuda", "os", "machine")
    known = [one for one in matrix.torch if all(getattr(one, key) == getattr(row, key) for key in keys)]
    return tuple(known) or (row,)


def only_look_again(reasons: tuple[Reason, ...]) -> bool:
    """Whether the packages in use are as they should be, so that a new look at the host is enough."""
    return all(reason.code in _LOOK_AGAIN for reason in reasons)


def next_step(
    lock_digest: str | None, use: InUse, reasons: tuple[Reason, ...], finished: tuple[Generation, ...], fresh: bool
) -> tuple[Step, Generation | None]:
    """What to do for a lock: nothing, look again, switch to a finished generation, or stage. Pure.

    ``lock_digest`` is None where a new lock has to be made; ``finished`` are usable generations with that lock whose
    packages are as recorded, the oldest first.
    """
    if fresh or lock_digest is None:
        return Step.STAGE, None
    intact = use.record is not None and only_look_again(reasons)
    if intact and use.record is not None and use.record.lock == lock_digest:
        return (Step.RECORD if reasons else Step.NOTHING), None
    others = [generation for generation in finished if generation.number != use.generation]
    if others:
        return Step.REUSE, others[-1]
    return Step.STAGE, None
