"""Families of quantization packages in bnbenv.toml and in locks: what belongs to which, and what is kept apart. Pure.

Why they are kept apart stands in the matrix (families.toml).
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from bnbenv.decode import shown
from bnbenv.errors import InputError, NoCombination, UsageError
from bnbenv.matrix.model import Family, Matrix
from bnbenv.solve.model import Choice

MIX = "mixed-families"  # the code of errors and of what status says
# transformers names the oldest torch that it works with in this extra alone, and beside an older one it goes without
# torch. What works through it, as all packages of gptq and awq do, needs accelerate too: the rest of the extra.
WITH_TORCH = "transformers[torch]"
_THROUGH = frozenset(("peft", "trl"))
OWN_BUILD = {"BUILD_CUDA_EXT": "0"}  # auto-gptq's: its setup.py compiles kernels unless told otherwise


def family_named(name: str, families: Iterable[Family]) -> Family | None:
    """What the matrix says of a family; of ``none`` nothing."""
    return next((one for one in families if one.name == name), None)


def family_of(package: str, families: Iterable[Family]) -> Family | None:
    """The family that a distribution belongs to, None for most."""
    name = canonicalize_name(package)
    return next((one for one in families if name in one.packages), None)


def others(family: str, packages: Iterable[str], families: Iterable[Family]) -> dict[str, Family]:
    """The packages that belong to other families than the one named, by their names."""
    found = ((name, family_of(name, families)) for name in packages)
    return {name: one for name, one in found if one is not None and one.name != family}


def check_package(text: str, family: str, families: Iterable[Family], file: str, where: str) -> None:
    """Whether ``package = "..."`` names a package that an environment of the family can be about. Raises InputError."""
    own = family_named(family, families)
    if own is None or family == "bitsandbytes":
        raise InputError(file, where, f"expected nothing: this is for the families gptq and awq, not for {family}")
    known = ", ".join(own.packages)
    try:
        requirement = Requirement(text)
    except InvalidRequirement:
        raise InputError(
            file, where, f'expected a requirement such as "{own.packages[0]}>=1", found "{shown(text)}"'
        ) from None
    if canonicalize_name(requirement.name) not in own.packages:
        expected = f'expected a package of the family {family} ({known}), found "{shown(requirement.name)}"'
        raise InputError(file, where, expected)
    if requirement.url is not None or requirement.marker is not None:
        raise InputError(file, where, "expected a package and its version alone, without an address or a marker")
    for extra in sorted(requirement.extras - {"kernels"}):  # installers pass over an extra that nobody has
        if get_close_matches(extra, ("kernels",)):
            raise InputError(file, where, f'expected the extra "kernels", found "{shown(extra)}"')


def check_requirement(name: str, family: str, mix: bool, families: Iterable[Family], file: str, where: str) -> None:
    """Whether a further requirement may stand in an environment of the family.

    Raises InputError for a package of the family itself, UsageError (``mixed-families``) for one of another family
    where these are not to be mixed.
    """
    found = family_of(name, families)
    if found is None:
        return
    if found.name == family:
        key = "bitsandbytes" if family == "bitsandbytes" else "package"
        raise InputError(file, where, f'expected no {name}: set "{key} = ..." instead')
    if not mix:
        step = f"Take it out of requirements, then run: bnbenv add {found.name}"
        message = f"{file}: {where}: {name} belongs to an environment of its own. {found.why}"
        raise UsageError(MIX, message, f"{step} (or set mix = true in [policy], and expect breakage)")


def refuse_mixed(family: str, packages: Iterable[str], asked: Iterable[str], families: Iterable[Family]) -> None:
    """Raises NoCombination (``mixed-families``) where a resolved set holds packages of other families.

    ``asked`` are the requirements that may have brought them in.
    """
    found = others(family, packages, families)
    if not found:
        return
    name, other = next(iter(found.items()))
    by = f" (asked for: {', '.join(asked)})" if asked else ""
    message = f"the requirements bring in {name}, which belongs to an environment of its own{by}. {other.why}"
    step = f"Take out what needs {name}, then run: bnbenv add {other.name} (or set mix = true in [policy])"
    raise NoCombination(MIX, message, step)


def mix_note(family: str, packages: Iterable[str], families: Iterable[Family]) -> str | None:
    """The warning about a set that mixes families, which ``mix = true`` let through."""
    found = others(family, packages, families)
    if not found:
        return None
    names = ", ".join(f"{name} ({one.name})" for name, one in found.items())
    return f"families are mixed here, as policy.mix allows: {names}; each may break the other with its next release"


def asked_for(matrix: Matrix, choice: Choice, requirements: Iterable[str]) -> tuple[str, ...]:
    """What an environment is to hold beside its choice: what that needs and does not say itself, and people's own."""
    from bnbenv.solve.families import extra_requirements

    wished = [Requirement(text) for text in requirements]
    named = {canonicalize_name(one.name) for one in wished}
    for one in wished:
        if canonicalize_name(one.name) == "transformers":
            one.extras.add("torch")
    bound = (WITH_TORCH,) if "transformers" not in named and (choice.packages or named & _THROUGH) else ()
    return (*extra_requirements(matrix, choice), *bound, *map(str, wished))


def requirement_lines(choice: Choice, package: str) -> list[str]:
    """The chosen packages as requirements for uv, each pinned to its very version.

    ``package`` is the wish, whose extras go with its package. autoawq's ``kernels`` is none of them: it also asks for
    flash-attn, which has to be compiled; the kernels themselves are a package of the choice.
    """
    wish = Requirement(package) if package else None
    extras: dict[str, list[str]] = {}
    if wish is not None:
        extras[canonicalize_name(wish.name)] = sorted(wish.extras - {"kernels"})
    brackets = {name: f"[{','.join(some)}]" for name, some in extras.items() if some}
    return [f"{name}{brackets.get(name, '')}==={version}" for name, version in choice.versions.items()]
