"""Fixes that compile bitsandbytes, where no published wheel fits what is there. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from bnbenv.build.order import of_version
from bnbenv.doctor.fixes.model import Action, Compile, Treatment
from bnbenv.doctor.fixes.patient import Patient, done_by, shell, told
from bnbenv.matrix.native import library_cuda
from bnbenv.solve.versions import public


def compiled(patient: Patient) -> Treatment:
    """bitsandbytes compiled for the torch and the GPUs that are there; nothing else changes."""
    action = _chosen(patient)
    on = ", ".join(action.archs)
    summary = f"Compile bitsandbytes {action.release} for {on}: no published wheel fits torch {patient.torch} here."
    return _treatment(patient, action, summary)


def compiled_again(patient: Patient) -> Treatment | None:
    """The same again, for a bitsandbytes that bnbenv compiled: no index has it. None for any other."""
    order = of_version(patient.bitsandbytes or "")
    if order is None or not patient.chosen.stays:
        return None
    action = Compile(release=order.ref or "", cuda=order.cuda, archs=order.archs)
    summary = f"Install bitsandbytes {patient.bitsandbytes} again, which was compiled for {', '.join(order.archs)}."
    return _treatment(patient, action, summary)


def line_of(patient: Patient) -> str:
    """The command that makes the wheel which the solver would have compiled."""
    return _chosen(patient).line


def _chosen(patient: Patient) -> Compile:
    build = patient.chosen.build
    assert build is not None
    cuda = library_cuda(build.bitsandbytes.library) or build.torch.cuda or ""
    return Compile(release=str(public(build.bitsandbytes.version)), cuda=cuda, archs=patient.chosen.build_archs)


def _treatment(patient: Patient, action: Compile, summary: str) -> Treatment:
    needs = patient.chosen.build.environment if patient.chosen.build is not None else {}
    steps = [
        f"It takes about a minute, and the wheel is kept; then: {patient.pip('--no-deps', 'WHEEL')}",
        *(f"Set {shell(f'{name}={value}')} before Python starts." for name, value in needs.items()),
    ]
    actions: tuple[Action, ...] = () if needs else (action,)  # what has to be set, only people can
    return done_by(patient, actions, summary, action.line, steps)


# ---- somebody's own build failed -------------------------------------------------------------------------------

_ITSELF = "Is it bitsandbytes? bnbenv build compiles it for the GPUs that are here: for CUDA 13 it needs no toolkit."


def host_compiler(patient: Patient) -> Treatment:
    """nvcc refuses the C++ compiler."""
    return told(
        "Compile with an older C++ compiler beside the new one; the message names the newest that this CUDA takes.",
        _known(patient),
        _ITSELF,
        "By hand, on Debian and Ubuntu: apt-get install g++-12, then CUDAHOSTCXX=g++-12 (CMake), or nvcc -ccbin g++-12",
        "Not -allow-unsupported-compiler: what it lets through may compute wrongly.",
        command=_build(patient),
    )


def c_library(patient: Patient) -> Treatment:
    """The headers of CUDA and of glibc contradict each other."""
    return told(
        "Compile with CUDA 13.2 or newer: its headers fit glibc 2.41 and 2.42.",
        _ITSELF,
        "The torch beside it has to be of CUDA 13: bnbenv solve --torch '>=2.11' names one.",
        "For a torch of CUDA 12: compile in a container or on a system with glibc 2.40 or older.",
        "Another g++ does not help: the contradiction is in the headers of the C library, not in the compiler's.",
        command="bnbenv build --cuda 13.2",
    )


def architecture(patient: Patient) -> Treatment:
    """nvcc does not know the GPU."""
    return told(
        "Compile with a CUDA release that knows this GPU, and take a torch of that release.",
        _known(patient),
        _ITSELF,
        "CUDA 12.8 is the first for Blackwell (sm_100, sm_120); 12.9 the last for Maxwell, Pascal and Volta.",
        "The torch beside it has to be of that CUDA major: bnbenv solve names one.",
        command=_build(patient),
    )


def compiler_killed(patient: Patient) -> Treatment:
    """Too little memory for the compilers."""
    return told(
        "Compile with fewer jobs at once: one takes up to 3 GB.",
        _known(patient),
        "bnbenv build counts the memory that is free, and the container's limit, before it says how many.",
        "By hand: cmake --build build -j 1, or MAX_JOBS=1 pip install ... (extensions of torch)",
        "In a container the limit counts, not the machine's memory: docker run --memory",
        command=_build(patient),
    )


def no_toolkit(patient: Patient) -> Treatment:
    """No CUDA toolkit, or half of one."""
    return told(
        "Take a version that has a wheel: then nothing is compiled. bnbenv solve names it.",
        _known(patient),
        _ITSELF,
        "Another package: install the toolkit of torch's own CUDA (cuda-toolkit-12-8 and the like, from NVIDIA's "
        "repository) and set CUDA_HOME to it.",
        "conda: conda install -c nvidia/label/cuda-12.8.0 cuda-toolkit",
        command=_build(patient),
    )


def failed_build(patient: Patient) -> Treatment:
    """Something had to be compiled and could not."""
    return told(
        "Take a version that has a wheel: then nothing is compiled. bnbenv solve names it.",
        _known(patient),
        _ITSELF,
        "Another package: a compiler (apt-get install build-essential cmake), and the nvcc of torch's own CUDA.",
        "The first error in the build's output counts, not the last line.",
        "python -m pip install --only-binary=:all: PACKAGE refuses to compile, and says what there is.",
        command="bnbenv solve",
    )


def _known(patient: Patient) -> str:
    """What is known about the first error; what ``bnbenv build`` does by itself, other builds have to be told."""
    return (patient.said.compiling or "").replace(", it is then taken", "")


def _build(patient: Patient) -> str:
    return line_of(patient) if patient.chosen.build is not None else "bnbenv build"


BY_CODE: Mapping[str, Callable[[Patient], Treatment]] = {
    "build-host-compiler": host_compiler,
    "build-architecture": architecture,
    "build-c-library": c_library,
    "build-out-of-memory": compiler_killed,
    "build-toolkit": no_toolkit,
    "build-failed": failed_build,
}
