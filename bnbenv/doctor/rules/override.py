"""BNB_CUDA_VERSION, wherever it is set: in this process, or in a file that the next shell reads."""

from __future__ import annotations

import re
from collections.abc import Iterator

from bnbenv.doctor.model import LibraryFile, Setting, Verdict
from bnbenv.doctor.rules.case import NO, OVERRIDE, Case, Rule, first, place, yes
from bnbenv.solve.versions import admits, is_version

_DIGITS = re.compile(r"[0-9]{2,4}")
STRICT = ">=0.50"  # the versions that take digits alone, and stop at an empty value; cextension.py at the tags


def _heeded(case: Case) -> Iterator[Setting]:
    """Where the variable is set, for a version that looks at it. A bnbenv environment's own is what was solved for."""
    version = case.bitsandbytes
    if version is None or not is_version(version):
        return
    loader = next((one for one in case.matrix.loaders if admits(one.versions, version, pre=True)), None)
    if loader is None or loader.override != OVERRIDE:
        return
    yield from case.settings(OVERRIDE)


def _library(case: Case, value: str) -> LibraryFile | None:
    """The CUDA library that a value names, if bitsandbytes has it."""
    wheel = case.examination.bitsandbytes
    named = re.compile(rf"libbitsandbytes_cuda{re.escape(value)}(?:_nocublaslt)?\.")
    return next((one for one in wheel.libraries if named.match(one.name)), None) if wheel is not None else None


def _strict(case: Case) -> bool:
    return admits(STRICT, case.bitsandbytes or "0", pre=True)


def empty(case: Case) -> Verdict:
    """Versions before 0.50 take an empty value for none."""
    found = [one for one in _heeded(case) if not one.value.strip()]
    if not found or not _strict(case):
        return NO
    return yes(*(f"{OVERRIDE} is empty {place(one)}" for one in found))


def malformed(case: Case) -> Verdict:
    found = [one for one in _heeded(case) if one.value.strip() and not _DIGITS.fullmatch(one.value.strip())]
    return yes(*(f'{OVERRIDE} is "{one.value}" {place(one)}' for one in found)) if found else NO


def library_missing(case: Case) -> Verdict:
    wheel = case.examination.bitsandbytes
    if wheel is None or not wheel.libraries:
        return NO
    found = [
        one
        for one in _heeded(case)
        if _DIGITS.fullmatch(one.value.strip()) and _library(case, one.value.strip()) is None
    ]
    have = ", ".join(sorted({one.cuda.replace(".", "") for one in wheel.libraries if one.cuda})) or "none"
    said = [f"{OVERRIDE} is {one.value.strip()} {place(one)}" for one in found]
    return yes(*said, f"bitsandbytes {case.bitsandbytes} has libraries for: {have}") if found else NO


def other_major(case: Case) -> Verdict:
    torch = case.examination.torch
    if torch is None or torch.cuda is None:
        return NO
    return first(*(_of_other_major(case, one, torch.cuda) for one in _heeded(case)))


def _of_other_major(case: Case, setting: Setting, cuda: str) -> Verdict:
    library = _library(case, setting.value.strip()) if setting.value.strip() else None
    if library is None or library.cuda is None or library.cuda.split(".")[0] == cuda.split(".")[0]:
        return NO
    return yes(f"{OVERRIDE} is {setting.value.strip()} {place(setting)}, that is CUDA {library.cuda}; torch has {cuda}")


def needless(case: Case) -> Verdict:
    """A note. What bnbenv's own environment sets was solved for."""
    prefix, torch = case.examination.target.prefix, case.examination.torch
    own = [one for one in _heeded(case) if _library(case, one.value.strip())]
    own = [one for one in own if not (prefix and one.file and one.file.startswith(prefix))]
    if not own or torch is None or other_major(case).answer == "yes":
        return NO
    return yes(f"{OVERRIDE} is {own[0].value.strip()} {place(own[0])}")


OVERRIDES = (
    Rule("override-empty", empty),
    Rule("override-malformed", malformed),
    Rule("override-library-missing", library_missing),
    Rule("override-other-major", other_major),
    Rule("override-needless", needless),
)
