"""How hooks call this bnbenv, and whether root may: what root runs nobody else may be able to change."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import bnbenv
from bnbenv.errors import UsageError
from bnbenv.hooks.kinds import Caller
from bnbenv.hooks.place import Place, changeable, closed
from bnbenv.hooks.registry import owner_name
from bnbenv.paths import expand
from bnbenv.process import Command, Runner

_PACKAGE = Path(bnbenv.__file__).parent


def caller_of(place: Place, environ: Mapping[str, str], runner: Runner) -> Caller:
    """Isolated (``python -I``): neither the folder that somebody is in, nor variables, change what is imported.

    Raises UsageError where this bnbenv cannot be called by its path, as one in ``PYTHONPATH`` alone.
    """
    command: tuple[str, ...] = (sys.executable, "-I", "-m", "bnbenv")
    try:
        tried = runner.run(Command((*command[:2], "-c", "import bnbenv"), timeout=20, cwd="/"))
        works = tried.ok
    except OSError:
        works = False
    if not works:
        script = Path(sys.argv[0]).absolute()
        if not (script.name.startswith("bnbenv") and os.access(script, os.X_OK)):
            message = f"{sys.executable} finds this bnbenv only with the variables that are set here"
            raise UsageError(
                "no-program", message, "Install it into an environment (uv tool install, pipx), then again."
            )
        command = (str(script),)
    variables = {"BNBENV_SYSROOT": str(place.root)} if environ.get("BNBENV_SYSROOT") else {}
    if place.user and environ.get("BNBENV_HOME"):
        variables["BNBENV_HOME"] = str(expand(environ["BNBENV_HOME"]).absolute())
    return Caller(command, variables, bnbenv.__version__, str(Path(bnbenv.__file__)))


def check_safe(place: Place, caller: Caller, owners: Iterable[int]) -> None:
    """Raises UsageError where others than root could change what root's hooks would run, or an owner cannot run it."""
    if place.user or place.uid != 0:
        return
    step = (
        "Install bnbenv as root where all may read it, such as below /opt; or for one user: bnbenv hook install --user"
    )
    for path in (Path(caller.command[0]), _PACKAGE):
        found = changeable(path)
        if found is not None:
            part, status = found
            who = owner_name(status.st_uid) if status.st_uid else "others than root"
            message = f"root's hooks would run {path}, and {who} may change {part}"
            raise UsageError("unsafe-program", message, step)
    others = [uid for uid in owners if uid != 0]
    for path in (Path(caller.command[0]), _PACKAGE) if others else ():
        part_closed = closed(path)
        if part_closed is not None:
            message = f"{owner_name(others[0])} owns the project and may not enter {part_closed}, where bnbenv is"
            raise UsageError("private-program", message, step)
