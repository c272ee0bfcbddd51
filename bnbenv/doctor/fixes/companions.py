"""Fixes about the packages beside torch and bitsandbytes: CUDA's libraries, triton, numpy, transformers. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from bnbenv.doctor.fixes import split
from bnbenv.doctor.fixes.install import WITH_TORCH, another_bitsandbytes, other_pair, own_generation
from bnbenv.doctor.fixes.libraries import major_of, package_for, requirement_for
from bnbenv.doctor.fixes.model import Install, Treatment
from bnbenv.doctor.fixes.patient import Patient, done_by, shell, told
from bnbenv.doctor.model import Cause, Linked

COMPANIONS = ("transformers", "accelerate", "peft")


def _kept(patient: Patient, *but: str) -> tuple[str, ...]:
    """torch and bitsandbytes, as requirements that only those that are there meet."""
    pins = (("torch", patient.torch), ("bitsandbytes", patient.bitsandbytes))
    return tuple(
        f"{name}==={version}" for name, version in pins if version and name not in but and patient.package(name)
    )


def _beside(
    patient: Patient, summary: str, *wanted: str, upgrade: tuple[str, ...] = (), steps: tuple[str, ...] = ()
) -> Treatment:
    """Packages that uv resolves with torch and bitsandbytes as they are."""
    options = [word for name in upgrade for word in ("--upgrade-package", name)]
    if patient.own:
        listed = ", ".join(f'"{one}"' for one in wanted)
        edit = f"In bnbenv.toml, have requirements = [{listed}] in [envs.{patient.own}], beside what stands there."
        again = "If the lock holds such versions already, a new generation has them: " + patient.sync
        return told(summary, edit, again, *steps, command="bnbenv sync")
    if not patient.foreign:
        line = shell("python", "-m", "pip", "install", *(["--upgrade"] if upgrade else []), *wanted)
        return told(summary, *steps, command=line)
    action = Install(requirements=(*_kept(patient), *wanted), upgrade=upgrade)
    return done_by(patient, (action,), summary, patient.pip(*options, *wanted), steps)


# ---- CUDA's shared libraries -----------------------------------------------------------------------------------


def cuda_libraries(patient: Patient) -> Treatment:
    """Missing libcudart, libcublas and the like: the packages that bring them, in the versions that torch asks for."""
    if patient.own:
        return own_generation(patient, "the packages of CUDA's libraries are installed again.")
    missing = _missing(patient)
    cuda = patient.torch_cuda
    majors = {major_of(one) for one in missing} - {None}
    if cuda is not None and majors and majors != {cuda.partition(".")[0]}:
        found = another_bitsandbytes(patient)  # no package of torch's CUDA has these: it is bitsandbytes that is wrong
        return found
    packages = {one: package_for(one, cuda) for one in missing}
    names = list(dict.fromkeys(name for name in packages.values() if name))
    if not names:
        return _no_package(patient, missing)
    there = [name for name in names if patient.package(name)]
    if there and patient.foreign:
        return _lies_elsewhere(patient, there)
    if cuda is None:
        line = shell("python", "-m", "pip", "install", *names)
        why = f"{', '.join(one for one, name in packages.items() if name)} is in {', '.join(names)}."
        return told(f"Install what brings it: {', '.join(names)}.", why, _if_not_found(), command=line)
    torch = patient.package("torch")
    requires = torch.requires_dist if torch else ()
    wanted = tuple(dict.fromkeys(requirement_for(name, cuda, requires) for name in names))
    return _beside(
        patient, f"Install what brings {', '.join(missing)}: {', '.join(names)}.", *wanted, steps=(_if_not_found(),)
    )


def _missing(patient: Patient) -> list[str]:
    if patient.examination is not None and patient.examination.linked:
        linked: tuple[Linked, ...] = patient.examination.linked
        return list(dict.fromkeys(one.soname for one in linked if one.answer == "no" and one.path is None))
    library = patient.said.library
    return [library] if library and not library.startswith("libbitsandbytes") else []


def _if_not_found() -> str:
    return "import torch before bitsandbytes: torch loads these libraries from their packages."


def _no_package(patient: Patient, missing: list[str]) -> Treatment:
    if patient.foreign and patient.chosen.kept is not None:
        return another_bitsandbytes(patient)
    which = ", ".join(missing) or "the library that the text names"
    return told(
        f"No package is known to bring {which}: take a bitsandbytes that is built for torch's own CUDA.",
        "The CUDA major of torch decides: libcudart.so.11.0 belongs to CUDA 11, libcublas.so.12 to 12, .so.13 to 13.",
        "A CUDA toolkit of the system is not needed: torch's wheels bring these libraries as packages.",
        "On that machine, bnbenv doctor PATH names what does not fit.",
        command=shell("bnbenv", "solve", "--torch", "keep"),
    )


def _lies_elsewhere(patient: Patient, there: list[str]) -> Treatment:
    """The package is installed and the linker does not look there, or its files are gone."""
    kept = patient.chosen.kept
    if kept is not None and kept.bitsandbytes.version != patient.bitsandbytes:
        return another_bitsandbytes(patient)
    versions = tuple(f"{name}=={package.version}" for name in there if (package := patient.package(name)))
    action = Install(requirements=versions, reinstall=tuple(there), no_deps=True)
    summary = f"Install {', '.join(there)} again: it is there and its library is not."
    return done_by(patient, (action,), summary, patient.pip("--reinstall", "--no-deps", *versions))


def mixed_runtimes(patient: Patient) -> Treatment:
    """A library of another CUDA release is found first, mostly by LD_LIBRARY_PATH."""
    settings = patient.examination.settings if patient.examination else ()
    lives = [one for one in settings if one.name == "LD_LIBRARY_PATH"]
    steps = [f"It is set in {one.file}, line {one.line or '?'}: {one.value}" for one in lives if one.file]
    steps += [
        "For one start: env -u LD_LIBRARY_PATH python ...",
        "Where something else needs it, take out only the folders of CUDA "
        "(/usr/local/cuda*/lib64, conda's lib): torch's "
        "wheels find their own libraries without it.",
        "In a conda environment with pip's torch: conda remove cudatoolkit "
        "cuda-libraries, or take torch from conda too.",
    ]
    return told(
        "Have torch's own CUDA libraries found first: unset LD_LIBRARY_PATH.", *steps, command="unset LD_LIBRARY_PATH"
    )


# ---- triton, numpy, transformers -------------------------------------------------------------------------------


def triton(patient: Patient) -> Treatment:
    """triton goes with its torch; bitsandbytes before 0.45.1 with triton before 3.2."""
    if re.search("compiler|gcc|build", patient.code):
        return _compiler(patient)
    torch = patient.package("torch")
    pin = next((_plain(line) for line in (torch.requires_dist if torch else ()) if re.match(r"triton\W", line)), None)
    if patient.code != "triton-ops" and pin and patient.foreign:
        return _beside(patient, f"Install the triton that torch {patient.torch} asks for.", pin)
    if patient.foreign or patient.own:
        return another_bitsandbytes(patient)
    return told(
        "Install bitsandbytes 0.45.1 or newer: older ones import triton.ops, which triton 3.2 no longer has.",
        "With an older bitsandbytes, keep torch 2.5 or older, whose triton still has it.",
        "On Windows triton is optional, and its package is triton-windows; it has to fit torch.",
        command=patient.pip("bitsandbytes>=0.45.1"),
    )


def _plain(requirement: str) -> str:
    return requirement.partition(";")[0].replace("(", "").replace(")", "").replace(" ", "")


def _compiler(patient: Patient) -> Treatment:
    steps = (
        "Without root: conda install -c conda-forge c-compiler, then export CC=$CONDA_PREFIX/bin/cc",
        "On Windows: the C++ build tools, in a shell opened as 'x64 Native Tools'.",
        "Python's headers have to be there as well: python3-dev on Debian and Ubuntu.",
    )
    return told(
        "Install a C compiler: triton compiles its kernels when they are first used.",
        *steps,
        command="sudo apt-get install -y gcc python3-dev",
    )


def numpy(patient: Patient) -> Treatment:
    """Modules compiled for NumPy 1 beside NumPy 2."""
    steps = (
        "Or take a newer torch instead: from 2.3 on (on Windows 2.4.1) it was compiled for NumPy 2.",
        "Another package may be the one that was compiled for NumPy 1: the traceback names it.",
    )
    return _beside(patient, "Install NumPy 1.26, for which these modules were compiled.", "numpy<2", steps=steps)


def gate(patient: Patient) -> Treatment:
    """transformers checks what is installed beside it."""
    if patient.code == "transformers-needs-newer":
        return another_bitsandbytes(patient)
    if patient.os == "macos" and patient.examination is None:
        more: tuple[str, ...] = (
            "On macOS bitsandbytes computes on the CPU only, and has had a library for it since 0.49.",
        )
    else:
        more = ()
    there = tuple(name for name in COMPANIONS if patient.package(name))
    if patient.code == "accelerate-too-old":
        summary = "Install the newest accelerate that fits: transformers asks for a newer one."
        return _beside(patient, summary, "accelerate", upgrade=("accelerate",))
    if patient.code == "accelerate-missing":
        return _beside(
            patient, "Install accelerate, without which transformers loads nothing in 4 or 8 bits.", "accelerate"
        )
    names = (
        tuple(dict.fromkeys((*there, "transformers", "accelerate")))
        if there
        else ("transformers", "accelerate", "bitsandbytes")
    )
    summary = f"Bring {', '.join(names)} to versions that know each other."
    after = "Restart the program or notebook afterwards: transformers looks once, at import."
    return _beside(patient, summary, *names, upgrade=names, steps=(*more, after))


def torch_companions(patient: Patient) -> Treatment:
    """torchvision, torchaudio and xformers are made for one torch each."""
    names = tuple(name for name in WITH_TORCH if patient.package(name)) or ("torchvision",)
    beside = f"torch {patient.torch}" if patient.torch else "the torch that is there"
    steps = (
        f"What is not used can go: {shell('uv', 'pip', 'uninstall', '--python', patient.python or 'python', *names)}",
    )
    return _beside(patient, f"Install the {', '.join(names)} made for {beside}.", *names, upgrade=names, steps=steps)


# ---- other quantization libraries ------------------------------------------------------------------------------


def two_environments(patient: Patient) -> Treatment:
    """GPTQ and AWQ packages pin or downgrade torch and transformers: they get an environment of their own."""
    found = split.treatment(patient)
    if found is not None:
        return found
    packages = patient.examination.packages if patient.examination else ()
    others = [
        one.name for one in packages if re.match("auto-?gptq|gptqmodel|auto-?awq|aqlm|eetq|hqq|optimum$", one.name)
    ]
    families = dict.fromkeys("awq" if "awq" in name else "gptq" for name in others if re.search("awq|gptq", name))
    added = [f"bnbenv add {family}" for family in families] or ["bnbenv add gptq"]
    steps = [f"An environment of its own for each family, beside the others of this project: {' && '.join(added)}"]
    if patient.own is not None and not (others and any(one.name == "bitsandbytes" for one in packages)):
        summary = "Run it where that library is (bnbenv run --env NAME), or add it to requirements in bnbenv.toml."
        return told(summary, "bnbenv add gptq, or bnbenv add awq, makes that environment beside this one.")
    if patient.own is not None:
        summary = "Take the packages of the other families out of it, and give them environments of their own."
        steps.append(f"Where {', '.join(others)} stands in [envs.{patient.own}] of bnbenv.toml, take it out first.")
        return told(summary, *steps, command=" && ".join((*added, f"bnbenv sync --env {patient.own}")))
    steps.insert(0, "bnbenv sync makes .venv-bnb, in which nothing else decides over torch.")
    if others:
        gone = shell("uv", "pip", "uninstall", "--python", patient.python or "python", *others)
        steps += ["To go on with this environment instead, take them out and set torch right:", f"  {gone}"]
        steps += [f"  {other_pair(patient).fix.command}"] if patient.foreign and patient.chosen.pair else []
    summary = "Keep bitsandbytes and the other quantization libraries in two environments."
    return told(summary, *steps, command=" && ".join(("bnbenv init", "bnbenv sync", *added)))


Write = Callable[[Patient], Treatment]

BY_CODE: Mapping[str, Write] = {
    "pip-conflict": two_environments,
    "torch-companion": torch_companions,
}
BY_CAUSE: Mapping[Cause, Write] = {
    "cuda_runtime_lib_missing": cuda_libraries,
    "mixed_cuda_runtimes": mixed_runtimes,
    "triton_incompat": triton,
    "numpy_abi": numpy,
    "transformers_version_gate": gate,
    "quant_lib_conflict": two_environments,
}
