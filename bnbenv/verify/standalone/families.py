"""The other families: which packages each is about, and what is done with them."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from .huggingface import installed, version_of
from .protocol import Broken, Reporter, Step
from .target import Target, check_device, examine, import_packages

if TYPE_CHECKING:
    from .gptq import Package

# The packages of each family, as they are installed and as they are imported; one of them is enough.
PACKAGES: dict[str, dict[str, str]] = {
    "gptq": {"gptqmodel": "gptqmodel", "auto-gptq": "auto_gptq"},
    "awq": {"autoawq": "awq"},
    "none": {},
}
# What else decides whether they work.
COMPANIONS = {
    "gptq": ("optimum", "transformers", "triton"),
    "awq": ("autoawq-kernels", "transformers", "triton"),
    "none": ("triton",),
}


def prove(family: str, device: str, reporter: Reporter, folder: Path | None) -> None:
    """Run the steps of a family. Without its packages or the device the others would only repeat the fault.

    ``folder`` is for temporary files, None where there is no place for them.
    """
    if folder is not None:
        os.chdir(folder)  # gptqmodel 5 makes a folder in the current one
    here = {name: module for name, module in PACKAGES[family].items() if installed(name)}
    told = [name for name in (*here, *COMPANIONS[family]) if name in here or installed(name)]
    reporter.send("packages", packages={name: version_of(name) for name in told})
    if not reporter.run("import", lambda step: load(family, here)):
        return
    examined: list[Target] = []

    def try_device(step: Step) -> None:
        examined.append(examine(device, reporter))
        check_device(step, examined[0])

    if reporter.run("device", try_device):
        run(family, here, examined[0], reporter)


def load(family: str, here: dict[str, str]) -> None:
    """Import torch and the family's packages; raises Broken where that fails or none is there."""
    import_packages("torch")
    if PACKAGES[family] and not here:
        names = list(PACKAGES[family])
        known = f"neither {' nor '.join(names)}" if len(names) > 1 else names[0]
        raise Broken(f"{known} is {'' if len(names) > 1 else 'not '}installed in this environment")
    if family == "gptq":
        importlib.import_module(f"{__package__}.gptq").refuse_compilers()
    import_packages(*here.values())


def run(family: str, here: dict[str, str], target: Target, reporter: Reporter) -> None:
    if family == "none":
        from . import plain

        plain.prove(target, reporter)
    elif family == "awq":
        from . import awq

        awq.prove(target, reporter)
    for name in here if family == "gptq" else ():
        from . import gptq

        gptq.prove(package_of(name), target, reporter)


def package_of(name: str) -> Package:
    if name == "gptqmodel":
        from .gptqmodel import GptqModel

        return GptqModel()
    from .autogptq import AutoGptq

    return AutoGptq()
