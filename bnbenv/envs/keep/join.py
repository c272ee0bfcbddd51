"""Making a generation on top of what is kept: its Python, and a ``.pth`` that shows the folders below.

A venv with system site packages shows what its interpreter shows. torch may lie elsewhere: in another venv, in a
folder of PYTHONPATH, in the user's own packages. Then its folder is added, after the environment's own. The user's own
packages are kept out otherwise, as in any venv: they would come before what lies below, and are each user's.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from bnbenv.envs.existing import LIMIT
from bnbenv.envs.keep.above import clashes
from bnbenv.envs.keep.find import Kept
from bnbenv.envs.keep.observe import versions_below
from bnbenv.envs.lockfile import Locked
from bnbenv.envs.project import env_python, site_packages
from bnbenv.envs.record import BASE_PTH
from bnbenv.envs.uv import Uv
from bnbenv.errors import Failed
from bnbenv.paths import expand, write_atomically
from bnbenv.process import Command, Runner
from bnbenv.solve.model import Choice

IMPORT_LIMIT = 120.0  # seconds for a torch on a cold disk

_MODULES = ("PYTHONPATH", "LD_LIBRARY_PATH", "LD_PRELOAD", "PYTHONHOME")
_PATH = "import json, sys; print(json.dumps(sys.path))"


def make_venv(kept: Kept, uv: Uv, prefix: Path) -> None:
    """An empty environment on the Python of the torch that is kept. Raises BnbenvError."""
    assert kept.base is not None
    uv.venv(prefix, kept.base.python, system=kept.base.system)


def show_below(kept: Kept | None, prefix: Path, runner: Runner) -> None:
    """Show an environment what lies below it. It was filled and looked at before. Raises Failed, OSError."""
    base = kept.base if kept is not None else None
    if base is None:
        return
    site = site_packages(prefix)
    if site is None:
        raise Failed("no-site-packages", f"{prefix} has no site-packages", "Run it again: bnbenv sync --fresh")
    shown = _shown(env_python(prefix), runner)
    missing = [folder for folder in base.folders if os.path.realpath(folder) not in shown]
    # The folder by itself is what tools read that run nothing; site.addsitedir then reads the .pth files in it, as its
    # own interpreter does, and adds nothing twice.
    lines = ["import site; site.ENABLE_USER_SITE = False"]
    lines += [line for folder in missing for line in (folder, f"import site; site.addsitedir({folder!r})")]
    write_atomically(site / BASE_PTH, "\n".join(lines) + "\n")


def _shown(python: Path, runner: Runner) -> set[str]:
    done = runner.run(Command((str(python), "-I", "-B", "-c", _PATH), timeout=LIMIT))
    try:
        return {os.path.realpath(folder) for folder in msgspec.json.decode(done.stdout, type=list[str])}
    except msgspec.DecodeError:
        said = done.stderr.strip().rpartition("\n")[2][:200]
        raise Failed("no-python", f"the Python of the new environment does not start: {said}") from None


def stop_on_hidden(choice: Choice, environ: Mapping[str, str]) -> None:
    """Raises Failed where PYTHONPATH holds another version of what is to be verified: it wins over any environment."""
    folders = [str(expand(one)) for one in environ.get("PYTHONPATH", "").split(os.pathsep) if one]
    hidden = clashes(choice.versions, versions_below(folders, os.devnull)) if folders else []
    if hidden:
        message = f"a folder of PYTHONPATH comes before every environment, and has {', '.join(hidden)}"
        raise Failed("hidden-package", message, "Take that folder out of PYTHONPATH, or that package out of it.")


def notes_on_module(
    kept: Kept | None, locked: Locked, python: Path, runner: Runner, environ: Mapping[str, str]
) -> list[str]:
    """Where torch was found by PYTHONPATH: whether the module that sets it has to be loaded. Imports torch, once."""
    base = kept.base if kept is not None else None
    if base is None or base.where != "PYTHONPATH":
        return []
    changes: dict[str, str | None] = dict.fromkeys(_MODULES)
    words = (str(python), "-B", "-c", "import torch")
    done = runner.run(Command(words, timeout=IMPORT_LIMIT, env=changes))
    if done.ok:
        said = f"torch lies in {base.site}, a folder of PYTHONPATH; it is imported without that variable as well, so no"
        notes = [f"{said} module has to be loaded for this environment"]
    else:
        error = "it takes too long" if done.timed_out else done.stderr.strip().rpartition("\n")[2][:200]
        said = f"torch lies in {base.site}, a folder of PYTHONPATH, and cannot be imported without what the module sets"
        notes = [f"{said} ({error}): load the module in each shell first"]
    folders = [str(expand(one)) for one in environ.get("PYTHONPATH", "").split(os.pathsep) if one]
    hidden = clashes(locked.packages, versions_below(folders, os.devnull))
    if hidden:
        notes.append(f"while PYTHONPATH is set, it comes first: {', '.join(hidden[:4])}")
    return notes
