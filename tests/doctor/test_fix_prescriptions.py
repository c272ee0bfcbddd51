"""What is said to do: for every cause, from a text alone and for a machine, and only what was checked is automatic."""

from __future__ import annotations

import ast
import io
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bnbenv.doctor.causes import FILE, SIGNATURES, about
from bnbenv.doctor.fixes import Chosen, prescribe, treat
from bnbenv.doctor.fixes.decide import decide
from bnbenv.doctor.fixes.libraries import package_for, requirement_for
from bnbenv.doctor.fixes.model import Compile
from bnbenv.doctor.fixes.settings_files import restored, without
from bnbenv.doctor.model import (
    CAUSES,
    Bitsandbytes,
    Examination,
    Leftover,
    Linked,
    Package,
    Said,
    SearchPath,
    Setting,
    Target,
    Torch,
)
from bnbenv.doctor.text import diagnose
from bnbenv.facts.model import Driver, Gpu, HostFacts, Libc, Platform
from bnbenv.matrix.load import load_matrix

GIB = 1 << 30
SITE = "/env/lib/python3.12/site-packages"


def a_gpu(capability: str, memory: int, name: str = "a GPU") -> Gpu:
    return Gpu(0, "GPU-0", name, capability, memory)


def environment(
    torch: str = "2.9.1", cuda: str | None = "12.8", bitsandbytes: str | None = "0.50.2", **more: Any
) -> Examination:
    """A venv on Linux with one H200 and driver 580."""
    archs = ("sm_70", "sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120")
    packages = [Package(name="torch", version=torch, path=f"{SITE}/torch-{torch}.dist-info", where="environment")]
    found = None
    if bitsandbytes is not None:
        path = f"{SITE}/bitsandbytes-{bitsandbytes}.dist-info"
        packages.append(Package(name="bitsandbytes", version=bitsandbytes, path=path, where="environment"))
        found = Bitsandbytes(path=f"{SITE}/bitsandbytes", version=bitsandbytes)
    values: dict[str, Any] = {
        "facts": HostFacts(
            platform=Platform(os="linux", machine="x86_64", libc=Libc("glibc", "2.36")),
            driver=Driver(state="ok", version="580.65.06"),
            gpus=(a_gpu("9.0", 150754820096, "NVIDIA H200"),),
        ),
        "target": Target(
            kind="venv",
            python="/env/bin/python",
            version="3.12.4",
            prefix="/env",
            writable=True,
            search=(SearchPath(SITE, "environment"),),
        ),
        "packages": tuple(packages),
        "torch": Torch(path=f"{SITE}/torch", version=torch, cuda=cuda, arch_list=archs),
        "bitsandbytes": found,
        **more,
    }
    return Examination(**values)


def with_gpu(examination: Examination, gpu: Gpu, **driver: str) -> Examination:
    facts = msgspec.structs.replace(examination.facts, gpus=(gpu,))
    if driver:
        facts = msgspec.structs.replace(facts, driver=Driver(state="ok", **driver))
    return msgspec.structs.replace(examination, facts=facts)


def codes() -> list[str]:
    tables = [file.read_text(encoding="utf-8") for file in (FILE, SIGNATURES) if file.exists()]
    return sorted({name for text in tables for name in re.findall(r"^\[([a-z0-9-]+)\]", text, re.MULTILINE)})


@pytest.mark.parametrize("cause", CAUSES)
def test_a_text_alone_gets_a_fix_that_says_what_to_do(cause: Any) -> None:
    for said in (None, Said(os="windows"), Said(torch="2.9.1", torch_cuda="12.8", bitsandbytes="0.46.0")):
        fix = prescribe("from-a-text", cause, None, said, None)
        assert fix.summary.endswith((".", ")")) or ":" in fix.summary
        assert len(fix.summary) < 140
        assert fix.command or fix.steps
        assert not fix.automatic  # there is no environment to change


@pytest.mark.parametrize("code", codes())
def test_every_code_has_a_fix_with_and_without_an_environment(code: str) -> None:
    cause = about(code).cause
    for examination in (None, environment(), environment(bitsandbytes=None, torch="2.9.1+cpu", cuda=None)):
        fix = prescribe(code, cause, examination, None, None)
        assert fix.summary
        assert fix.command or fix.steps
        assert not fix.automatic, "nobody checked it"
        for line in (fix.command or "", *fix.steps):
            assert "None" not in line, line
            assert "-U " not in line, "what is newest need not fit"


def test_what_an_environment_of_bnbenvs_own_lacks_of_another_family_is_not_taken_out_of_it() -> None:
    target = Target(kind="bnbenv", env="bnb", python="/env/bin/python", version="3.12.4", prefix="/env", writable=True)
    fix = prescribe("quant-library-mix", "quant_lib_conflict", environment(target=target), None, None)
    assert "bnbenv run --env NAME" in fix.summary and "bnbenv add gptq" in fix.steps[0]


def test_what_was_checked_is_automatic_and_what_failed_is_said_with_the_reason() -> None:
    examination = environment(bitsandbytes="0.46.0")
    chosen = decide(examination, None, load_matrix())
    action = treat("library-for-cuda-missing", "lib_cuda_version_missing", examination, None, chosen).actions[0]
    fixes = {
        against: prescribe(
            "library-for-cuda-missing",
            "lib_cuda_version_missing",
            examination,
            None,
            msgspec.structs.replace(chosen, checked={action.key: against}),
        )
        for against in ("", "the index does not answer")
    }
    assert fixes[""].automatic
    assert not fixes["the index does not answer"].automatic
    assert any("the index does not answer" in step for step in fixes["the index does not answer"].steps)
    assert fixes[""].command and fixes["the index does not answer"].command is None, "it would fail when typed"


def test_of_two_sets_of_metadata_the_one_that_the_files_agree_with_is_installed() -> None:
    """An upgrade that was cut short: torch's own files are those of the new one already."""
    paths = (f"{SITE}/torch-2.9.0.dist-info", f"{SITE}/torch-2.9.1+cu126.dist-info")
    old = Package(name="torch", version="2.9.0", path=paths[0], where="environment")
    found = environment(torch="2.9.1+cu126", cuda="12.6")
    others = tuple(one for one in found.packages if one.name != "torch")
    twice = Leftover("torch", "2 sets of metadata lie side by side", paths, "twice")
    found = msgspec.structs.replace(found, packages=(old, *others), leftovers=(twice,))
    fix = prescribe("leftovers", "other", found, None, decide(found, None, load_matrix()))
    assert fix.command is not None and "--torch-backend cu126" in fix.command and "torch===2.9.1+cu126" in fix.command


def test_bitsandbytes_is_chosen_for_the_torch_that_is_there_and_pinned_to_it() -> None:
    old = environment(torch="2.3.1", cuda="12.1", bitsandbytes="0.50.2")
    chosen = decide(old, None, load_matrix())
    fix = treat("torch-requirement", "other", old, None, chosen)
    assert chosen.kept is not None and not chosen.stays
    version = chosen.kept.bitsandbytes.version
    assert version.startswith("0.49"), "0.50 needs torch 2.4"
    assert fix.fix.command == f"uv pip install --python /env/bin/python bitsandbytes=={version}"
    assert fix.actions[0].requirements == ("torch===2.3.1", f"bitsandbytes=={version}")  # type: ignore[union-attr]
    assert fix.actions[0].hashes["bitsandbytes"] == chosen.kept.bitsandbytes.sha256  # type: ignore[union-attr]


def test_a_damaged_library_is_installed_again_in_the_same_version() -> None:
    examination = environment()
    chosen = decide(examination, None, load_matrix())
    fix = prescribe("native-library-damaged", "cpu_only_bnb", examination, None, chosen)
    assert "--reinstall-package bitsandbytes --no-deps bitsandbytes==0.50.2" in (fix.command or "")
    (action,) = treat("native-library-damaged", "cpu_only_bnb", examination, None, chosen).actions
    assert getattr(action, "no_deps", None), "torch stays as it is"


def test_an_old_driver_gets_a_pair_that_it_runs_and_the_driver_that_would_do() -> None:
    examination = with_gpu(environment(torch="2.14.0", cuda="13.0"), a_gpu("8.0", 80 * GIB), version="535.183.01")
    chosen = decide(examination, None, load_matrix())
    fix = prescribe("driver-too-old", "driver_too_old", examination, None, chosen)
    assert chosen.pair is not None and (chosen.pair.torch.cuda or "").startswith("12.")
    assert f"torch=={chosen.pair.torch.version.partition('+')[0]}" in (fix.command or "")
    assert any("580" in step for step in fix.steps)


def without_a_wheel() -> Examination:
    """A torch beside which no published wheel runs: the C library is too old for all of them."""
    old = environment(torch="2.9.1", cuda="12.8")
    platform = Platform(os="linux", machine="aarch64", libc=Libc("glibc", "2.23"))
    return msgspec.structs.replace(old, facts=msgspec.structs.replace(old.facts, platform=platform))


def test_where_no_wheel_fits_bitsandbytes_is_compiled_for_just_this_card() -> None:
    old = without_a_wheel()
    chosen = decide(old, None, load_matrix())
    assert chosen.kept is None and chosen.pair is None and chosen.build is not None
    release = chosen.build.bitsandbytes.version
    line = f"bnbenv build --ref {release} --cuda 12.8 --arch sm_90"
    treatment = treat("glibc-too-old", "glibc_too_old", old, None, chosen)
    assert treatment.fix.command == line
    assert any(step.endswith("uv pip install --python /env/bin/python --no-deps WHEEL") for step in treatment.fix.steps)
    (action,) = treatment.actions
    assert isinstance(action, Compile) and action.line == line
    assert not treatment.fix.automatic, "nobody asked whether a toolkit is within reach"
    within = msgspec.structs.replace(chosen, checked={action.key: ""})
    assert treat("glibc-too-old", "glibc_too_old", old, None, within).fix.automatic
    without = msgspec.structs.replace(chosen, checked={action.key: "there is no CUDA toolkit 12.8"})
    refused = treat("glibc-too-old", "glibc_too_old", old, None, without).fix
    assert refused.steps[0] == "Not done by bnbenv here, since there is no CUDA toolkit 12.8"
    assert refused.command == line, "it says what to install"


def test_cards_of_one_kind_are_compiled_for_once_and_the_lowest_first() -> None:
    old = without_a_wheel()
    gpus = tuple(Gpu(n, f"GPU-{n}", "a GPU", capability, 0) for n, capability in enumerate(("9.0", "8.0", "9.0")))
    several = msgspec.structs.replace(old, facts=msgspec.structs.replace(old.facts, gpus=gpus))
    assert decide(several, None, load_matrix()).build_archs == ("sm_80", "sm_90")


def test_what_bnbenv_compiled_is_as_good_as_a_published_wheel_and_is_made_again_when_damaged() -> None:
    built = environment(torch="2.9.1", cuda="12.8", bitsandbytes="0.50.2+bnbenv.cu128.sm80.sm90")
    chosen = decide(built, None, load_matrix())
    assert chosen.stays
    treatment = treat("native-library-damaged", "cpu_only_bnb", built, None, chosen)
    assert treatment.fix.command == "bnbenv build --ref 0.50.2 --cuda 12.8 --arch sm_80 --arch sm_90"
    for version, torch, cuda in (
        ("0.50.2+bnbenv.cu128.sm80", "2.9.1", "12.8"),  # no code for this card
        ("0.50.2+bnbenv.cu130.sm90", "2.9.1", "12.8"),  # for another CUDA
        ("0.50.2+bnbenv.cu128.sm90", "2.3.1", "12.8"),  # needs a newer torch
    ):
        other = environment(torch=torch, cuda=cuda, bitsandbytes=version)
        assert not decide(other, None, load_matrix()).stays, version


@pytest.mark.parametrize(
    ("printed", "known", "command"),
    [
        ("nvcc-host-compiler", "This CUDA takes GNU compilers up to version 15: install an older one", "bnbenv build"),
        ("nvcc-without-cublas", "The CUDA toolkit is not whole", "bnbenv build"),
        ("nvcc-no-memory", "The compiler ran out of memory", "bnbenv build"),
        ("nvcc-architecture", "This CUDA does not compile for that architecture", "bnbenv build"),
        ("cmake-without-cuda", "", "bnbenv build"),
        ("ninja-kernel-error", "", "bnbenv solve"),
    ],
)
def test_a_build_that_failed_is_told_by_its_first_error_and_what_compiles_without_a_toolkit(
    printed: str, known: str, command: str
) -> None:
    text = (Path(__file__).parent / "printed" / f"{printed}.txt").read_bytes()
    found = diagnose(io.BytesIO(text))
    fix = prescribe(found.seen[0].code, found.seen[0].cause, None, found.said, None)
    assert (found.said.compiling or "").startswith(known)
    assert any(step.startswith(known) for step in fix.steps)
    assert not any("it is then taken" in step for step in fix.steps), "that is what bnbenv build does"
    assert fix.command == command
    assert any("bnbenv build" in step for step in fix.steps)


def test_memory_limits_are_of_this_machine_and_the_code_can_be_pasted() -> None:
    for capability, total, dtype in (("9.0", 150754820096, "bfloat16"), ("7.5", 15828320256, "float16")):
        examination = with_gpu(environment(), a_gpu(capability, total))
        for cause in ("out_of_memory", "oom_in_conversion"):
            fix = prescribe("cuda-out-of-memory", cause, examination, None, None)  # type: ignore[arg-type]
            begin = fix.steps.index("import torch")
            code = "\n".join(fix.steps[begin : fix.steps.index(")", begin) + 1])
            tree = ast.parse(code)
            limit = next(
                ast.literal_eval(word.value)
                for node in ast.walk(tree)
                if isinstance(node, ast.Call)
                for word in node.keywords
                if word.arg == "max_memory"
            )[0]
            assert 0.5 * total < int(limit.removesuffix("GiB")) * GIB < 0.9 * total
            assert f"bnb_4bit_compute_dtype=torch.{dtype}" in code


def test_memory_limits_come_from_the_text_where_there_is_no_gpu() -> None:
    said = Said(memory_total=int(22.06 * GIB), memory_wanted=238 << 20)
    fix = prescribe("cuda-out-of-memory", "out_of_memory", None, said, None)
    assert any('max_memory={0: "18GiB"}' in step for step in fix.steps)
    assert any("0.23 GiB" in step and "22.1 GiB" in step for step in fix.steps)
    # Neither does the text say which GPU it is: the pasted code finds out which float type it computes in.
    assert any("get_device_capability() >= (8, 0)" in step for step in fix.steps)
    assert not any("max_memory" in step for step in prescribe("x", "out_of_memory", None, None, None).steps)


def test_libraries_and_their_packages() -> None:
    assert package_for("libcusparse.so.12", "12.8") == "nvidia-cusparse-cu12"
    assert package_for("libcusparse.so.12", "13.0") == "nvidia-cusparse"  # CUDA 13 has a libcusparse.so.12
    assert package_for("libcusparse.so.12", None) is None
    assert package_for("libcudart.so.11.0", None) == "nvidia-cuda-runtime-cu11"
    assert package_for("libcuda.so.1", "12.8") is None  # that is the driver's
    requires = ("nvidia-cublas-cu12==12.8.4.1; platform_system == 'Linux'",)
    assert requirement_for("nvidia-cublas-cu12", "12.8", requires) == "nvidia-cublas-cu12==12.8.4.1"
    assert requirement_for("nvidia-cublas", "13.0", ()) == "cuda-toolkit[cublas]==13.0.*"


def test_a_missing_cuda_library_is_added_as_the_package_that_torch_asks_for() -> None:
    missing = (
        Linked(soname="libcublas.so.12", needed_by="libbitsandbytes_cuda128.so", answer="no"),
        Linked(soname="libcublasLt.so.12", needed_by="libbitsandbytes_cuda128.so", answer="no"),
    )
    examination = environment(linked=missing)
    torch = msgspec.structs.replace(examination.packages[0], requires_dist=("nvidia-cublas-cu12==12.8.4.1",))
    examination = msgspec.structs.replace(examination, packages=(torch, *examination.packages[1:]))
    found = treat("shared-library-missing", "cuda_runtime_lib_missing", examination, None, None)
    assert found.actions[0].requirements == (  # type: ignore[union-attr]
        "torch===2.9.1",
        "bitsandbytes===0.50.2",
        "nvidia-cublas-cu12==12.8.4.1",
    )


def test_an_override_is_taken_out_where_it_lives_and_a_process_cannot_be_changed() -> None:
    in_file = Setting(name="BNB_CUDA_VERSION", value="118", file="/home/me/.bashrc", line=7)
    process = Setting(name="BNB_CUDA_VERSION", value="118")
    both = treat(
        "override-library-missing", "bnb_override_env_stale", environment(settings=(process, in_file)), None, None
    )
    assert [action.key for action in both.actions] == ["drop BNB_CUDA_VERSION /home/me/.bashrc:7"]
    assert any("unset BNB_CUDA_VERSION" in step for step in both.fix.steps)
    only = treat("override-library-missing", "bnb_override_env_stale", environment(settings=(process,)), None, None)
    assert only.actions == () and only.fix.command == "unset BNB_CUDA_VERSION"


@pytest.mark.parametrize(
    "line",
    [
        "export BNB_CUDA_VERSION=118",
        "  export BNB_CUDA_VERSION='118'  # for the old card",
        "BNB_CUDA_VERSION=",
        "set -gx BNB_CUDA_VERSION 118",
        "setenv BNB_CUDA_VERSION 118;",
    ],
)
def test_a_line_of_a_shell_is_taken_out_and_comes_back_even_if_the_file_was_edited(line: str) -> None:
    before = f"first \udce9\nif true; then\n{line}\r\nfi\n".encode("utf-8", "surrogateescape")
    after = without("/home/me/.bashrc", before, "BNB_CUDA_VERSION", 3, "2026-11-21")
    assert isinstance(after, bytes)
    changed = after.split(b"\n")[2]
    assert changed.lstrip().startswith(b":  # bnbenv 2026-11-21: ") and changed.endswith(b"\r")
    assert after.replace(changed, line.encode() + b"\r") == before
    assert restored("/home/me/.bashrc", after + b"alias x=y\n", before) == before + b"alias x=y\n"


@pytest.mark.parametrize(
    "line",
    [
        "export BNB_CUDA_VERSION=118; cd /data",
        "export BNB_CUDA_VERSION=$(nvcc-version)",
        "[ -d /x ] && export BNB_CUDA_VERSION=118",
        "export BNB_CUDA_VERSION=118 OTHER=1",
        "export BNB_CUDA_VERSION=118 \\",
        "export OTHER=1",
    ],
)
def test_a_line_that_does_more_is_left_to_people(line: str) -> None:
    said = without("/home/me/.bashrc", f"{line}\n".encode(), "BNB_CUDA_VERSION", 1, "2026-11-21")
    assert isinstance(said, str) and "/home/me/.bashrc" in said
    after = b"train --with \\\nBNB_CUDA_VERSION=118\n"  # it is a word of the command before it
    assert isinstance(without("/home/me/.bashrc", after, "BNB_CUDA_VERSION", 2, "2026-11-21"), str)


def test_condas_variables_keep_their_neighbours() -> None:
    path, before = "/c/envs/x/conda-meta/state", b'{"version": 1, "env_vars": {"A": "1", "BNB_CUDA_VERSION": "118"}}'
    after = without(path, before, "BNB_CUDA_VERSION", None, "2026-11-21")
    assert after == b'{"version": 1, "env_vars": {"A": "1"}}'
    later = b'{"version": 1, "env_vars": {"A": "2", "B": "3"}}'
    back = restored(path, later, before)
    assert back == b'{"version": 1, "env_vars": {"A": "2", "B": "3", "BNB_CUDA_VERSION": "118"}}'
    assert isinstance(without(path, b"no JSON", "BNB_CUDA_VERSION", None, "2026-11-21"), str)


def test_what_a_text_says_of_its_torch_names_the_bitsandbytes_for_it() -> None:
    matrix = load_matrix()
    old = decide(None, Said(torch="2.1.0", torch_cuda="12.1", capability="7.5"), matrix).suits
    new = decide(None, Said(torch="2.9.1+cu128", torch_cuda="12.8"), matrix).suits
    assert old is not None and new is not None
    assert tuple(map(int, old.split("."))) < (0, 46, 0) < tuple(map(int, new.split(".")))
    fix = prescribe("library-cuda-missing", "lib_cuda_version_missing", None, Said(torch="2.1.0"), Chosen(suits=old))
    assert fix.command == f"python -m pip install bitsandbytes=={old}"


def test_where_no_gpu_is_no_other_package_is_advised() -> None:
    here = environment(torch="2.13.0+cpu", cuda=None)
    for facts, packages in (
        (msgspec.structs.replace(here.facts, gpus=(), driver=Driver(state="absent")), False),
        (msgspec.structs.replace(here.facts, gpus=(), driver=Driver(state="error")), True),
        (here.facts, True),
    ):
        examination = msgspec.structs.replace(here, facts=facts)
        fix = prescribe("torch-without-cuda", "cpu_only_torch", examination, None, None)
        assert ("Install" in fix.summary) == packages and ("no nvidia gpu" in fix.summary.lower()) != packages
