"""What an environment is for: the families of which packages are in it. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from bnbenv.doctor.model import Examination
from bnbenv.matrix.model import Family
from bnbenv.solve.model import FamilyName

KNOWN: tuple[FamilyName, ...] = ("bitsandbytes", "gptq", "awq")


def families_in(examination: Examination, families: Iterable[Family]) -> tuple[FamilyName, ...]:
    """The families of which an import takes a package; bitsandbytes first, also where it has no metadata."""
    packages = {one.name: one.packages for one in families}
    found = {name for name in KNOWN if any(examination.package(one) is not None for one in packages.get(name, ()))}
    if examination.bitsandbytes is not None:
        found.add("bitsandbytes")
    return tuple(name for name in KNOWN if name in found)
