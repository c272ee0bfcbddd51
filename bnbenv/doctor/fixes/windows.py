"""Fixes on Windows: Microsoft's runtime, the build tools, and wheels that hold a library for it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from bnbenv.doctor.fixes.install import another_bitsandbytes
from bnbenv.doctor.fixes.model import Treatment
from bnbenv.doctor.fixes.patient import Patient, told
from bnbenv.doctor.model import Cause

RUNTIME = "winget install --exact --id Microsoft.VCRedist.2015+.x64"
TOOLS = (
    'winget install --exact --id Microsoft.VisualStudio.2022.BuildTools --override "--wait --passive --add '
    'Microsoft.VisualStudio.Workload.VCTools --includeRecommended"'
)


def runtime(patient: Patient) -> Treatment:
    """vcruntime140.dll, vcruntime140_1.dll or msvcp140.dll is missing; or torch's DLLs need one that is."""
    windows = patient.examination.windows if patient.examination else None
    missing = [name for name, where in windows.runtimes.items() if where is None] if windows else []
    return told(
        "Install Microsoft's Visual C++ runtime (2015-2022, x64), then start a new shell.",
        f"Missing here: {', '.join(missing)}" if missing else "",
        "Without winget: https://aka.ms/vs/17/release/vc_redist.x64.exe, run as administrator.",
        "If fbgemm.dll of torch 2.4.0 is named, take torch 2.4.1 or newer, which no longer needs libomp140.x86_64.dll.",
        f"To compile, the build tools as well: {TOOLS}",
        command=RUNTIME,
    )


def no_library(patient: Patient) -> Treatment:
    """A release that has no native library for Windows."""
    if patient.foreign or patient.own:
        return another_bitsandbytes(patient)
    return told(
        "Install a current bitsandbytes: the official wheels hold libraries for Windows since 0.43.0.",
        "Take forks out first: python -m pip uninstall -y bitsandbytes bitsandbytes-windows",
        "torch has to be a CUDA build: pip's default on Windows is for the CPU. "
        "uv pip install --torch-backend auto torch takes the one for the driver.",
        "No DLL has to be copied and no file edited: undo what such advice had you do, or make a new environment.",
        command='python -m pip install "bitsandbytes>=0.50"',
    )


Write = Callable[[Patient], Treatment]

BY_CAUSE: Mapping[Cause, Write] = {"windows_msvc_runtime_missing": runtime, "windows_no_lib": no_library}
