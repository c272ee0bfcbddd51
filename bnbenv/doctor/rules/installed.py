"""How packages lie: shadowed, twice, in parts; and what is known to be bad of the combination."""

from __future__ import annotations

import re

from bnbenv.doctor.model import Examination, Leftover, Package, Verdict
from bnbenv.doctor.rules.case import NO, OVERRIDE, Case, Rule, yes
from bnbenv.doctor.rules.packages import TRITONS
from bnbenv.matrix.model import Advisory, BitsandbytesWheel, Evidence, NativeLibrary, TorchBuild
from bnbenv.solve.pairs import applies
from bnbenv.solve.versions import is_version

# Packages of which a second copy decides what runs.
_DECIDE = ("torch", "bitsandbytes", "triton", "transformers", "accelerate", "peft", "numpy")
_COMPILED = ("torch", "numpy")  # of these, those that run under one version of Python only
_FOR_PYTHON = re.compile(r"/python(3\.[0-9]{1,2})t?/(?:site|dist)-packages$")
_MIXED = ("twice", "interrupted", "metadata", "package", "version", "conda", "")
_OF_BITSANDBYTES = "libbitsandbytes_"

# Told by rules of their own that look at what is there, or no matter for those who do not verify with bnbenv.
_ELSEWHERE = frozenset({"triton-ops", "verify-before-0.42"})
_BY_LINKING = frozenset({"nvjitlink-13", "libcusparse-11"})


def _shadowed(case: Case, where: str) -> Verdict:
    """Packages taken from a folder before the environment's own, where another version lies behind."""
    found = case.examination
    said = []
    for front in found.packages:
        behind = [one for one in found.packages if one.name == front.name and not one.effective]
        other = next((one for one in behind if one.version != front.version and one.where != where), None)
        if front.effective and front.where == where and other is not None and _decides(front):
            said.append(f"{front.name} {front.version} in {front.path} goes before {other.version} in {other.path}")
        elif front.effective and front.where == where and front.name in _COMPILED:
            said += _for_another_python(front, found.target.version)
    return yes(*said, *_bare(found, where)) if said or _bare(found, where) else NO


def _for_another_python(front: Package, version: str | None) -> list[str]:
    """A folder of another Python, by its name: what is compiled in it cannot be imported by this one."""
    made_for = _FOR_PYTHON.search(_folder(front))
    if made_for is None or version is None or made_for[1] == ".".join(version.split(".")[:2]):
        return []
    return [f"{front.name} {front.version} in {front.path} is for Python {made_for[1]}, and this is Python {version}"]


def _decides(package: Package) -> bool:
    return package.name in _DECIDE or package.name.startswith("nvidia-")


def _bare(found: Examination, where: str) -> list[str]:
    """A folder of sources or copies without metadata, before an installed package of that name."""
    said = []
    for name, module in (("torch", found.torch), ("bitsandbytes", found.bitsandbytes)):
        if module is None:
            continue
        folder = module.path.replace("\\", "/").rstrip("/").rpartition("/")[0]
        front = any(
            one.where == where and one.path.replace("\\", "/").rstrip("/") == folder for one in found.target.search
        )
        own = [one for one in found.packages if one.name == name and not one.editable]
        if front and own and not any(_folder(one) == folder for one in own):
            said.append(f"{name} is taken from {module.path}, before {own[0].version} in {own[0].path}")
    return said


def _folder(package: Package) -> str:
    return package.path.replace("\\", "/").rpartition("/")[0]


def pythonpath(case: Case) -> Verdict:
    return _shadowed(case, "pythonpath")


def user_site(case: Case) -> Verdict:
    return _shadowed(case, "user")


def several(case: Case) -> Verdict:
    """Forks and old builds of other names put their files into the same folder."""
    places: dict[str, list[Package]] = {}
    for one in case.examination.packages:
        if one.name == "bitsandbytes" or one.name.startswith("bitsandbytes-"):
            places.setdefault(_folder(one), []).append(one)
    both = [found for found in places.values() if len({one.name for one in found}) > 1]
    return yes(*(" and ".join(f"{one.name} {one.version}" for one in found) for found in both)) if both else NO


def _said(leftovers: list[Leftover]) -> Verdict:
    return yes(*(f"{one.name}: {one.because}" for one in leftovers)) if leftovers else NO


def leftovers(case: Case) -> Verdict:
    return _said([one for one in case.examination.leftovers if one.kind in _MIXED])


def _spare(case: Case, one: Leftover) -> bool:
    """Whether what is gone or cut off are libraries of bitsandbytes that are not loaded here."""
    loads = case.examination.loads
    used = {loads.library, loads.wanted} if loads is not None else set()
    names = {path.replace("\\", "/").rpartition("/")[2] for path in one.paths}
    return all(name.startswith(_OF_BITSANDBYTES) for name in names) and not names & used


def incomplete(case: Case) -> Verdict:
    found = [one for one in case.examination.leftovers if one.kind in ("gone", "cut")]
    return _said([one for one in found if not _spare(case, one)])


def spare_gone(case: Case) -> Verdict:
    found = [one for one in case.examination.leftovers if one.kind in ("gone", "cut")]
    return _said([one for one in found if _spare(case, one)])


def strange(case: Case) -> Verdict:
    """One compiled by hand lies there rightly."""
    return _said([one for one in case.examination.leftovers if one.kind == "strange"])


# ---- known-bad combinations ------------------------------------------------------------------------------------


def advisories(case: Case) -> Verdict:
    return _advised(case, refuses=True)


def notes(case: Case) -> Verdict:
    return _advised(case, refuses=False)


def _advised(case: Case, refuses: bool) -> Verdict:
    found = [one for one in case.matrix.advisories if one.refuses is refuses and _applies(case, one)]
    return yes(*(line for one in found for line in (one.summary, one.remedy, f"see {one.reference}"))) if found else NO


def _applies(case: Case, advisory: Advisory) -> bool:
    found = case.examination
    torch, version = found.torch, case.bitsandbytes
    if (
        torch is None
        or version is None
        or not is_version(version)
        or not torch.version
        or not is_version(torch.version)
    ):
        return False
    if advisory.id in _ELSEWHERE or (advisory.id in _BY_LINKING and found.linked):
        return False
    if advisory.id == "scipy-undeclared" and found.package("scipy") is not None:
        return False
    library = case.loaded
    native = NativeLibrary(library.name, library.backend, library.sass, library.ptx) if library is not None else None
    override = next((one.value for one in case.settings(OVERRIDE) if one.value), None)
    return applies(case.situation, advisory, _build(case, torch.version), _wheel(case, version), native, override)


def _build(case: Case, version: str) -> TorchBuild:
    """The torch that is there as a row of the matrix, with the triton that is there."""
    found, platform = case.examination, case.examination.facts.platform
    triton = next((one.version for name in TRITONS if (one := found.package(name)) is not None), None)
    return TorchBuild(
        version=version,
        source="existing",
        os=platform.os,
        machine=platform.machine,
        cuda=found.torch.cuda if found.torch is not None else None,
        arch_list=found.torch.arch_list if found.torch is not None else (),
        pythons=(),
        requires_dist=(),
        evidence=_HERE,
        triton=triton if triton is not None and is_version(triton) else None,
    )


def _wheel(case: Case, version: str) -> BitsandbytesWheel:
    platform = case.examination.facts.platform
    return BitsandbytesWheel(version, "", "", 0, platform.os, platform.machine, None, None, (), (), _HERE)


_HERE = Evidence("measured", "this environment", "")

INSTALLED = (
    Rule("pythonpath-shadows", pythonpath),
    Rule("user-site-shadows", user_site),
    Rule("several-bitsandbytes", several),
    Rule("leftovers", leftovers),
    Rule("package-incomplete", incomplete),
    Rule("unused-library-missing", spare_gone),
    Rule("library-by-hand", strange),
    Rule("advisory", advisories),
    Rule("advisory-note", notes),
)
