"""Does an environment that others made fit this host and the wishes? Judged by the solver's own rules. Nothing is run.

Its torch and its bitsandbytes are measured where they lie, and are the only candidates.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from bnbenv.envs.families import family_named, family_of
from bnbenv.envs.foreign import Foreign
from bnbenv.envs.lockfile import normalized
from bnbenv.envs.wishes import EnvWish
from bnbenv.errors import BnbenvError, Failed, UsageError
from bnbenv.facts.model import HostFacts
from bnbenv.matrix.installed import read_installed_bitsandbytes, read_installed_torch
from bnbenv.matrix.model import BitsandbytesWheel, Family, Matrix, TorchBuild
from bnbenv.solve.model import (
    KEEP,
    Availability,
    BitsandbytesChoice,
    Choice,
    EvidenceLine,
    Existing,
    FamilyName,
    PackageChoice,
    Request,
    Solution,
    TorchChoice,
)
from bnbenv.solve.refusal import refuse
from bnbenv.solve.situation import situate, with_request
from bnbenv.solve.solver import choose
from bnbenv.solve.versions import admits

OF_FAMILY: dict[str, FamilyName] = {"bnb": "bitsandbytes", "bitsandbytes": "bitsandbytes", "gptq": "gptq", "awq": "awq"}


@dataclass(frozen=True)
class Fitness:
    """What an environment holds, as a solution, and why it does not fit; ``against`` is None where it does.

    ``notes`` are what could not be judged.
    """

    solution: Solution
    against: str | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Held:
    """What decides in an environment: the version of its torch, and that torch and bitsandbytes as they were measured.

    ``damage`` is why one of them, which is there, could not be.
    """

    version: str
    torch: TorchBuild | None
    bitsandbytes: BitsandbytesWheel | None
    damage: str | None = None


def measure(found: Foreign) -> Held:
    """Measure torch and bitsandbytes. Raises UsageError where there is no torch, Failed where it is none for NVIDIA.

    Of one that is damaged the version is known by its metadata: who has a broken environment wants another one like it.
    """
    try:
        torch = read_installed_torch(found.site)
    except (BnbenvError, OSError) as error:
        version = found.version_of("torch")
        if version is None or (isinstance(error, BnbenvError) and error.code == "not-cuda"):
            step = f"See what is in it: bnbenv doctor {found.prefix}"
            raise Failed("bad-torch", f"the torch in {found.prefix} cannot be judged: {error}", step) from None
        return Held(version, None, None, f"torch {version} is damaged: {error}")
    if torch is None and found.below:
        message = f"there is no torch in {found.prefix} itself: it takes what the Python below it has"
        step = 'For an environment on top of that one, set torch = "keep" in bnbenv.toml, then run: bnbenv sync'
        raise UsageError("no-torch", message, step)
    if torch is None:
        message = f"there is no torch in {found.prefix}, so bnbenv has nothing to keep working there"
        raise UsageError("no-torch", message, "Make an environment with it: bnbenv sync")
    try:
        return Held(torch.version, torch, read_installed_bitsandbytes(found.site))
    except (BnbenvError, OSError) as error:
        return Held(torch.version, torch, None, f"bitsandbytes is damaged: {error}")


def families_in(found: Foreign, families: Iterable[Family]) -> dict[FamilyName, tuple[str, ...]]:
    """The families of which something is installed, with those packages."""
    known: dict[FamilyName, tuple[str, ...]] = {}
    for one in families:
        names = tuple(name for name in one.packages if name in found.names)
        if names and one.name in OF_FAMILY:
            known[OF_FAMILY[one.name]] = names
    return known


def family_for(env: str | None, there: Iterable[FamilyName]) -> FamilyName:
    """The family to adopt an environment as: the one that its new name says, else bitsandbytes, else the first."""
    known = tuple(there)
    asked = OF_FAMILY.get(env or "")
    if asked in known:
        return asked
    return "bitsandbytes" if "bitsandbytes" in known else known[0] if known else "none"


def judge(found: Foreign, held: Held, wish: EnvWish, request: Request, facts: HostFacts, matrix: Matrix) -> Fitness:
    """Whether what an environment holds is a solution for this host and for its wishes. Raises RebootRequired."""
    choice, missing = _choice(found, held, wish.family, matrix)
    existing = Availability(existing=Existing(held.torch, found.version) if held.torch else None, managed_python=False)
    asked = with_request(
        request,
        torch=KEEP,
        bitsandbytes=f"==={held.bitsandbytes.version}" if held.bitsandbytes else "*",
        python=f"=={found.python}.*",
        package="".join(f"{one.name}==={one.version}" for one in choice.packages[:1]),
        build="never",
        prefer="newest",
        current=None,
    )
    plain = Solution(
        backend=situate(facts, matrix, asked, existing, managed=False).backend,
        choice=choice,
        covers=(),
        evidence=_evidence(held),
        rejected=(),
    )
    against = missing or _unlike(found, held, wish, request)
    if against is not None:
        return Fitness(plain, against)
    rows = tuple(row for row in matrix.packages if choice.versions.get(row.name) == row.version)
    notes = []
    if choice.packages and not any(row.name == choice.packages[0].name for row in rows):
        notes.append(f"not judged: {choice.title}, of which nothing is known; its torch was")
        asked = with_request(asked, family="none", package="")
    own = (held.bitsandbytes,) if held.bitsandbytes else ()
    narrowed = msgspec.structs.replace(matrix, torch=(), bitsandbytes=own, packages=rows)
    answer = choose(facts, narrowed, asked, existing)
    if answer is None:
        return Fitness(plain, refuse(facts, narrowed, asked, existing).conflict[0].because, tuple(notes))
    solution = msgspec.structs.replace(answer, choice=_taken(choice, answer.choice), rejected=(), notes=())
    return Fitness(solution, _unset(answer), tuple(notes))


def _choice(found: Foreign, held: Held, family: FamilyName, matrix: Matrix) -> tuple[Choice, str | None]:
    """What is there as a choice, and what is missing of it or damaged, if anything is."""
    torch = TorchChoice(version=held.version, cuda=held.torch.cuda if held.torch else None, source="existing")
    own = family_named(family, matrix.families)
    names = own.packages if own is not None else ()
    there = [(name, found.version_of(name)) for name in names if name in found.names]
    missing = None
    if names and not there:
        missing = f"an environment of the family {family} is asked for, and it holds no {' and no '.join(names)}"
    if family == "bitsandbytes":
        version = held.bitsandbytes.version if held.bitsandbytes else found.version_of("bitsandbytes")
        wheel = BitsandbytesChoice(version or "0", "existing", "", "", "") if there or version else None
        return Choice(found.python, torch, {}, wheel), held.damage or missing
    packages = tuple(PackageChoice(name, version or "0", "existing", "", "") for name, version in there)
    return Choice(found.python, torch, {}, packages=packages), (held.damage if not held.torch else None) or missing


def _taken(choice: Choice, judged: Choice) -> Choice:
    """What is there, with the library that the solver says is loaded, and what must be set."""
    wheel = choice.wheel
    if wheel is not None and judged.wheel is not None:
        wheel = msgspec.structs.replace(judged.wheel, source="existing")
    return msgspec.structs.replace(choice, wheel=wheel, environment=judged.environment)


def _unlike(found: Foreign, held: Held, wish: EnvWish, request: Request) -> str | None:
    """How it differs from what bnbenv.toml asked for before, if it does."""
    from packaging.requirements import Requirement

    pairs = [("Python", request.python, found.version), ("torch", request.torch, held.version)]
    if held.bitsandbytes is not None:
        pairs.append(("bitsandbytes", request.bitsandbytes, held.bitsandbytes.version))
    for name, spec, version in pairs:
        if spec != KEEP and not admits(spec, version, pre=True):
            return f"{name} {spec} was asked for and it holds {version}"
    for text in (*wish.requirements, *([wish.package] if wish.package else [])):
        asked = Requirement(text)
        there = found.version_of(normalized(asked.name))
        if there is None or not asked.specifier.contains(there, prereleases=True):
            return f"{text} was asked for and it holds {there or 'none'}"
    return None


def _unset(answer: Solution) -> str | None:
    """What would have to be set in it, which nobody does: bnbenv writes nothing into an environment of others."""
    values = dict(answer.choice.environment)
    if answer.visible_devices:
        values["CUDA_VISIBLE_DEVICES"] = ",".join(answer.visible_devices)
    if not values:
        return None
    return f"it needs {' and '.join(f'{name}={value}' for name, value in values.items())}, and nothing in it sets that"


def _evidence(held: Held) -> tuple[EvidenceLine, ...]:
    measured = (("torch", held.torch), ("bitsandbytes", held.bitsandbytes))
    return tuple(
        EvidenceLine(f"{name} {row.version}", row.evidence.level, row.evidence.source, row.evidence.date)
        for name, row in measured
        if row is not None
    )


def of_others(found: Foreign, family: FamilyName, families: Iterable[Family]) -> dict[str, str]:
    """Its packages of other families than the one it is adopted as, each with its family."""
    known = tuple(families)
    named = ((one.name, family_of(one.name, known)) for one in found.dists)
    return {name: other.name for name, other in named if other is not None and other.name != family}
