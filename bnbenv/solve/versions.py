"""Versions and specifiers, parsed once. Pure; the caches hold only what follows from their argument."""

from __future__ import annotations

from functools import lru_cache

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from bnbenv.decode import shown
from bnbenv.errors import InputError


@lru_cache(maxsize=4096)
def version(text: str) -> Version:
    """A PEP 440 version. Raises InvalidVersion."""
    return Version(text)


@lru_cache(maxsize=4096)
def public(text: str) -> Version:
    """The version without its local part: ``2.13.0+cpu`` is as new as ``2.13.0``."""
    return Version(Version(text).public)


@lru_cache(maxsize=1024)
def specifier(text: str) -> SpecifierSet:
    """A specifier; ``*`` and an empty text admit all."""
    return SpecifierSet("" if text.strip() in ("", "*") else text)


@lru_cache(maxsize=65536)
def admits(spec: str, candidate: str) -> bool:
    """Whether a specifier admits a version (pre-releases only where it names one)."""
    return specifier(spec).contains(version(candidate))


@lru_cache(maxsize=4096)
def number(text: str) -> tuple[int, ...]:
    """A dotted number such as a driver or libc version as integers: ``580.65.06`` -> (580, 65, 6)."""
    parts: list[int] = []
    for part in text.split("."):
        digits = "".join(c for c in part if c.isascii() and c.isdigit())
        if not digits:
            break
        parts.append(int(digits))
    return tuple(parts)


@lru_cache(maxsize=4096)
def at_least(have: str, need: str) -> bool:
    """Whether a dotted number is not below another; missing places count as zero."""
    left, right = number(have), number(need)
    width = max(len(left), len(right))
    return left + (0,) * (width - len(left)) >= right + (0,) * (width - len(right))


@lru_cache(maxsize=1024)
def requirement_on(name: str, requires_dist: tuple[str, ...]) -> str | None:
    """The specifier that a wheel's requirements put on a package, without extras; None where there is none."""
    for text in requires_dist:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        if requirement.name.lower() == name and not (requirement.marker and "extra" in str(requirement.marker)):
            return str(requirement.specifier)
    return None


def read_specifier(text: str, file: str, where: str) -> str:
    """A user's wish as a specifier: ``*``, ``>=2.4``, ``2.9`` (any 2.9), ``2.9.1``.

    Raises InputError naming ``file`` and ``where`` if it cannot be read.
    """
    text = text.strip()
    if text in ("", "*"):
        return "*"
    try:
        if text[0].isdigit() and "," not in text:
            if text.endswith(".*"):
                return str(SpecifierSet(f"=={text}"))
            parsed = Version(text)
            plain = ".".join(map(str, parsed.release))
            return f"=={parsed}.*" if str(parsed) == plain and len(parsed.release) < 3 else f"=={parsed}"
        return str(SpecifierSet(text))
    except ValueError:  # among them a number of thousands of digits
        raise InputError(
            file, where, f'expected a version specifier such as ">=2.4,<3", found "{shown(text)}"'
        ) from None
