"""Fixes where parts of several versions or several distributions lie in one folder. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from bnbenv.doctor.fixes.install import (
    another_bitsandbytes,
    backend_of,
    bitsandbytes_again,
    for_this_torch,
    hash_of,
    variant_of,
)
from bnbenv.doctor.fixes.model import Delete, Install, Treatment
from bnbenv.doctor.fixes.patient import Patient, done_by, shell
from bnbenv.doctor.model import Leftover


def several_bitsandbytes(patient: Patient) -> Treatment:
    """Several distributions wrote into one folder: all but the right one go, and that one is installed again."""
    if patient.own or patient.examination is None or patient.python is None:
        return bitsandbytes_again(patient)
    others = [
        one
        for one in patient.examination.packages
        if one.name.startswith("bitsandbytes") and one.name != "bitsandbytes" and one.where == "environment"
    ]
    right = bitsandbytes_again(patient) if patient.package("bitsandbytes") else another_bitsandbytes(patient)
    if not others:
        return right
    names = [one.name for one in others]
    actions = (Delete(metadata=tuple(one.path for one in others)), *right.actions)
    gone = shell("uv", "pip", "uninstall", "--python", patient.python, *names)
    command = f"{gone} && {right.fix.command}" if right.fix.command else gone
    summary = f"Uninstall {', '.join(names)}, then: {right.fix.summary[:1].lower()}{right.fix.summary[1:]}"
    return done_by(patient, actions, summary, command, right.fix.steps)


def leftovers(patient: Patient) -> Treatment:
    """Parts of several versions in one folder: a clean installation, and what no package names goes."""
    found = patient.examination.leftovers if patient.examination else ()
    if patient.own or not found or not patient.foreign:
        return bitsandbytes_again(patient)
    actions, words = [], []
    for name in dict.fromkeys(one.name for one in found):
        package = patient.package(name)
        paths = tuple(path for one in found if one.name == name for path in one.paths)
        if package is None or package.version is None:
            continue
        if name == "bitsandbytes" and not patient.chosen.stays and patient.chosen.kept is not None:
            fitting = for_this_torch(patient, patient.chosen.kept)
            found_one = fitting.actions[0]
            assert isinstance(found_one, Install)
            actions.append(msgspec.structs.replace(found_one, reinstall=(name,), sweep=paths))
            words.append(f"bitsandbytes=={patient.chosen.kept.bitsandbytes.version}")
            continue
        equal = "===" if name == "torch" else "=="
        version = _of_its_files(patient, found) if name == "torch" else package.version
        want = f"{name}{equal}{version}"
        action = Install(
            requirements=(want,),
            reinstall=(name,),
            no_deps=True,
            hashes=hash_of(patient, want) if name == "bitsandbytes" else {},
            index=variant_of(version) if name == "torch" else None,
            sweep=paths,
        )
        actions.append(action)
        words.append(want)
    if not actions:
        return _after_interruption(patient) if patient.package("bitsandbytes") is None else bitsandbytes_again(patient)
    backend = next((one.index for one in actions if one.index), None)
    command = patient.pip(*backend_of(backend), "--reinstall", "--no-deps", *words)
    places = [f"It deletes {path}" for one in found for path in one.paths[:3] if "~" in path]
    summary = f"Install {' and '.join(words)} again, and delete what no package owns."
    return done_by(patient, actions, summary, command, places)


def _of_its_files(patient: Patient, found: tuple[Leftover, ...]) -> str:
    """Of two sets of metadata of torch the one that its own files agree with; else what its metadata says."""
    package = patient.package("torch")
    stated = package.version if package and package.version else ""
    own = patient.torch or stated
    twice = [path for one in found if (one.name, one.kind) == ("torch", "twice") for path in one.paths]
    return own if any(path.endswith(f"torch-{own}.dist-info") for path in twice) else stated


def _after_interruption(patient: Patient) -> Treatment:
    """A pip was stopped between taking the old one away and putting the new one in its place: there is none."""
    again = another_bitsandbytes(patient)
    found = patient.examination.leftovers if patient.examination else ()
    paths = tuple(path for one in found for path in one.paths)
    swept = [msgspec.structs.replace(one, sweep=paths) if isinstance(one, Install) else one for one in again.actions]
    return Treatment(again.fix, tuple(swept))


Write = Callable[[Patient], Treatment]

BY_CODE: Mapping[str, Write] = {
    "package-incomplete": leftovers,
    "mixed-files": leftovers,
    "unused-library-missing": leftovers,
    "library-by-hand": leftovers,
    "leftovers": leftovers,
    "several-bitsandbytes": several_bitsandbytes,
    "two-bitsandbytes": several_bitsandbytes,
}
