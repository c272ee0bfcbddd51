"""Fixes that install torch or bitsandbytes: the same again, another one for what is there, or both. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from bnbenv.doctor.fixes.compiling import compiled, compiled_again, line_of
from bnbenv.doctor.fixes.model import Install, NewGeneration, Treatment
from bnbenv.doctor.fixes.patient import Patient, done_by, shell, told
from bnbenv.doctor.model import Cause
from bnbenv.solve.model import Choice

# Packages that are made for one torch: where they are installed, they have to change with it.
WITH_TORCH = ("torchvision", "torchaudio", "xformers")


def own_generation(patient: Patient, why: str) -> Treatment:
    """A new generation of an environment of bnbenv's own; the one in use stays until the new one has been verified."""
    action = NewGeneration(env=patient.own or "bnb")
    return done_by(patient, (action,), f"Make a new generation of {patient.own}: {why}", patient.sync)


def another_bitsandbytes(patient: Patient) -> Treatment:
    """The newest bitsandbytes that fits the torch, the GPUs and the C library that are there."""
    if patient.own:
        return own_generation(patient, "what fits this machine is chosen again.")
    kept = patient.chosen.kept
    if kept is not None and kept.bitsandbytes.version == patient.bitsandbytes:
        return bitsandbytes_again(patient)
    if kept is not None and patient.foreign:
        return for_this_torch(patient, kept)
    if patient.foreign:
        return other_pair(patient)
    return _in_general(patient)


def for_this_torch(patient: Patient, kept: Choice) -> Treatment:
    want = f"bitsandbytes=={kept.bitsandbytes.version}"
    action = Install(requirements=(*_as_it_is(patient), want), hashes=hash_of(patient, want))
    steps = [f"It then loads {kept.bitsandbytes.library}; torch {patient.torch} stays."]
    steps += [f"Set {shell(f'{name}={value}')} before Python starts." for name, value in kept.environment.items()]
    summary = f"Install bitsandbytes {kept.bitsandbytes.version}, the newest that fits torch {patient.torch} here."
    return done_by(patient, (action,), summary, patient.pip(want), steps)


def _as_it_is(patient: Patient) -> tuple[str, ...]:
    """torch as a requirement that only the one that is there meets: "==2.13.0" would let "2.13.0+cu130" in."""
    return (f"torch==={patient.torch}",) if patient.torch and patient.package("torch") else ()


def hash_of(patient: Patient, requirement: str) -> dict[str, str]:
    sha256 = patient.chosen.hashes.get(requirement)
    return {"bitsandbytes": sha256} if sha256 else {}


def bitsandbytes_again(patient: Patient) -> Treatment:
    """The same bitsandbytes again, from its wheel; another one where that would not fit the torch that is there."""
    if patient.own:
        return own_generation(patient, "its files are installed again, and checked.")
    version = patient.bitsandbytes
    if not patient.foreign:
        return _in_general(patient)
    again = compiled_again(patient)
    if again is not None:
        return again
    if version is None or not patient.chosen.stays:
        kept = patient.chosen.kept
        return for_this_torch(patient, kept) if kept is not None else other_pair(patient)
    want = f"bitsandbytes=={version}"
    folder = patient.examination.bitsandbytes.path if patient.examination and patient.examination.bitsandbytes else ""
    action = Install(
        requirements=(want,),
        reinstall=("bitsandbytes",),
        no_deps=True,
        hashes=hash_of(patient, want),
        sweep=(folder,) if folder and "site-packages" in folder else (),
    )
    command = patient.pip("--reinstall-package", "bitsandbytes", "--no-deps", want)
    summary = f"Install bitsandbytes {version} again from its wheel; nothing else changes."
    steps = ("If the file is damaged again, the copy in uv's cache is: uv cache clean bitsandbytes",)
    return done_by(patient, (action,), summary, command, steps)


def variant_of(version: str) -> str | None:
    """The variant of PyTorch's own index that a version names: ``cu126`` of ``2.9.1+cu126``."""
    local = version.partition("+")[2]
    return local if local.startswith("cu") or local == "cpu" else None


def backend_of(variant: str | None) -> tuple[str, ...]:
    """What tells uv to look there, in a line to type."""
    return ("--torch-backend", variant) if variant else ()


def other_pair(patient: Patient) -> Treatment:
    """torch and bitsandbytes together, for the driver and every GPU; for a text in general."""
    if patient.own:
        return own_generation(patient, "torch and bitsandbytes are chosen again for this driver and these GPUs.")
    pair = patient.chosen.pair
    if not patient.foreign:
        return _in_general(patient)
    if pair is None:
        return _no_pair(patient)
    version, variant = pair.torch.version, pair.torch.index
    others = tuple(name for name in WITH_TORCH if patient.package(name))
    want = f"bitsandbytes=={pair.bitsandbytes.version}"
    action = Install(requirements=(f"torch==={version}", want, *others), hashes=hash_of(patient, want), index=variant)
    options = backend_of(variant or variant_of(version))
    public = f"torch=={version.partition('+')[0]}" if options else f"torch=={version}"
    cuda = f"CUDA {pair.torch.cuda}" if pair.torch.cuda else "CPU"
    steps = [f"{', '.join(others)} change with it." if others else "", *_build(patient)]
    steps += [f"Set {shell(f'{name}={value}')} before Python starts." for name, value in pair.environment.items()]
    local = "This torch is a wheel in a folder of yours: to install it by hand, uv needs --find-links and that folder."
    steps += [local] if pair.torch.source == "local" else []
    summary = f"Install torch {version} ({cuda}) and bitsandbytes {pair.bitsandbytes.version}, which fit this machine."
    command = patient.pip(*options, public, want, *others)
    return done_by(patient, (action,), summary, command, [step for step in steps if step])


def torch_again(patient: Patient) -> Treatment:
    """The same torch again where its version is known, else a pair."""
    package = patient.package("torch")
    if patient.own or not patient.foreign or package is None or package.version is None:
        return other_pair(patient)
    want, index = f"torch==={package.version}", variant_of(package.version)
    action = Install(requirements=(want,), reinstall=("torch",), no_deps=True, index=index)
    command = patient.pip(*backend_of(index), "--reinstall-package", "torch", "--no-deps", f"torch=={package.version}")
    return done_by(patient, (action,), f"Install torch {package.version} again; nothing else changes.", command)


def _no_pair(patient: Patient) -> Treatment:
    if patient.chosen.build is not None:
        return compiled(patient)
    why = patient.chosen.no_pair or patient.chosen.no_kept
    steps = [f"Why not: {why}" if why else "", "What would change that: bnbenv solve"]
    return told("No published torch and bitsandbytes are known to fit this machine.", *steps, command="bnbenv solve")


def _build(patient: Patient) -> list[str]:
    """A source build for exactly these GPUs, where one is known to work: torch then stays."""
    build = patient.chosen.build
    return [f"Or keep torch, and compile bitsandbytes for these GPUs: {line_of(patient)}"] if build is not None else []


def _in_general(patient: Patient) -> Treatment:
    """There is only a text, or nothing is known of the environment: what its versions allow."""
    suits, cuda = patient.chosen.suits, patient.torch_cuda
    if suits is not None:
        beside = f"torch {patient.torch}" if patient.torch else "the torch"
        beside += f" (CUDA {cuda})" if cuda else ""
        summary = f"Install bitsandbytes {suits} there: it is the newest for {beside} of that text."
        command = shell("python", "-m", "pip", "install", f"bitsandbytes=={suits}")
    else:
        summary = "Install, in that environment, the bitsandbytes that has a library for its torch and its GPU."
        command = shell("bnbenv", "solve", "--torch", "keep")
    look = "On that machine, bnbenv doctor PATH looks at the environment and names the exact version."
    return told(
        summary, look, "Or make a new one that fits, its kernels proved: bnbenv init; bnbenv sync", command=command
    )


def cuda_torch(patient: Patient) -> Treatment:
    """torch is a CPU build: a CUDA build for the driver, with a bitsandbytes that fits."""
    if patient.own:
        return own_generation(
            patient, "with a CUDA build of torch for this driver; bnbenv.toml must not ask for the CPU."
        )
    if patient.foreign and patient.chosen.pair is not None and patient.chosen.pair.torch.cuda is not None:
        return other_pair(patient)
    steps = [
        "The driver decides which: bnbenv solve names torch, its index and bitsandbytes.",
        "uv takes the build for the driver by itself: uv pip install --torch-backend auto torch"
        if patient.os != "macos"
        else "",
        "On Windows the default index has CPU builds only, so pip install torch brings one."
        if patient.os == "windows"
        else "",
    ]
    return told("Install a CUDA build of torch; this one is for the CPU.", *steps, command="bnbenv solve")


def rocm(patient: Patient) -> Treatment:
    """AMD's GPUs: bnbenv measures and chooses for NVIDIA's only."""
    if patient.examination is not None and patient.examination.facts.gpus and patient.foreign:
        return other_pair(patient)  # torch is for AMD's GPUs and those that are here are NVIDIA's
    return told(
        "bitsandbytes needs a library for just the ROCm release that torch was built for.",
        "See which it is: python -c 'import torch; print(torch.version.hip)'",
        "Take the newest bitsandbytes: since 0.49 its Linux wheels hold ROCm libraries, newer ones for newer releases.",
        "If none is for that ROCm, build it from source: cmake -DCOMPUTE_BACKEND=hip -S . -B build, then "
        "cmake --build build and pip install . (with the ROCm that torch was built for).",
        "bnbenv itself chooses for NVIDIA's GPUs and the CPU only.",
        command=patient.pip("--upgrade", "bitsandbytes"),
    )


def wheel_too_new(patient: Patient) -> Treatment:
    """The C library is too old for a binary: the newest bitsandbytes that it is enough for."""
    found = another_bitsandbytes(patient)
    if patient.foreign and patient.chosen.kept is not None:
        return found
    steps = (
        *found.fix.steps,
        "glibc comes with the system: a newer one needs a newer system, or a container image of one.",
        "For GLIBCXX or CXXABI a newer libstdc++ is enough: conda install -c conda-forge 'libstdcxx-ng>=13'",
    )
    return Treatment(msgspec.structs.replace(found.fix, steps=steps), found.actions)


def musl(patient: Patient) -> Treatment:
    """Alpine and the like: no wheel of torch or bitsandbytes is built for it."""
    return told(
        "Take a system with glibc: Debian, Ubuntu, Fedora, or an image of one.",
        "Of an Alpine image the counterpart is one whose name ends in -slim or -bookworm: FROM python:3.12-slim",
    )


def newer_libstdcxx(patient: Patient) -> Treatment:
    """GLIBCXX: which libstdc++ is used can be changed without a newer system."""
    conda = patient.examination is not None and patient.examination.target.kind == "conda"
    cxx = patient.examination.cxx if patient.examination else None
    steps = [
        f"In use is {cxx.path}, which ends at {cxx.glibcxx}." if cxx and cxx.path and cxx.glibcxx else "",
        "In a conda environment its own libstdc++ goes first; with the newer one above it is enough."
        if conda
        else "Where the system's is newer, put it first for this program: "
        "LD_PRELOAD=/usr/lib/x86_64-linux-gnu/libstdc++.so.6",
        "What was compiled on this machine with a newer compiler needs the libstdc++ of that compiler at run time.",
    ]
    prefix = patient.examination.target.prefix if patient.examination and conda else None
    where = ("-p", prefix) if prefix else ()
    command = shell("conda", "install", *where, "-c", "conda-forge", "libstdcxx-ng>=13")
    return told("Give the program a newer libstdc++.", *steps, command=command)


def kernels_fail(patient: Patient) -> Treatment:
    """The kernels ran and computed wrongly, and nothing explains it."""
    kept, has = patient.chosen.kept, patient.bitsandbytes
    if patient.own:
        return own_generation(patient, "its files are installed again, and its kernels run.")
    if kept is not None and has is not None and kept.bitsandbytes.version != has:
        return for_this_torch(patient, kept)
    return told(
        "Try another bitsandbytes or another torch beside it, and report what fails.",
        "Which step fails, and by how much: bnbenv verify",
        "An older bitsandbytes in an environment of its own: bnbenv sync --bitsandbytes '<0.50'",
        "Report it, with what bnbenv verify --json prints, to bitsandbytes.",
        command="bnbenv verify --json",
    )


Write = Callable[[Patient], Treatment]

BY_CODE: Mapping[str, Write] = {
    "native-library-damaged": bitsandbytes_again,
    "cpu-library-missing": bitsandbytes_again,
    "cuda-library-gone": bitsandbytes_again,
    "no-native-library": bitsandbytes_again,
    "native-library-unloadable": bitsandbytes_again,
    "verify-failed": kernels_fail,
    "transformers-disables-torch": other_pair,
    "bitsandbytes-damaged": bitsandbytes_again,
    "bitsandbytes-absent": another_bitsandbytes,
    "undefined-torch-symbol": other_pair,
    "bitsandbytes-missing": another_bitsandbytes,
    "torch-requirement": another_bitsandbytes,
    "advisory": another_bitsandbytes,
    "advisory-note": another_bitsandbytes,
    "musl-libc": musl,
    "torch-missing": other_pair,
    "torch-damaged": torch_again,
    "torch-library-gone": torch_again,
    "torch-lacks-gpu": other_pair,
    "torch-rocm": other_pair,
    "library-lacks-gpu": another_bitsandbytes,
    "glibcxx-too-old": newer_libstdcxx,
}
BY_CAUSE: Mapping[Cause, Write] = {
    "lib_cuda_version_missing": another_bitsandbytes,
    "cpu_only_bnb": another_bitsandbytes,
    "no_kernel_image": another_bitsandbytes,
    "glibc_too_old": wheel_too_new,
    "cpu_only_torch": cuda_torch,
    "rocm": rocm,
    "python_abi": other_pair,
}
