"""Versions and specifiers, parsed once. Pure; the caches hold only what follows from their argument."""

from __future__ import annotations

from functools import lru_cache

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from bnbenv.decode import shown
from bnbenv.errors import InputError

LONGEST = 1000  # characters of a specifier


@lru_cache(maxsize=4096)
def version(text: str) -> Version:
    """A PEP 440 version. Raises InvalidVersion."""
    return Version(text)


@lru_cache(maxsize=4096)
def public(text: str) -> Version:
    """The version without its local part: ``2.13.0+cpu`` is as new as ``2.13.0``."""
    return Version(Version(text).public)


def is_built(text: str) -> bool:
    """Whether bitsandbytes of this version was compiled by bnbenv: ``0.50.2+bnbenv.cu130.sm87``."""
    return (version(text).local or "").startswith("bnbenv.")


@lru_cache(maxsize=4096)
def release(text: str) -> str:
    """The release by whose rules a version goes: 0.50.2 of ``0.50.2+bnbenv.cu130.sm87`` and of ``0.50.2.dev0``.

    A tree between two releases has what is to come in the next one, and specifiers admit no version of its kind.
    """
    return version(text).base_version


def is_version(text: str) -> bool:
    """Whether a text is a PEP 440 version."""
    try:
        version(text)
    except ValueError:  # among them a number of thousands of digits
        return False
    return True


@lru_cache(maxsize=1024)
def specifier(text: str) -> SpecifierSet:
    """A specifier; ``*`` and an empty text admit all."""
    return SpecifierSet("" if text.strip() in ("", "*") else text)


@lru_cache(maxsize=65536)
def admits(spec: str, candidate: str, pre: bool = False) -> bool:
    """Whether a specifier admits a version: pre-releases only where it names one, or with ``pre``.

    By PEP 440 ``2.6.0a0+ecf3bae40a.nv25.1`` is then one of ``>=2.4,<3``, and none of ``>=2.6``.
    """
    found = specifier(spec)
    # Left open, packaging takes every pre-release from 26 on.
    return found.contains(version(candidate), prereleases=pre or bool(found.prereleases))


@lru_cache(maxsize=4096)
def apart(have: str, other: str) -> tuple[int, bool, bool, bool]:
    """How far a version is from the one that is there; the smaller, the nearer.

    That very version; another build of the same release (``2.13.0+cu126`` for ``2.13.0+cu130``); another release of
    the same series (2.13); else by the number of series in between, the later one of two that are as near.
    """
    old, new = public(have), public(other)
    series = abs((new.major - old.major) * 1000 + new.minor - old.minor)
    return series, bool(series) and new < old, old != new, have != other


@lru_cache(maxsize=1024)
def requirement_on(name: str, requires_dist: tuple[str, ...]) -> str | None:
    """The specifier that a wheel's requirements put on a package, without extras; None where there is none."""
    for text in requires_dist:
        if len(text) > LONGEST:
            continue
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
        if len(text) > LONGEST:
            raise ValueError("longer than any specifier, and maybe with numbers too long to be read")
        if text[0].isdigit() and "," not in text:
            if text.endswith(".*"):
                return str(SpecifierSet(f"=={text}"))
            parsed = Version(text)
            plain = ".".join(map(str, parsed.release))
            return f"=={parsed}.*" if str(parsed) == plain and len(parsed.release) < 3 else f"=={parsed}"
        return str(SpecifierSet(text)) or "*"
    except ValueError:
        raise InputError(
            file, where, f'expected a version specifier such as ">=2.4,<3", found "{shown(text)}"'
        ) from None
