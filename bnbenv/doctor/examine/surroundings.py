"""What stands around an environment: files that shadow its packages, a Python that changed below it, who manages it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from bnbenv.doctor.examine.ports import Ports, Where
from bnbenv.doctor.examine.target import Found
from bnbenv.envs.check import changes_behind
from bnbenv.paths import exists

_MODULES = ("torch", "bitsandbytes", "transformers", "accelerate", "peft", "triton", "numpy")


def surroundings(found: Found, where: Where, ports: Ports) -> dict[str, str]:
    """The conditions of an environment, by code.

    ``shadowed-here`` (a module in the current folder) · ``python-gone``, ``python-changed`` · ``pth-garbled`` ·
    ``user-site`` (packages of the user are imported), ``user-site-unused`` · ``externally-managed`` ·
    ``another-activated`` than the examined · ``changed-behind-lock``.
    """
    return dict(_all(found, where, ports))


def _all(found: Found, where: Where, ports: Ports) -> Iterator[tuple[str, str]]:
    layout = found.layout
    if layout is None:
        return
    shadow = _shadow(where.cwd, found)
    if shadow is not None:
        text = f"{shadow} is imported in place of the installed one by programs that are started in {where.cwd}"
        yield "shadowed-here", text
    if layout.gone:
        yield "python-gone", f"its interpreter {layout.python or layout.prefix} leads nowhere: the Python below is gone"
    if layout.made_for is not None:
        yield "python-changed", f"it was made for Python {layout.made_for}, and its interpreter is {layout.minor} now"
    if found.search.garbled and not layout.windows:
        yield "pth-garbled", f"{found.search.garbled[0]}: it is no text in UTF-8, and Python ends when it reads it"
    behind = changes_behind(where.project, found.target.env) if where.project and found.target.env else ()
    if behind and not layout.gone:
        yield "changed-behind-lock", "; ".join(behind)
    if found.search.user_site is not None:
        yield "user-site", str(found.search.user_site)
    if found.search.passed_over is not None:
        yield "user-site-unused", str(found.search.passed_over)
    for folder in (layout.base / "lib" / f"python{layout.minor}", layout.base / "Lib"):
        if layout.prefix == layout.base and exists(folder / "EXTERNALLY-MANAGED"):
            yield "externally-managed", str(folder / "EXTERNALLY-MANAGED")
    for variable in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        active = ports.environ.get(variable)
        if active and where.path is None and Path(active).resolve() != layout.prefix.resolve():
            yield "another-activated", f"{variable} is {active}, and {layout.prefix} was examined"
            return


def _shadow(cwd: Path, found: Found) -> Path | None:
    """A module of the current folder with the name of a package: ``python -m`` and notebooks take it first."""
    own = {folder.path for folder in found.search.folders}
    if cwd in own:
        return None
    for name in _MODULES:
        module = found.search.module(name)
        for place in (cwd / f"{name}.py", cwd / name):
            there = exists(place if place.suffix else place / "__init__.py")
            # Without an installed one, or with one that is this very folder (an editable install), it is meant.
            if there and module is not None and os.path.realpath(module) != os.path.realpath(place):
                return place
    return None
