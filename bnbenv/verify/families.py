"""What an environment is to be verified as: the families of which packages are in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from bnbenv.errors import UsageError
from bnbenv.matrix.model import Family
from bnbenv.process import Command, Runner
from bnbenv.solve.model import FamilyName

# The modules of each family, in the order in which an environment with several is verified as one of them.
MODULES: Mapping[FamilyName, tuple[str, ...]] = {
    "bitsandbytes": ("bitsandbytes",),
    "gptq": ("gptqmodel", "auto_gptq"),
    "awq": ("awq",),
}
LIMIT = 60.0  # seconds; an interpreter starts in a moment, on a network file system in some

# Looks for the modules without importing them; not in the current folder, and no name of a folder that has no code.
PROBE = """\
import sys
sys.path[:] = [one for one in sys.path if one]
from importlib.util import find_spec
specs = {name: find_spec(name) for name in sys.argv[1:]}
print("here:", *(name for name, spec in specs.items() if spec is not None and spec.origin is not None))
"""


def installed_families(python: Path, runner: Runner) -> tuple[FamilyName, ...]:
    """The families of which a package can be imported by that Python; empty also where it does not say.

    Raises UsageError if ``python`` cannot be started.
    """
    names = [name for modules in MODULES.values() for name in modules]
    try:
        finished = runner.run(Command((str(python), "-c", PROBE, *names), LIMIT))
    except OSError as error:
        message = f"{python} cannot be started ({(error.strerror or str(error)).lower()})"
        raise UsageError("no-such-python", message, "Give the path of an environment's Python.") from None
    said = next((line for line in finished.stdout.splitlines() if line.startswith("here:")), "")
    here = set(said.split()[1:])
    return tuple(family for family, modules in MODULES.items() if here.intersection(modules))


def family_decided(choice: Any, families: Sequence[Family]) -> FamilyName | None:
    """The family that a recorded choice is of, by the matrix' table; None where it does not tell. Pure."""
    if not isinstance(choice, Mapping):
        return None
    if choice.get("bitsandbytes") is not None:
        return "bitsandbytes"
    names = {one.get("name") for one in choice.get("packages") or () if isinstance(one, Mapping)}
    for family in families:
        if family.name in MODULES and names.intersection(family.packages):
            return cast("FamilyName", family.name)
    return "none" if choice.get("torch") is not None else None
