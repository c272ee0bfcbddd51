"""Would a binary run on a host? Each answer, and that they are the solver's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from bnbenv.facts.model import Driver, HostFacts, Libc, Platform, Unknown, decode_facts
from bnbenv.matrix.found import FoundLibrary, FoundPackage
from bnbenv.matrix.model import Matrix
from bnbenv.solve import pairs
from bnbenv.solve.inspecting import Answer, judge_library, judge_package, loaded, situation_of
from bnbenv.solve.rules import driver_runs, torch_fails

HOSTS = sorted((Path(__file__).parents[1] / "hosts").glob("*/facts.json"))


def library(**more: Any) -> FoundLibrary:
    fields: dict[str, Any] = {"name": "k.so", "backend": "cuda", "os": "linux", "machine": "x86_64", "cuda": "12"}
    return FoundLibrary(**{**fields, **more})


def on_gpus(answers: tuple[Answer, ...]) -> list[tuple[str, str | None, str]]:
    return [(one.answer, one.code, one.because) for one in answers if one.about == "gpu"]


CASES: list[tuple[str, dict[str, Any], dict[str, Any], str, str | None, str]] = [
    # (capability, the host, the library, answer, code, words of the reason)
    ("8.6", {}, {"sass": ("sm_80",)}, "yes", "sass sm_80", "by native code"),
    ("9.0", {}, {"sass": ("sm_80", "sm_90a")}, "yes", "sass sm_90a", "by native code"),
    ("10.0", {}, {"sass": ("sm_90a",)}, "no", None, "no code for sm_100"),
    ("8.7", {}, {"sass": ("sm_80", "sm_86")}, "no", None, "no code for sm_87"),  # Orin: exactly its own
    ("12.0", {}, {"ptx": ("compute_90",), "ptx_cuda": "12.4"}, "yes", "ptx compute_90", "the driver compiles"),
    (
        "9.0",
        {"driver": "535.183.01"},
        {"ptx": ("compute_90",), "ptx_cuda": "12.4"},
        "no",
        None,
        "only PTX compute_90, which needs driver 550.54.14 or newer; this is 535.183.01",
    ),
    ("9.0", {}, {"ptx": ("compute_90",)}, "unknown", None, "nothing tells which driver compiles that"),
    ("8.0", {"driver": "470.256.02"}, {"sass": ("sm_80",)}, "no", None, "CUDA 12 needs driver 525.60.13"),
    ("8.0", {"driver": "535.183.01"}, {"sass": ("sm_80",), "cuda": "13"}, "no", None, "CUDA 13 needs driver 580"),
    ("8.0", {"driver": "535.183.01"}, {"sass": ("sm_80",), "cuda": None}, "unknown", None, "nothing tells its CUDA"),
    ("8.0", {}, {"sass": ("sm_80",), "cuda": None}, "yes", "sass sm_80", "by native code"),  # it runs all majors
    ("7.0", {"driver": "590.48.01"}, {"sass": ("sm_70",)}, "no", None, "580 is the last branch"),
    ("12.0", {"driver": "550.54.14"}, {"sass": ("sm_120",)}, "no", None, "does not support Blackwell"),
]


@pytest.mark.parametrize(("capability", "host", "holds", "answer", "code", "words"), CASES)
def test_a_library_on_a_gpu(
    capability: str,
    host: dict[str, Any],
    holds: dict[str, Any],
    answer: str,
    code: str | None,
    words: str,
    rows: Any,
    shipped: Matrix,
) -> None:
    situation = situation_of(rows.host(capability, **host), shipped)
    ((found, what, because),) = on_gpus(judge_library(library(**holds), situation))
    assert (found, what) == (answer, code)
    assert words in because


def test_what_the_host_is_without_a_working_gpu(rows: Any, shipped: Matrix) -> None:
    holds = library(sass=("sm_80",))
    host = rows.host("8.0")
    for driver, unknown, gpus, answer, words in [
        (Driver("absent"), (), (), "no", "no NVIDIA GPU and no NVIDIA driver"),
        (Driver("ok", "580.65.06"), (), (), "no", "no NVIDIA GPU is known here"),
        (Driver("ok", "580.65.06"), (Unknown("gpus", "NVML hangs"),), (), "unknown", "NVML hangs"),
        (Driver("error"), (), (), "unknown", "driver does not work"),
        (Driver("mismatch", None, "580.65.06", "590.48.01"), (), (), "unknown", "reboot is required"),
        (Driver("mismatch", None, "580.65.06", "590.48.01"), (), host.gpus, "unknown", "reboot is required"),
        (Driver("absent"), (), host.gpus, "no", "there is no NVIDIA driver"),
    ]:
        facts = msgspec.structs.replace(host, driver=driver, gpus=gpus, unknown=unknown)
        ((found, code, because),) = on_gpus(judge_library(holds, situation_of(facts, shipped)))
        assert (found, code) == (answer, None), driver
        assert words in because, driver


@pytest.mark.parametrize(
    ("libc", "answer", "words"),
    [
        (Libc("glibc", "2.36"), "yes", "glibc 2.36"),
        (Libc("glibc", "2.28"), "no", "needs GLIBC_2.34; this machine has glibc 2.28"),
        (Libc("musl", "1.2.5"), "no", "musl 1.2.5"),
        (None, "unknown", "is unknown"),
    ],
)
def test_the_c_library(libc: Libc | None, answer: str, words: str, shipped: Matrix) -> None:
    situation = situation_of(HostFacts(Platform("linux", "x86_64", libc), Driver("absent"), ()), shipped)
    found = judge_library(library(backend="cpu", cuda=None, glibc="2.34"), situation)
    assert [(one.about, one.answer) for one in found] == [("platform", "yes"), ("libc", answer)]
    assert words in found[1].because


def test_for_another_platform_nothing_more_is_asked(rows: Any, shipped: Matrix) -> None:
    situation = situation_of(rows.host("8.0"), shipped)
    (answer,) = judge_library(library(os="windows", sass=("sm_80",)), situation)
    assert (answer.about, answer.answer) == ("platform", "no")
    assert answer.because == "it is for Windows x86_64; this machine is Linux x86_64"
    package = FoundPackage(name="k", place="k.whl", os="linux", machine="aarch64", libc_tag="2.28")
    assert [one.about for one in judge_package(package, situation)] == ["platform"]
    rocm = judge_library(library(backend="rocm", cuda=None), situation)
    assert [(one.about, one.answer) for one in rocm] == [("platform", "yes"), ("gpu", "no")]


def test_the_answers_are_the_solvers_own_on_every_recorded_host(shipped: Matrix) -> None:
    """What runs of each library of a wheel, and what of each torch build, is what the solver's rules say."""
    asked = 0
    for host in HOSTS:
        facts = decode_facts(host.read_bytes(), str(host))
        if facts.driver.state != "ok" or not facts.gpus:
            continue
        situation, here = situation_of(facts, shipped), (facts.platform.os, facts.platform.machine)
        for wheel in shipped.bitsandbytes:
            if wheel.version not in ("0.50.2", "0.45.5") or (wheel.os, wheel.machine) != here:
                continue
            for one in wheel.libraries:
                codes, fails = pairs.judge_library(situation, wheel, one)
                cuda = pairs.library_cuda(one) if one.backend == "cuda" else None
                found = judge_library(
                    FoundLibrary(
                        name=one.name, backend=one.backend, os=wheel.os, machine=wheel.machine, cuda=cuda,
                        sass=one.sass, ptx=one.ptx, ptx_cuda=cuda, glibc=one.glibc,
                    ),
                    situation,
                )  # fmt: skip
                assert [a.answer for a in found if a.about == "libc"] in (
                    [],
                    ["no" if "library-libc" in fails else "yes"],
                )
                if cuda is None:
                    continue
                against: dict[str, Any] = dict(situation.fails)
                driver_runs(situation, cuda, against)
                for gpu, code, answer in zip(facts.gpus, codes, on_gpus(found), strict=True):
                    barred = "driver-cuda" in against or f"driver-arch[{gpu.index}]" in against
                    assert answer[1] == (None if barred else code), (host, one.name)
                    asked += 1
        for build in [
            row for row in shipped.torch if row.version == "2.9.1" and row.cuda and (row.os, row.machine) == here
        ]:
            package = FoundPackage(
                name="torch", place="x", os=build.os, machine=build.machine, cuda=build.cuda, arch_list=build.arch_list
            )
            fails = {**situation.fails, **torch_fails(situation, build)}
            for gpu, answer in zip(facts.gpus, on_gpus(judge_package(package, situation)), strict=True):
                rules = {
                    "driver-cuda",
                    *(f"{rule}[{gpu.index}]" for rule in ("torch-arch", "torch-ptx", "driver-arch")),
                }
                assert (answer[0] == "yes") == (not rules & set(fails)), (host, build.evidence.source)
                asked += 1
    assert asked > 500


def test_the_library_that_is_loaded_beside_a_torch(rows: Any, shipped: Matrix) -> None:
    def found(
        cuda: str | None, version: str = "0.50.2", *, wish: str | None = None, gpus: tuple[str, ...] = ("8.0",)
    ) -> Any:
        (row,) = (
            one
            for one in shipped.bitsandbytes
            if one.version == version and (one.os, one.machine) == ("linux", "x86_64")
        )
        libraries = tuple(library(name=one.name, backend=one.backend, sass=one.sass) for one in row.libraries)
        packages = (
            FoundPackage(
                name="torch", version="2.9.1", place="t", os="linux", machine="x86_64", cuda=cuda, arch_list=()
            ),
            FoundPackage(
                name="bitsandbytes", version=version, place="b", os="linux", machine="x86_64", libraries=libraries
            ),
        )
        facts = msgspec.structs.replace(rows.host(*gpus), environment={"BNB_CUDA_VERSION": wish})
        return loaded(packages, shipped, situation_of(facts, shipped))

    for given, name, answer, words in [
        (found("12.9"), "libbitsandbytes_cuda128.so", "yes", "beside torch 2.9.1 it loads"),  # the next lower
        (found("12.9", "0.47.0"), "libbitsandbytes_cuda129.so", "yes", "it loads"),
        (found("13.1", "0.49.2"), None, "no", "torch is for CUDA 13.1, its libraries for 11.8"),  # exactly that or none
        (found("12.9", wish="126"), "libbitsandbytes_cuda126.so", "yes", "it loads"),
        (found("12.9", wish="999"), None, "no", "BNB_CUDA_VERSION is 999"),
        (found(None), "libbitsandbytes_cpu.so", "yes", "it loads"),
        (found("12.9", gpus=()), "libbitsandbytes_cpu.so", "yes", "it loads"),
        (found("12.1", "0.43.0", gpus=("7.0",)), "libbitsandbytes_cuda121_nocublaslt.so", "yes", "it loads"),
        (found("11.7", "0.38.0"), None, "unknown", "a libcudart on the search paths"),
        (found(None, "0.45.4"), None, "no", "it ships none for the CPU"),
    ]:
        assert (given[0], given[1].about, given[1].answer) == (name, "loader", answer), given
        assert words in given[1].because
    assert loaded((), shipped, situation_of(rows.host("8.0"), shipped)) == (None, None)
