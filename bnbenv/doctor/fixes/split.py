"""What of a mixed environment goes where: each family into one of its own, and the further packages. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from bnbenv.doctor.families import KNOWN
from bnbenv.doctor.fixes.model import Share, Split, Treatment
from bnbenv.doctor.fixes.patient import Patient, done_by, shell
from bnbenv.matrix.model import Family
from bnbenv.solve.model import FamilyName
from bnbenv.solve.versions import LONGEST

if TYPE_CHECKING:
    from bnbenv.envs.foreign import Dist
    from bnbenv.envs.wishes import EnvWish

# What bitsandbytes is called through: where these are, they go with it, whatever else brought them in.
CALLERS = ("transformers", "accelerate")


def distribute(
    dists: Iterable[Dist], families: Iterable[Family], wishes: Mapping[str, EnvWish]
) -> tuple[tuple[Share, ...], dict[str, str]]:
    """The environments to make, and what goes into none of them, with the reason; empty where one family is there.

    What a package of a family requires comes with it and is not named. What requires a family's package goes with that
    family. ``wishes`` are the project's environments: one of the same family gets what it lacks.
    """
    from bnbenv.envs.adoption import asked_for
    from bnbenv.envs.wishes import ENV_NAMES

    known = {one.name: one for one in dists}
    packages = {one.name: one.packages for one in families}
    own = {name: tuple(one for one in packages.get(name, ()) if one in known) for name in KNOWN}
    own = {name: there for name, there in own.items() if there}
    if len(own) < 2:
        return (), {}
    asked, local = asked_for(tuple(known.values()), tuple(name for there in own.values() for name in there))
    left = {one.name: f"it was installed from {one.place} and not from an index" for one in local}
    must: dict[FamilyName, list[str]] = {name: [] for name in own}
    further: list[str] = []
    for name in asked:
        below = reach(name, known)
        needs = [family for family, there in own.items() if below.intersection(there)]
        if len(needs) > 1:
            left[name] = f"it requires packages of several families ({', '.join(needs)})"
        elif needs:
            must[needs[0]].append(name)
        else:
            further.append(name)
    if "bitsandbytes" in own:
        must["bitsandbytes"] += [name for name in CALLERS if name in known]
    taken = set(wishes)
    shares = []
    for family, there in own.items():
        same = next((name for name, wish in wishes.items() if wish.family == family), None)
        env = same or _free(ENV_NAMES[family], taken)
        taken.add(env)
        package, beside = _package(family, there)
        left.update({name: f"an environment holds either {there[0]} or {name}" for name in beside})
        shares.append(
            Share(
                env=env,
                family=family,
                package=package,
                requirements=tuple(must[family]),
                further=tuple(name for name in further if name not in must[family]),
                known=same is not None,
            )
        )
    return tuple(shares), left


def with_extras(dists: Iterable[Dist], requires: Mapping[str, Iterable[str]]) -> tuple[Dist, ...]:
    """The same, with what is required through an extra that another one asks for (``fsspec[http]`` needs aiohttp).

    ``requires`` are the lines of each one's metadata, by its name.
    """
    lines = {name: [one for line in some if (one := _requirement(line))] for name, some in requires.items()}
    extras: dict[str, set[str]] = {name: set() for name in lines}
    waiting = [(name, "") for name in lines]
    while waiting:  # an extra may ask for others, also of its own package: transformers[all]
        name, extra = waiting.pop()
        for one in (one for one in lines[name] if _asks(one, extra)):
            needed = canonicalize_name(one.name)
            fresh = one.extras - extras[needed] if needed in extras else set()
            if fresh:
                extras[needed] |= fresh
                waiting += [(needed, some) for some in fresh]
    found = []
    for dist in dists:
        asked = [one for one in lines.get(dist.name, ()) for extra in extras.get(dist.name, ()) if _asks(one, extra)]
        more = {canonicalize_name(one.name) for one in asked} - {dist.name, *dist.requires}
        found.append(replace(dist, requires=(*dist.requires, *sorted(more))))
    return tuple(found)


def _asks(requirement: Requirement, extra: str) -> bool:
    """Whether a line is one of an extra; with none, of the package itself."""
    marker = str(requirement.marker) if requirement.marker is not None else ""
    if "extra" not in marker or requirement.marker is None:
        return not extra
    return bool(extra) and requirement.marker.evaluate({"extra": extra})


def _requirement(line: str) -> Requirement | None:
    try:
        return Requirement(line) if len(line) <= LONGEST else None
    except InvalidRequirement:
        return None


def reach(name: str, known: Mapping[str, Dist]) -> frozenset[str]:
    """All that a distribution requires of what is installed, step by step."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        one = known.get(waiting.pop())
        fresh = [need for need in (one.requires if one is not None else ()) if need not in found]
        found.update(fresh)
        waiting += fresh
    return frozenset(found)


def _package(family: FamilyName, there: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """The wish for a package, empty where it is the family's first one; and those that it leaves out."""
    if family == "awq":
        return "autoawq[kernels]" if "autoawq-kernels" in there else "", ()
    return there[0] if there[0] == "auto-gptq" else "", tuple(there[1:])


def _free(name: str, taken: Iterable[str]) -> str:
    known = frozenset(taken)
    return next(one for one in (name, *(f"{name}-{number}" for number in range(2, 1000))) if one not in known)


def title(share: Share) -> str:
    """What is in it, for people: ``autoawq, peft; and as far as they fit einops, trl``."""
    main = {"bitsandbytes": "bitsandbytes", "gptq": "gptqmodel", "awq": "autoawq"}.get(share.family, "torch")
    text = ", ".join((share.package or main, *share.requirements))
    return f"{text}; and as far as they fit {', '.join(share.further)}" if share.further else text


def treatment(patient: Patient) -> Treatment | None:
    """The fix of a mixed environment that was looked at; None where there is nothing to split."""
    chosen, examination = patient.chosen, patient.examination
    if examination is None or not chosen.shares or patient.own is not None:
        return None
    target = examination.target
    action = Split(shares=chosen.shares, python=".".join((target.version or "").split(".")[:2]))
    count = {2: "two", 3: "three"}.get(len(chosen.shares), str(len(chosen.shares)))
    summary = f"Split it into {count} environments of this project. This one stays as it is."
    steps = [f"Environment {share.env} gets {title(share)}." for share in chosen.shares]
    steps += [f"None of them gets {name}, since {why}." for name, why in sorted(chosen.left.items())]
    command = shell("bnbenv", "doctor", target.prefix or target.python or "PATH", "--fix")
    return done_by(patient, (action,), summary, command, steps)
