"""The packages beside torch and bitsandbytes: those that do not fit, and those that stand in the way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from packaging.markers import Marker, UndefinedEnvironmentName
from packaging.requirements import InvalidRequirement, Requirement

from bnbenv.doctor.gates import gates
from bnbenv.doctor.model import Package, Verdict
from bnbenv.doctor.rules.case import NO, Case, Rule, absent, yes
from bnbenv.solve.versions import LONGEST, admits, is_version

TRITONS = ("triton", "triton-windows", "pytorch-triton")
_COMPANIONS = ("transformers", "accelerate", "peft", "trl")
_OF_TORCH = ("torchvision", "torchaudio", "xformers")
_SYSTEMS = {"linux": ("linux", "Linux"), "windows": ("win32", "Windows"), "macos": ("darwin", "Darwin")}


def _version(case: Case, name: str) -> str | None:
    """The version of a package that an import takes; of torch its own word goes before its metadata's."""
    if name == "torch":
        return case.torch if case.torch is not None and is_version(case.torch) else None
    found = case.examination.package(name)
    version = case.bitsandbytes if name == "bitsandbytes" else (found.version if found is not None else None)
    return version if version is not None and is_version(version) else None


def _unmet(case: Case, package: Package, only: Iterable[str] = ()) -> Iterator[str]:
    """Requirements of a package that what is installed does not meet; what is not installed counts for nothing."""
    wanted = frozenset(only)
    for text in package.requires_dist:
        requirement = _requirement(text)
        if requirement is None or not requirement.specifier or not _holds(case, requirement.marker):
            continue
        name = requirement.name.lower().replace("_", "-")
        have = _version(case, name)
        if have is None or (wanted and name not in wanted):
            continue
        if not admits(str(requirement.specifier), have, pre=True):
            yield f"{package.name} {package.version} requires {name}{requirement.specifier}; {have} is here"


def _requirement(text: str) -> Requirement | None:
    try:
        return Requirement(text) if len(text) <= LONGEST else None
    except InvalidRequirement:
        return None


def _holds(case: Case, marker: Marker | None) -> bool:
    """Whether a requirement is one of this environment: no extra's, and of its system and Python."""
    if marker is None:
        return True
    if "extra" in str(marker):
        return False
    platform, version = case.examination.facts.platform, case.examination.target.version or "3.12.0"
    sys_platform, system = _SYSTEMS.get(platform.os, (platform.os, platform.os))
    known = {
        "sys_platform": sys_platform,
        "platform_system": system,
        "platform_machine": platform.machine,
        "python_version": ".".join(version.split(".")[:2]),
        "python_full_version": version,
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "os_name": "nt" if platform.os == "windows" else "posix",
    }
    try:
        return marker.evaluate(dict(known))
    except UndefinedEnvironmentName:
        return False


# ---- triton, NumPy ---------------------------------------------------------------------------------------------


def _triton(case: Case) -> tuple[str, str] | None:
    for name in TRITONS:
        version = _version(case, name)
        if version is not None:
            return name, version
    return None


def triton_ops(case: Case) -> Verdict:
    row = next((one for one in case.matrix.advisories if one.id == "triton-ops"), None)
    found, version = _triton(case), _version(case, "bitsandbytes")
    if row is None or found is None or version is None or not admits(row.bitsandbytes or "", version, pre=True):
        return NO
    if not admits(row.triton or "", found[1], pre=True):
        return NO
    return yes(f"bitsandbytes {version} imports triton.ops; {found[0]} {found[1]} no longer has it")


def triton_not_torchs(case: Case) -> Verdict:
    torch = case.examination.package("torch")
    if torch is None or torch.version is None or case.torch is None:
        return NO
    if torch.version.partition("+")[0] != case.torch.partition("+")[0]:
        return NO  # the metadata is of another torch
    found = list(_unmet(case, torch, TRITONS))
    return yes(*found) if found else NO


def numpy_abi(case: Case) -> Verdict:
    """torch is built against NumPy 2 from 2.3.0 on (pytorch 107302), on Windows from 2.4.1 on (pytorch 135013)."""
    torch, numpy = _version(case, "torch"), _version(case, "numpy")
    first = "2.4.1" if case.examination.facts.platform.os == "windows" else "2.3"
    if torch is None or numpy is None or not admits(">=2", numpy, pre=True) or admits(f">={first}", torch, pre=True):
        return NO
    return yes(f"torch {torch} was built for NumPy 1; numpy {numpy} is here")


# ---- what calls bitsandbytes -----------------------------------------------------------------------------------


def _gated(code: str) -> Rule:
    """A rule of ``gates.toml``."""

    def judge(case: Case) -> Verdict:
        found = []
        for gate in gates():
            version, have = _version(case, gate.package), _version(case, gate.of)
            if gate.code != code or version is None or have is None or not admits(gate.versions, version, pre=True):
                continue
            if not admits(gate.needs, have, pre=True):
                found.append(f"{gate.package} {version} needs {gate.of}{gate.needs}; {have} is here")
        return yes(found[0]) if found else NO

    return Rule(code, judge)


def accelerate_missing(case: Case) -> Verdict:
    version = _version(case, "transformers")
    if version is None or case.bitsandbytes is None or case.examination.package("accelerate") is not None:
        return NO
    return yes(f"transformers {version} and bitsandbytes {case.bitsandbytes} are here, accelerate is not")


def companions(case: Case) -> Verdict:
    found = [one for name in _COMPANIONS if (one := case.examination.package(name)) is not None]
    said = [line for one in found for line in _unmet(case, one)]
    return yes(*said) if said else NO


def torch_companions(case: Case) -> Verdict:
    found = [one for name in _OF_TORCH if (one := case.examination.package(name)) is not None]
    said = [line for one in found for line in _unmet(case, one, ("torch",))]
    return yes(*said) if said else NO


# ---- other quantization libraries ------------------------------------------------------------------------------


def _others(case: Case) -> list[tuple[str, Package]]:
    """Packages of other families than bitsandbytes, with the family's name."""
    return [
        (family.name, found)
        for family in case.matrix.families
        if family.name != "bitsandbytes"
        for name in family.packages
        if (found := case.examination.package(name)) is not None
    ]


def quant_pins(case: Case) -> Verdict:
    said = [line for _, one in _others(case) for line in _unmet(case, one)]
    gated = _gated("quant-pins-broken").judge(case)
    return yes(*said, *gated.evidence) if said or gated.answer == "yes" else NO


def quant_mixed(case: Case) -> Verdict:
    families = {name for name, _ in _others(case)}
    if case.bitsandbytes is not None:
        families.add("bitsandbytes")
    if len(families) < 2:
        return NO
    names = ", ".join(f"{one.name} {one.version}" for _, one in _others(case))
    with_it = f"bitsandbytes {case.bitsandbytes} and " if case.bitsandbytes is not None else ""
    whys = [f"{one.name}: {one.why}" for one in case.matrix.families if one.name in families]
    return yes(f"here are {with_it}{names}", *(why.rstrip(".") for why in whys))


def bitsandbytes_missing(case: Case) -> Verdict:
    found = case.examination
    if found.target.kind == "none" or found.bitsandbytes is not None:
        return NO
    if case.families and "bitsandbytes" not in case.families:
        return NO  # it is another family's, and nobody asked for it there
    where = found.target.prefix or found.target.python or "this environment"
    return absent(case, f"none of the folders that {where} imports from has it")


PACKAGES = (
    Rule("bitsandbytes-missing", bitsandbytes_missing),
    Rule("triton-ops", triton_ops),
    Rule("triton-not-torchs", triton_not_torchs),
    Rule("numpy-abi", numpy_abi),
    _gated("transformers-needs-newer"),
    Rule("accelerate-missing", accelerate_missing),
    _gated("accelerate-too-old"),
    _gated("transformers-disables-torch"),
    _gated("peft-transformers"),
    Rule("companion-requirement", companions),
    Rule("torch-companion", torch_companions),
    Rule("quant-pins-broken", quant_pins),
    Rule("quant-libraries-mixed", quant_mixed),
)
