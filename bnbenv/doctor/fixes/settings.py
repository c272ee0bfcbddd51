"""Fixes about variables and search paths: BNB_CUDA_VERSION where it lives, packages that shadow others. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import PurePath

from bnbenv.doctor.fixes.install import own_generation
from bnbenv.doctor.fixes.model import Action, Delete, DropSetting, Treatment
from bnbenv.doctor.fixes.patient import Patient, done_by, shell, told
from bnbenv.doctor.model import Cause, Package, Setting

OVERRIDE = "BNB_CUDA_VERSION"
OWN_PTH = "bnbenv-environment.pth"


def override(patient: Patient) -> Treatment:
    """BNB_CUDA_VERSION is taken out where it lives; empty is no remedy, since bitsandbytes 0.50 refuses it."""
    found = patient.examination.settings if patient.examination else ()
    lives = [one for one in found if one.name == OVERRIDE]
    if any(one.file and PurePath(one.file).name == OWN_PTH for one in lives) and patient.own:
        return own_generation(patient, f"{OVERRIDE} is set as the new choice needs it, or not at all.")
    files = [one for one in lives if one.file and not one.file.startswith("HK")]
    unset = f"unset {OVERRIDE}"
    if patient.os == "windows":
        unset = f"Remove-Item Env:{OVERRIDE}; [Environment]::SetEnvironmentVariable('{OVERRIDE}', $null, 'User')"
    steps = [_where(one) for one in files]
    if any(one not in files for one in lives) or not lives:
        steps.append(
            f"In the shell that has it: {unset}. No other program can change what a shell has in its environment."
        )
    steps.append(f"Unset it, do not set it empty: an empty {OVERRIDE} is an error for bitsandbytes 0.50.")
    needs = patient.chosen.kept.environment.get(OVERRIDE) if patient.chosen.kept else None
    if needs:
        steps.append(f"What fits here is {OVERRIDE}={needs}: export {OVERRIDE}={needs}")
    if not files:
        return told(
            f"Unset {OVERRIDE}: bitsandbytes then takes the library for torch's own CUDA.", *steps, command=unset
        )
    actions: list[Action] = [_drop(one) for one in files]
    places = ", ".join(dict.fromkeys(f"{one.file}" for one in files))
    return done_by(patient, actions, f"Take {OVERRIDE} out of {places}.", unset, steps)


def _drop(setting: Setting) -> DropSetting:
    return DropSetting(name=setting.name, value=setting.value, file=setting.file or "", line=setting.line)


def _where(setting: Setting) -> str:
    if PurePath(setting.file or "").parts[-2:] == ("conda-meta", "state"):
        prefix = str(PurePath(setting.file or "").parent.parent)
        unset = shell("conda", "env", "config", "vars", "unset", "-p", prefix, setting.name)
        return f"It is set in a conda environment: {unset}"
    line = f", line {setting.line}" if setting.line else ""
    return f"It is set in {setting.file}{line}: {setting.name}={setting.value}"


# ---- shadows ---------------------------------------------------------------------------------------------------


def user_site(patient: Patient) -> Treatment:
    """Packages of the user's site go before those of the environment."""
    found = [one for one in _shadowing(patient) if one.where == "user"]
    python = patient.python or "python"
    names = [one.name for one in found]
    steps = [
        "To leave them and have this environment not see them: export PYTHONNOUSERSITE=1 (or start with python -s).",
        "They are the user's own and other environments of the same Python version may use them.",
    ]
    if not found:
        return told(
            "Keep the user's site-packages out: set PYTHONNOUSERSITE=1.",
            *steps[1:],
            command="export PYTHONNOUSERSITE=1",
        )
    action = Delete(metadata=tuple(one.path for one in found))
    listed = ", ".join(f"{one.name} {one.version}" for one in found)
    command = shell("env", "PYTHONNOUSERSITE=1", python)
    return done_by(
        patient,
        (action,),
        f"Uninstall {listed} from the user's site-packages.",
        command,
        [f"By hand: {shell(python, '-m', 'pip', 'uninstall', *names)}", *steps],
    )


def _shadowing(patient: Patient) -> list[Package]:
    """Effective packages outside the environment beside another one of the same name."""
    packages = patient.examination.packages if patient.examination else ()
    hidden = {one.name for one in packages if not one.effective}
    return [one for one in packages if one.effective and one.name in hidden and one.where in ("user", "pythonpath")]


def pythonpath(patient: Patient) -> Treatment:
    """A folder on PYTHONPATH, or the current one, has a package of the same name."""
    found = [one for one in _shadowing(patient) if one.where == "pythonpath"]
    settings = patient.examination.settings if patient.examination else ()
    steps = [f"{one.name} {one.version or ''} is taken from {PurePath(one.path).parent}" for one in found]
    steps += [
        f"PYTHONPATH is set in {one.file}, line {one.line or '?'}: {one.value}"
        for one in settings
        if one.name == "PYTHONPATH" and one.file
    ]
    steps += [
        "If it is a source checkout in the current folder, start from "
        "another folder, or with python -P (3.11 and newer).",
        "bnbenv does not edit it: other programs may need the rest of that path.",
    ]
    return told("Unset PYTHONPATH, or take out the folder with the other copy.", *steps, command="unset PYTHONPATH")


Write = Callable[[Patient], Treatment]

BY_CODE: Mapping[str, Write] = {"user-site-shadows": user_site, "pythonpath-shadows": pythonpath}
BY_CAUSE: Mapping[Cause, Write] = {"bnb_override_env_stale": override}
