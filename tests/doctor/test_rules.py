"""Every rule has a case that triggers it, and one that nearly does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest

from bnbenv.doctor.causes import about, rule_codes
from bnbenv.doctor.model import (
    CAUSES,
    Bitsandbytes,
    Cxx,
    Examination,
    Leftover,
    LibraryFile,
    Linked,
    Loads,
    Package,
    Runtime,
    SearchPath,
    Setting,
    Target,
    Torch,
    Windows,
)
from bnbenv.doctor.rules import RULES, Case
from bnbenv.facts.model import HostFacts, Libc, Unknown, decode_facts
from bnbenv.matrix.load import load_matrix
from bnbenv.matrix.model import Matrix
from bnbenv.solve.inspecting import situation_of

HOSTS = Path(__file__).parent.parent / "hosts"
H200 = "linux-x86_64__580.65.06__h200-sm90"
NO_GPU = "linux-x86_64__absent__nogpu__glibc2.36"
SITE = "/env/lib/python3.11/site-packages"

Change = Callable[[Examination], Examination]


@lru_cache(maxsize=1)
def matrix() -> Matrix:
    return load_matrix()


@lru_cache(maxsize=64)
def host(name: str) -> HostFacts:
    return decode_facts((HOSTS / name / "facts.json").read_bytes(), name)


def wheel(version: str, system: str = "linux", machine: str = "x86_64") -> Bitsandbytes:
    """A bitsandbytes as it is installed: its libraries are the measured ones."""
    row = next(one for one in matrix().bitsandbytes if (one.version, one.os, one.machine) == (version, system, machine))
    libraries = tuple(
        LibraryFile(
            name=one.name,
            path=f"{SITE}/bitsandbytes/{one.name}",
            backend=one.backend,
            cuda=_cuda(one.name),
            sass=one.sass,
            ptx=one.ptx,
            glibc=one.glibc,
            glibcxx=one.glibcxx,
        )
        for one in row.libraries
    )
    return Bitsandbytes(path=f"{SITE}/bitsandbytes", version=version, own_version=version, libraries=libraries)


def _cuda(name: str) -> str | None:
    digits = "".join(c for c in name.partition("_cuda")[2].partition(".")[0].partition("_")[0])
    return f"{digits[:-1]}.{digits[-1]}" if digits else None


def package(name: str, version: str, where: str = "environment", **more: Any) -> Package:
    more.setdefault("path", f"{SITE}/{name}-{version}.dist-info")
    return Package(name=name, version=version, where=where, **more)


def healthy(name: str = H200, version: str = "0.50.2", library: str | None = None) -> Examination:
    """torch 2.10 for CUDA 12.8 and a bitsandbytes that fits; without a GPU the CPU library is loaded."""
    facts = host(name)
    cpu = not facts.gpus
    library = library or ("libbitsandbytes_cpu.so" if cpu else "libbitsandbytes_cuda128.so")
    archs = () if cpu else ("sm_70", "sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120")
    torch = "2.10.0+cpu" if cpu else "2.10.0"
    return Examination(
        facts=facts,
        target=Target(
            kind="venv",
            python="/env/bin/python",
            version="3.11.7",
            prefix="/env",
            writable=True,
            search=(SearchPath(SITE, "environment"),),
        ),
        packages=(
            package("torch", torch, requires_dist=("triton==3.6.0; platform_system == 'Linux'",)),
            package("bitsandbytes", version, requires_dist=("torch<3,>=2.4", "numpy>=1.17")),
            package("numpy", "2.4.6"),
        ),
        torch=Torch(path=f"{SITE}/torch", version=torch, cuda=None if cpu else "12.8", arch_list=archs),
        bitsandbytes=wheel(version),
        loads=Loads(answer="yes", because="torch is for CUDA 12.8", library=library),
        linked=(Linked(soname="libcudart.so.12", needed_by=library, answer="yes", path="/c/libcudart.so.12"),),
        cxx=Cxx(path="/usr/lib/libstdc++.so.6", glibcxx="3.4.33"),
    )


def changed(**changes: Any) -> Change:
    return lambda found: msgspec.structs.replace(found, **changes)


def torch(**changes: Any) -> Change:
    return lambda found: msgspec.structs.replace(found, torch=msgspec.structs.replace(found.torch, **changes))


def wheel_is(**changes: Any) -> Change:
    return lambda found: msgspec.structs.replace(
        found, bitsandbytes=msgspec.structs.replace(found.bitsandbytes, **changes)
    )


def facts(**changes: Any) -> Change:
    """Fields of the facts; of a nested value as ``driver={"state": "error"}``."""

    def change(found: Examination) -> Examination:
        values = {
            name: msgspec.structs.replace(getattr(found.facts, name), **value) if isinstance(value, dict) else value
            for name, value in changes.items()
        }
        return msgspec.structs.replace(found, facts=msgspec.structs.replace(found.facts, **values))

    return change


def target(**changes: Any) -> Change:
    return lambda found: msgspec.structs.replace(found, target=msgspec.structs.replace(found.target, **changes))


def beside(*packages: Package) -> Change:
    """With these packages; one of a name that is there takes its place."""
    names = {one.name for one in packages}
    return lambda found: msgspec.structs.replace(
        found, packages=(*(one for one in found.packages if one.name not in names), *packages)
    )


def also(*packages: Package) -> Change:
    return lambda found: msgspec.structs.replace(found, packages=(*found.packages, *packages))


def setting(value: str, file: str | None = None, name: str = "BNB_CUDA_VERSION") -> Change:
    return changed(settings=(Setting(name=name, value=value, file=file, line=3 if file else None),))


def missing(wanted: str | None, override: str | None = None) -> Change:
    return changed(loads=Loads(answer="no", because="it finds no library", wanted=wanted, override=override))


def not_told(wanted: str) -> Change:
    return changed(loads=Loads(answer="unknown", because="the GPUs are unknown", wanted=wanted))


def linked(**more: Any) -> Change:
    values = {"soname": "libcudart.so.12", "needed_by": "libbitsandbytes_cuda128.so", "answer": "no", **more}
    return changed(linked=(Linked(**values),))


def library(name: str, **changes: Any) -> Change:
    """One native library of the bitsandbytes that is there is otherwise."""

    def change(found: Examination) -> Examination:
        assert found.bitsandbytes is not None
        libraries = tuple(
            msgspec.structs.replace(one, **changes) if one.name == name else one for one in found.bitsandbytes.libraries
        )
        return wheel_is(libraries=libraries)(found)

    return change


def condition(*names: str) -> Change:
    return changed(conditions={name: f"{name} was seen" for name in names})


def on(name: str = H200, *changes: Change, version: str = "0.50.2") -> Examination:
    found = healthy(name, version)
    for change in changes:
        found = change(found)
    return found


def all_of(*changes: Change) -> Change:
    def change(found: Examination) -> Examination:
        for one in changes:
            found = one(found)
        return found

    return change


DOCKER = "linux-x86_64__error__nogpu__docker-without-gpus"
HUNG = "linux-x86_64__error__nogpu__hung"
CUDA_TORCH = torch(version="2.10.0", cuda="12.8", arch_list=("sm_90",))
CPU = "libbitsandbytes_cpu.so"
C128 = "libbitsandbytes_cuda128.so"
OLD_USER = package("bitsandbytes", "0.41.1", "user", path="/home/me/.local/site-packages/bitsandbytes-0.41.1.dist-info")
BEHIND = package("bitsandbytes", "0.50.2", effective=False)

# code -> (what triggers it, what nearly does), as changes of a healthy environment on a host.
CASES: dict[str, tuple[Examination, Examination]] = {
    "driver-reboot": (on("linux-x86_64__mismatch__nogpu"), on(H200)),
    "container-without-gpus": (
        on(DOCKER, condition("container-without-gpu")),
        # an ordinary container on a host without a driver
        on(NO_GPU, facts(platform={"container": "docker"}), condition("container-without-gpu")),
    ),
    "container-without-compute": (
        on(H200, condition("container-compute-not-asked")),
        on(NO_GPU, condition("container-compute-not-asked")),
    ),
    "module-not-loaded": (
        on("linux-x86_64__error__nogpu__v100-dropped-by-590", condition("module-not-loaded", "secure-boot")),
        on(H200, condition("secure-boot")),
    ),
    "driver-absent": (on("linux-x86_64__absent__nogpu__gpu-without-driver"), on(NO_GPU)),
    "driver-error": (on(HUNG), on(NO_GPU)),
    "gpu-lost": (on("linux-x86_64__550.127.08__a100-sm80__gpu-lost"), on("linux-x86_64__550.90.07__8xa100-sm80")),
    "driver-dropped-gpu": (
        on("linux-x86_64__580.65.06__v100-sm70", facts(driver={"version": "590.48.01"})),
        on("linux-x86_64__580.65.06__v100-sm70"),
    ),
    "driver-before-gpu": (
        on("linux-x86_64__570.133.20__rtx5090-sm120", facts(driver={"version": "565.57.01"})),
        on("linux-x86_64__570.133.20__rtx5090-sm120"),
    ),
    "devices-closed": (on(H200, condition("devices-no-permission")), on(H200, condition("container"))),
    "uvm-missing": (
        on(H200, facts(platform={"container": "docker"}), condition("uvm-missing")),
        on(H200, condition("uvm-missing")),  # it is made when CUDA starts
    ),
    "fabric-manager-missing": (on(H200, condition("fabric-manager-not-running")), on(H200)),
    "cuda-compat-older": (on(H200, condition("cuda-compat-older")), on(H200, condition("cuda-compat"))),
    "wsl-linux-driver": (on(H200, condition("wsl", "wsl-linux-driver")), on(H200, condition("wsl"))),
    "wsl-not-searched": (on(H200, condition("wsl-not-searched")), on(NO_GPU, condition("wsl-not-searched"))),
    "gpus-hidden": (
        on(H200, setting("-1", name="CUDA_VISIBLE_DEVICES")),
        on(H200, setting("0", name="CUDA_VISIBLE_DEVICES")),
    ),
    "driver-too-old": (
        on(H200, facts(driver={"version": "520.61.05"})),
        on(H200, facts(driver={"version": "525.60.13"})),
    ),
    "cuda-torch-without-gpu": (on(NO_GPU, CUDA_TORCH), on(NO_GPU)),
    "musl-libc": (on(NO_GPU, facts(platform={"libc": Libc("musl", "1.2.5")})), on(NO_GPU)),
    "jetson-wheel": (
        on("linux-aarch64__540.4.0__orin-sm87__jetson36.4", torch(cuda=None, version="2.10.0+cpu")),
        on("linux-aarch64__540.4.0__orin-sm87__jetson36.4", torch(arch_list=("sm_87",))),
    ),
    "python-abi": (
        on(H200, torch(fault="it is built for Python 3.10, and this is Python 3.11")),
        on(H200, torch(fault="its version.py is missing or cannot be read")),
    ),
    "python-compiler": (
        on(H200, torch(version="2.3.1+cu121"), target(version="3.12.4")),
        on(H200, torch(version="2.4.0+cu121"), target(version="3.12.4")),
    ),
    "torch-missing": (on(H200, changed(torch=None)), on(H200, changed(torch=None, bitsandbytes=None))),
    "torch-damaged": (
        on(H200, torch(fault="its version.py is missing or cannot be read")),
        on(H200, torch(fault="it is built for Python 3.10, and this is Python 3.11")),
    ),
    "torch-rocm": (on(H200, torch(cuda=None, hip="6.2")), on(NO_GPU, torch(cuda=None, hip="6.2"))),
    "cuda-torch-on-amd": (on(NO_GPU, CUDA_TORCH, condition("amd-gpu")), on(H200, condition("amd-gpu"))),
    "torch-cpu-build": (on(H200, torch(version="2.13.0+cpu", cuda=None)), on(NO_GPU)),
    "torch-requirement": (
        on(H200, torch(version="2.3.1+cu121", cuda="12.1")),
        on(H200, torch(version="2.5.0a0+872d972e41.nv24.8", cuda="12.6")),
    ),
    "torch-lacks-gpu": (
        on("linux-x86_64__570.133.20__rtx5090-sm120", torch(cuda="12.6", arch_list=("sm_80", "sm_90"))),
        on("linux-x86_64__570.133.20__rtx5090-sm120"),
    ),
    "pythonpath-shadows": (
        on(H200, beside(BEHIND), also(package("bitsandbytes", "0.41.1", "pythonpath", path="/old/b-0.41.1.dist-info"))),
        on(H200, beside(BEHIND), also(package("bitsandbytes", "0.50.2", "pythonpath", path="/old/b-0.50.2.dist-info"))),
    ),
    "user-site-shadows": (on(H200, beside(BEHIND), also(OLD_USER)), on(H200, beside(OLD_USER))),
    "python-gone": (on(H200, condition("python-gone")), on(H200, condition("python-changed"))),
    "python-changed": (
        on(H200, condition("python-changed"), changed(torch=None)),
        on(H200, condition("python-changed")),  # it was made anew in the same folder: its packages are found
    ),
    "pth-garbled": (on(H200, condition("pth-garbled")), on(H200, condition("user-site"))),
    "shadowed-here": (on(H200, condition("shadowed-here")), on(H200, condition("user-site"))),
    "changed-behind-lock": (on(H200, condition("changed-behind-lock")), on(H200, condition("shadowed-here"))),
    "several-bitsandbytes": (
        on(H200, also(package("bitsandbytes-cuda117", "0.26.0"))),
        on(H200, also(package("bitsandbytes-cuda117", "0.26.0", "user", path="/home/me/.local/b.dist-info"))),
    ),
    "leftovers": (
        on(H200, changed(leftovers=(Leftover("bitsandbytes", "two sets of metadata", ("a", "b"), "twice"),))),
        on(H200, changed(leftovers=(Leftover("bitsandbytes", "by hand", ("x.so",), "strange"),))),
    ),
    "package-incomplete": (
        on(H200, changed(leftovers=(Leftover("bitsandbytes", "gone", (f"{SITE}/bitsandbytes/{C128}",), "gone"),))),
        on(H200, changed(leftovers=(Leftover("bitsandbytes", "gone", ("libbitsandbytes_cuda118.so",), "gone"),))),
    ),
    "unused-library-missing": (
        on(H200, changed(leftovers=(Leftover("bitsandbytes", "gone", ("libbitsandbytes_cuda118.so",), "gone"),))),
        on(H200, changed(leftovers=(Leftover("bitsandbytes", "gone", (C128,), "gone"),))),
    ),
    "library-by-hand": (
        on(H200, changed(leftovers=(Leftover("bitsandbytes", "by hand", ("x.so",), "strange"),))),
        on(H200, changed(leftovers=(Leftover("bitsandbytes", "gone", (C128,), "gone"),))),
    ),
    "advisory": (
        on(NO_GPU, version="0.45.0"),  # nested 8-bit blocks on the CPU
        on(NO_GPU, version="0.46.0"),
    ),
    "advisory-note": (on(H200, version="0.48.0"), on(H200, version="0.48.1")),
    "override-empty": (on(H200, setting("", "/home/me/.bashrc")), on(H200, setting(""), version="0.49.2")),
    "override-malformed": (on(H200, setting("12.8")), on(H200, setting("128"))),
    "override-library-missing": (on(NO_GPU, setting("117", "/home/me/.bashrc")), on(NO_GPU, setting("118"))),
    "override-other-major": (on(H200, setting("118")), on(H200, setting("126"))),
    "override-needless": (on(H200, setting("126")), on(H200, setting("126", "/env/lib/bnbenv.pth"))),
    "no-native-library": (
        on(NO_GPU, wheel_is(libraries=(), fault="it holds no native library")),
        on(NO_GPU, wheel_is(libraries=(), fault="__init__.py cannot be read", own_version=None)),
    ),
    "bitsandbytes-damaged": (
        on(NO_GPU, wheel_is(libraries=(), fault="__init__.py cannot be read", own_version=None)),
        on(NO_GPU, wheel_is(libraries=(), fault="it holds no native library")),
    ),
    "windows-no-library": (
        on("windows-x86_64__581.57__rtx4090-sm89", changed(bitsandbytes=wheel("0.42.0"))),
        on("windows-x86_64__581.57__rtx4090-sm89", changed(bitsandbytes=wheel("0.43.0", "windows"))),
    ),
    "windows-msvc-runtime": (
        on(H200, changed(windows=Windows(runtimes={"vcruntime140_1.dll": None, "msvcp140.dll": "C:/W/msvcp140.dll"}))),
        on(H200, changed(windows=Windows(runtimes={"vcruntime140_1.dll": "C:/Windows/System32/vcruntime140_1.dll"}))),
    ),
    "library-for-cuda-missing": (
        on(H200, missing("libbitsandbytes_cuda124.so"), version="0.49.2"),
        on(H200, missing("libbitsandbytes_cuda124.so", override="124"), version="0.49.2"),
    ),
    "cuda-library-gone": (
        on(H200, missing(C128), changed(leftovers=(Leftover("bitsandbytes", "gone", (f"{SITE}/b/{C128}",), "gone"),))),
        on(H200, missing(C128), changed(leftovers=(Leftover("bitsandbytes", "gone", ("x_cuda118.so",), "gone"),))),
    ),
    "rocm-library-missing": (
        on(NO_GPU, torch(cuda=None, hip="6.2"), missing("libbitsandbytes_rocm62.so")),
        on(NO_GPU, torch(cuda=None, hip="6.2")),
    ),
    "cpu-library-missing": (on(NO_GPU, missing(CPU)), on(NO_GPU, missing("libbitsandbytes_cuda128.so"))),
    "native-library-damaged": (
        on(NO_GPU, library(CPU, fault="it is cut off")),
        on(NO_GPU, library(C128, fault="it is cut off")),
    ),
    "library-lacks-gpu": (
        on("linux-x86_64__580.65.06__v100-sm70", version="0.46.1"),
        on("linux-x86_64__580.65.06__v100-sm70", version="0.47.0"),
    ),
    "shared-library-missing": (
        on(H200, linked(soname="libcusparse.so.12", because="no folder has it")),
        on(H200, linked(soname="libcuda.so.1", because="no folder has it")),  # it is the driver's
    ),
    "mixed-runtimes": (
        on(H200, linked(soname="libnvJitLink.so.12", path="/usr/x.so", lacks=("__nvJitLinkComplete_12_4",))),
        on(H200, linked(answer="yes", path="/usr/x.so", via="LD_LIBRARY_PATH")),
    ),
    "glibc-too-old": (
        on(NO_GPU, library(CPU, glibc="2.38")),
        on(NO_GPU, library(CPU, glibc="2.36")),
    ),
    "glibcxx-too-old": (
        on(NO_GPU, changed(cxx=Cxx(path="/conda/libstdc++.so.6", glibcxx="3.4.19")), library(CPU, glibcxx="3.4.21")),
        on(NO_GPU, changed(cxx=Cxx(path="/conda/libstdc++.so.6", glibcxx="3.4.21")), library(CPU, glibcxx="3.4.21")),
    ),
    "bitsandbytes-missing": (
        on(H200, changed(bitsandbytes=None)),
        on(H200, changed(bitsandbytes=None, target=Target(kind="none"))),
    ),
    "triton-ops": (
        on(H200, beside(package("triton", "3.2.0")), version="0.44.1"),
        on(H200, beside(package("triton", "3.2.0")), version="0.45.1"),
    ),
    "triton-not-torchs": (
        on(H200, beside(package("triton", "3.4.0"))),
        on(H200, beside(package("triton", "3.6.0"))),
    ),
    "numpy-abi": (
        on(H200, torch(version="2.2.2+cu121"), beside(package("numpy", "2.0.0"))),
        on(H200, torch(version="2.3.0+cu121"), beside(package("numpy", "2.0.0"))),
    ),
    "transformers-needs-newer": (
        on(H200, beside(package("transformers", "5.0.0"), package("accelerate", "1.12.0")), version="0.45.5"),
        on(H200, beside(package("transformers", "5.0.0"), package("accelerate", "1.12.0")), version="0.46.1"),
    ),
    "accelerate-missing": (
        on(H200, beside(package("transformers", "5.0.0"))),
        on(H200, beside(package("transformers", "5.0.0"), package("accelerate", "1.12.0"))),
    ),
    "accelerate-too-old": (
        on(H200, beside(package("transformers", "5.0.0"), package("accelerate", "1.0.1"))),
        on(H200, beside(package("transformers", "4.57.1"), package("accelerate", "1.0.1"))),
    ),
    "transformers-disables-torch": (
        on(H200, torch(version="2.5.1+cu124"), beside(package("transformers", "5.23.0"))),
        on(H200, torch(version="2.6.0+cu124"), beside(package("transformers", "5.23.0"))),
    ),
    "peft-transformers": (
        on(H200, beside(package("transformers", "5.0.0"), package("peft", "0.17.1"))),
        on(H200, beside(package("transformers", "5.0.0"), package("peft", "0.18.0"))),
    ),
    "companion-requirement": (
        on(H200, beside(package("transformers", "4.57.1", requires_dist=("huggingface-hub<1.0,>=0.34.0",)),
                        package("huggingface-hub", "1.3.0"))),
        on(H200, beside(package("transformers", "4.57.1", requires_dist=('huggingface-hub<1.0; extra == "x"',)),
                        package("huggingface-hub", "1.3.0"))),
    ),
    "torch-companion": (
        on(H200, beside(package("torchvision", "0.24.0", requires_dist=("torch==2.9.0",)))),
        on(H200, beside(package("torchvision", "0.25.0", requires_dist=("torch==2.10.0",)))),
    ),
    "quant-pins-broken": (
        on(H200, beside(package("auto-gptq", "0.7.1"), package("transformers", "5.0.0"))),
        on(H200, beside(package("auto-gptq", "0.7.1"), package("transformers", "4.57.1"))),
    ),
    "quant-libraries-mixed": (
        on(H200, beside(package("autoawq", "0.2.9"))),
        on(H200, changed(bitsandbytes=None), beside(package("autoawq", "0.2.9"))),
    ),
}  # fmt: skip


def case_of(found: Examination, made_for: Literal["cuda", "cpu"] | None = None) -> Case:
    return Case(found, situation_of(found.facts, matrix()), matrix(), made_for)


def verdicts(found: Examination, made_for: Literal["cuda", "cpu"] | None = None) -> dict[str, str]:
    case = case_of(found, made_for)
    return {rule.code: rule.judge(case).answer for rule in RULES}


def said_yes(found: Examination, made_for: Literal["cuda", "cpu"] | None = None) -> set[str]:
    return {code for code, answer in verdicts(found, made_for).items() if answer == "yes"}


def test_every_rule_has_both_and_every_case_is_of_a_rule() -> None:
    assert {rule.code for rule in RULES} == set(CASES)
    assert len(RULES) == len({rule.code for rule in RULES})


@pytest.mark.parametrize("code", CASES)
def test_a_rule_says_yes_where_it_is_so_and_no_where_it_nearly_is(code: str) -> None:
    triggers, nearly = CASES[code]
    rule = next(rule for rule in RULES if rule.code == code)
    said = rule.judge(case_of(triggers))
    assert said.answer == "yes"
    assert said.evidence and all(said.evidence)
    assert rule.judge(case_of(nearly)).answer == "no"


def test_an_environment_of_another_family_lacks_no_bitsandbytes() -> None:
    found = on(H200, changed(bitsandbytes=None), beside(package("autoawq", "0.2.9")))
    left = tuple(one for one in found.packages if one.name != "bitsandbytes")
    found = msgspec.structs.replace(found, packages=left)
    assert case_of(found).families == ("awq",)
    assert said_yes(found) == set()
    # One that bnbenv made for bitsandbytes does, whatever somebody installed there in its place.
    rule = next(rule for rule in RULES if rule.code == "bitsandbytes-missing")
    assert rule.judge(replace(case_of(found), family="bitsandbytes")).answer == "yes"


def test_a_healthy_environment_has_nothing_to_be_told() -> None:
    for name in (H200, NO_GPU, "linux-x86_64__580.65.06__b200-sm100+b200-sm100"):
        assert set(verdicts(healthy(name)).values()) == {"no"}, name


def test_what_cannot_be_known_is_neither_yes_nor_no() -> None:
    for code, found in {
        "driver-too-old": on(H200, facts(driver={"version": None, "cuda": None})),
        "torch-lacks-gpu": on(H200, torch(arch_list=())),
        "library-lacks-gpu": on(H200, library(C128, sass=(), ptx=())),
        "glibc-too-old": on(NO_GPU, facts(platform={"libc": None})),
        "torch-requirement": on(H200, torch(version=None)),
        "python-abi": on(H200, target(version=None)),
        "shared-library-missing": on(H200, linked(answer="unknown", because="the process runs on musl")),
        "bitsandbytes-missing": on(H200, changed(bitsandbytes=None, unknown=(Unknown(f"search {SITE}", "denied"),))),
        "torch-missing": on(H200, changed(torch=None, unknown=(Unknown(f"search {SITE}", "denied"),))),
        "library-for-cuda-missing": on(H200, not_told("libbitsandbytes_cuda131.so")),
        "rocm-library-missing": on(NO_GPU, torch(cuda=None, hip="6.4"), not_told("libbitsandbytes_rocm64.so")),
    }.items():
        verdict = next(rule for rule in RULES if rule.code == code).judge(case_of(found))
        assert (verdict.answer, bool(verdict.because)) == ("unknown", True), code


def test_an_environment_made_for_the_cpu_may_be_on_any_machine() -> None:
    cpu = (torch(version="2.10.0+cpu", cuda=None), changed(loads=Loads(answer="yes", because="", library=CPU)))
    for name in (H200, HUNG, DOCKER, "linux-x86_64__absent__nogpu__gpu-without-driver"):
        assert said_yes(on(name, *cpu, condition("container-without-gpu", "uvm-missing")), "cpu") == set(), name


BROKEN_CPU_TORCH = torch(version=None, cuda=None, fault="version.py is gone")
BORDERS: dict[str, tuple[set[str], Examination]] = {
    "a CUDA of the driver's major is enough": (
        {"driver-too-old"},
        on(H200, facts(driver={"version": None, "cuda": "12.2"})),
    ),
    "a Jetson's driver has versions of its own": (
        {"driver-too-old"},
        on(H200, facts(driver={"version": "540.4.0"}, platform={"jetson": "36.4"}), torch(cuda="13.0")),
    ),
    "a torch that cannot be read is no CPU build": ({"torch-cpu-build"}, on(H200, BROKEN_CPU_TORCH)),
    "musl's versions are none of glibc": (
        {"glibc-too-old"},
        on(H200, facts(platform={"libc": Libc("musl", "1.2.5")}), library(C128, glibc="2.34")),
    ),
    "what is only noted refuses nothing": ({"advisory"}, on(H200, version="0.48.0")),
    "what this process has goes before what a shell's file says": (
        {"gpus-hidden"},
        on(
            H200,
            changed(
                settings=(
                    Setting(name="CUDA_VISIBLE_DEVICES", value="", file="/home/me/.bashrc", line=3),
                    Setting(name="CUDA_VISIBLE_DEVICES", value="0"),
                )
            ),
        ),
    ),
}


@pytest.mark.parametrize("name", BORDERS)
def test_what_lies_on_the_other_side_of_a_border(name: str) -> None:
    codes, found = BORDERS[name]
    assert not codes & said_yes(found)


@pytest.mark.parametrize(("folder", "answer"), [("python3.12", "yes"), ("python3.11", "no")])
def test_packages_of_another_python_on_pythonpath(folder: str, answer: str) -> None:
    """Of the same version as the environment's own, and compiled for another Python."""
    there = package("numpy", "2.4.6", "pythonpath", path=f"/other/lib/{folder}/site-packages/numpy-2.4.6.dist-info")
    found = on(NO_GPU, changed(target=msgspec.structs.replace(healthy().target, version="3.11.7")), also(there))
    assert verdicts(found)["pythonpath-shadows"] == answer


def test_on_windows_torch_was_built_for_the_older_numpy_for_longer() -> None:
    both = (torch(version="2.3.1+cu121"), beside(package("numpy", "2.0.0")))
    assert "numpy-abi" not in said_yes(on(H200, *both))
    assert "numpy-abi" in said_yes(on(H200, *both, facts(platform={"os": "windows", "libc": None})))


def test_a_container_in_which_gpus_were_wanted_lacks_them() -> None:
    """Nothing but the wish tells it from any other container: the host shows no driver."""
    found = on(NO_GPU, facts(platform={"container": "docker"}), condition("container-without-gpu"))
    assert "container-without-gpus" in said_yes(found, "cuda")


def test_an_environment_made_for_gpus_wants_one() -> None:
    assert "driver-absent" in said_yes(on(NO_GPU, CUDA_TORCH), "cuda")
    assert "torch-cpu-build" in said_yes(on(NO_GPU), "cuda")


def test_only_the_gpus_that_a_program_sees_count() -> None:
    """An A6000 beside a GT 1030, for which neither torch nor bitsandbytes has code."""
    mixed = "linux-x86_64__550.54.15__a6000-sm86+gt1030-sm61"
    assert {"torch-lacks-gpu", "library-lacks-gpu"} <= said_yes(on(mixed))
    assert said_yes(on(mixed, setting("0", name="CUDA_VISIBLE_DEVICES"))) == set()
    # what another shell would read says nothing of this environment; what its own .pth sets does
    assert "library-lacks-gpu" in said_yes(on(mixed, setting("0", "/home/me/.bashrc", "CUDA_VISIBLE_DEVICES")))
    assert said_yes(on(mixed, setting("0", "/env/lib/x.pth", "CUDA_VISIBLE_DEVICES"))) == set()


def test_what_a_damaged_torch_would_have_loaded_is_not_missing() -> None:
    lost = linked(soname="libcudart.so.12", because="no folder has it")
    damaged = torch(fault="libtorch_cuda.so is missing")
    copy = changed(runtimes=(Runtime("libcudart.so.12", "/nvidia/cuda_runtime/lib/libcudart.so.12", "package"),))
    assert said_yes(on(H200, lost, damaged)) == {"torch-damaged", "shared-library-missing"}
    assert said_yes(on(H200, lost, damaged, copy)) == {"torch-damaged"}


def test_a_library_that_links_needs_no_advisory_about_linking() -> None:
    """0.49.2 beside torch for CUDA 13: here the linker was asked, and finds it all."""
    found = on(H200, torch(cuda="13.0", version="2.11.0"), version="0.49.2")
    found = changed(loads=Loads(answer="yes", because="", library="libbitsandbytes_cuda130.so"))(found)
    assert "advisory" not in said_yes(found)
    assert "advisory" in said_yes(changed(linked=())(found))


def test_the_data_about_causes_holds_together() -> None:
    known = rule_codes()
    assert set(known) - {rule.code for rule in RULES} == {"verify-failed"}
    for code, one in known.items():
        assert one is about(code) and one.cause in CAUSES
        assert one.title[0].islower() or one.title.startswith(("CUDA", "BNB", "PYTHONPATH", "NVIDIA", "WSL"))
        assert not one.title.endswith(".") and one.explanation.endswith(".")
        assert one.reference.startswith("https://")
        for word in one.explains:
            assert word in known or word in CAUSES, (code, word)
    for one in known.values():
        assert len(one.title) <= 90


def test_unknown_gpus_under_a_working_driver_are_a_lost_gpu() -> None:
    found = on(H200, facts(unknown=(Unknown("gpus", "GPU 1: GPU is lost (NVML error 15)"),)))
    assert said_yes(found) == {"gpu-lost"}
