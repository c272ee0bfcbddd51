"""``bnbenv build`` for real: what it prints, and what the doctor does with it in an environment that no wheel fits."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.real

TREE = Path(__file__).parent / "tree"
RECORDED = Path(__file__).parent.parent / "hosts" / "linux-x86_64__580.65.06__h200-sm90" / "facts.json"
ELF = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x03\x00\x3e\x00" + bytes(44)  # for x86-64
SITE = f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, toolchains: Path) -> Path:
    """A user who has the compiler of CUDA 13.0, and a project whose source is the small tree, as release 0.50.2."""
    folder = tmp_path_factory.mktemp("command")
    (folder / "home" / "builds").mkdir(parents=True)
    (folder / "home" / "builds" / "toolchains").symlink_to(toolchains / "toolchains")
    project = folder / "project"
    shutil.copytree(TREE, project / "bnb")
    init = project / "bnb" / "bitsandbytes" / "__init__.py"
    init.write_text(init.read_text().replace("0.50.9", "0.50.2"))
    (project / "bnbenv.toml").write_text('[sources]\nbitsandbytes-source = "bnb"\n')
    return folder


@pytest.fixture(scope="module")
def bnbenv(place: Path, build_environ: dict[str, str]) -> Run:
    """``bnbenv("build", ...)`` in that project."""
    environ = {**build_environ, "BNBENV_HOME": str(place / "home"), "HOME": str(place)}
    environ["UV_CACHE_DIR"] = build_environ.get("UV_CACHE_DIR", str(Path.home() / ".cache" / "uv"))

    def run(*words: str, **changes: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "bnbenv", *words]
        project = place / "project"
        done = subprocess.run(
            command, cwd=project, env={**environ, **changes}, capture_output=True, text=True, timeout=300, check=False
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return run


@pytest.fixture(scope="module")
def made(bnbenv: Run) -> subprocess.CompletedProcess[str]:
    """The first build."""
    return bnbenv("build", "--arch", "9.0", "--cuda", "13.0")


def test_the_first_line_is_the_wheel_and_the_last_ones_how_to_use_it(made: subprocess.CompletedProcess[str]) -> None:
    assert made.returncode == 0, made.stderr
    first, version, library, *more, use, project = made.stdout.splitlines()
    with zipfile.ZipFile(first) as wheel:
        assert "bitsandbytes/libbitsandbytes_cuda130.so" in wheel.namelist()
    assert version.startswith("  bitsandbytes 0.50.2+bnbenv.cu130.sm90, compiled in ")
    assert library == "  libbitsandbytes_cuda130.so: native code for sm_90, PTX for sm_90"
    assert "  every torch of CUDA 13 loads it" in more
    assert use == f"use it: uv pip install --no-deps {first}"
    assert project == "use it in a project: bnbenv sync --build"


def test_the_second_time_it_is_there_already_and_the_document_is_that_of_the_contract(
    made: subprocess.CompletedProcess[str], bnbenv: Run
) -> None:
    from jsonschema import Draft202012Validator
    from referencing import Registry, Resource

    schemas = Path(__file__).parent.parent.parent / "bnbenv" / "schemas"
    known = {name: json.loads((schemas / f"{name}.json").read_text()) for name in ("build", "common")}
    registry = Registry().with_resources((one["$id"], Resource.from_contents(one)) for one in known.values())
    again = bnbenv("build", "--arch", "sm_90,90", "--cuda", "cu130", "--json", BNBENV_OFFLINE="1")
    assert again.returncode == 0, again.stderr
    document: dict[str, Any] = json.loads(again.stdout)
    assert list(Draft202012Validator(known["build"], registry=registry).iter_errors(document)) == []
    assert (document["cached"], document["sass"], document["ptx"]) == (True, ["sm_90"], ["compute_90"])
    assert document["wheel"] == made.stdout.splitlines()[0]
    assert "compiling" not in again.stderr


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the recorded machine is one for x86_64")
def test_a_driver_that_no_torch_of_that_cuda_runs_on_is_told(
    made: subprocess.CompletedProcess[str], bnbenv: Run
) -> None:
    older = RECORDED.parent.parent / "linux-x86_64__550.127.08__h100-sm90__apptainer" / "facts.json"
    for facts, warned in ((older, True), (RECORDED, False)):
        told = bnbenv("build", "--cuda", "13.0", "--facts", str(facts))
        assert told.stdout.splitlines()[0] == made.stdout.splitlines()[0], told.stderr
        assert ("warning: CUDA 13 needs driver 580" in told.stdout) == warned


def lay_torch(site: Path) -> None:
    """What is looked at of a torch, without torch."""
    libraries = (
        "libtorch_cpu.so",
        "libtorch_python.so",
        "libc10.so",
        "libtorch_cuda.so",
        "libc10_cuda.so",
        "libtorch.so",
    )
    files = {
        "torch/__init__.py": b"",
        f"torch/_C{sysconfig.get_config_var('EXT_SUFFIX')}": ELF,
        "torch/version.py": b"__version__ = '2.13.0'\ncuda = '13.0'\n",
        **{f"torch/lib/{name}": ELF + b"\0sm_75 sm_80 sm_86 sm_90 sm_100 sm_120\0" for name in libraries},
        "torch-2.13.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: torch\nVersion: 2.13.0\n",
    }
    record = "torch-2.13.0.dist-info/RECORD"
    files[record] = "".join(f"{name},,\n" for name in (*files, record)).encode()
    for name, data in files.items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_bytes(data)


def test_the_doctor_compiles_what_no_wheel_fits_and_puts_back_what_was_there(
    made: subprocess.CompletedProcess[str], bnbenv: Run, place: Path
) -> None:
    """The C library of this host is too old for every published wheel; its torch is of CUDA 13.0."""
    if platform.machine() != "x86_64":
        pytest.skip("the recorded host is an x86-64")
    facts = json.loads(RECORDED.read_text())
    facts["platform"]["libc"]["version"] = "2.17"
    (place / "facts.json").write_text(json.dumps(facts))
    environment = place / "venv"
    venv.create(environment, symlinks=True, with_pip=False)
    lay_torch(environment / SITE)
    recorded = {"BNBENV_FACTS": str(place / "facts.json"), "BNBENV_OFFLINE": "1"}

    found = bnbenv("doctor", str(environment), "--json", **recorded)
    assert found.returncode == 3, found.stderr
    fix = json.loads(found.stdout)["findings"][0]["fix"]
    assert fix["command"] == "bnbenv build --ref 0.50.2 --cuda 13.0 --arch sm_90"
    assert fix["automatic"], fix

    asked = bnbenv("doctor", str(environment), "--fix", "--json", **recorded)
    assert asked.returncode == 3
    (step,) = json.loads(asked.stdout)["mended"]["plan"]
    assert step["what"] == "compile bitsandbytes 0.50.2 for sm_90, and install it"
    assert not (environment / SITE / "bitsandbytes").exists()

    mended = bnbenv("doctor", str(environment), "--fix", "--yes", "--json", **recorded)
    assert mended.returncode == 0, mended.stderr
    document = json.loads(mended.stdout)["mended"]
    assert document["state"] == "done"
    assert (environment / SITE / "bitsandbytes" / "libbitsandbytes_cuda130.so").is_file()
    assert (environment / SITE / "bitsandbytes-0.50.2+bnbenv.cu130.sm90.dist-info").is_dir()
    healthy = bnbenv("doctor", str(environment), "--json", **recorded)
    codes = [one["code"] for one in json.loads(healthy.stdout)["findings"]]
    assert not {"bitsandbytes-missing", "library-lacks-gpu", "advisory", "glibc-too-old"} & set(codes), codes

    undone = bnbenv("doctor", "--undo", document["record"], **recorded)
    assert undone.returncode == 0, undone.stderr
    assert not (environment / SITE / "bitsandbytes").exists()
