"""The script that derives the declared rows: it reads real formats, and leaves out what no source tells."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import msgspec
import pytest

from bnbenv.errors import Failed
from bnbenv.matrix.load import TORCH_DECLARED, TorchTable, find_data
from bnbenv.matrix.model import Evidence, TorchBuild

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "derive_torch_declared.py"

BUILD_MATRIX = """
PYTHON_ARCHES_DICT = {"release": ["3.10"]}
CUDA_ARCHES_DICT = {
    "nightly": ["12.6", "13.4"],
    "test": ["12.6", "13.2"],
    "release": ["12.6", "13.0"],
}
CUDA_AARCH64_ARCHES = ["13.0-aarch64", "13.4-aarch64"]
CURRENT_CANDIDATE_VERSION = "%s"
CURRENT_STABLE_VERSION = "%s"
CONTAINERS = {arch: f"cuda{arch}" for arch in CUDA_AARCH64_ARCHES}
"""

BUILD_CUDA = """
TORCH_CUDA_ARCH_LIST="5.0;7.0"
case ${CUDA_VERSION} in
    12.4)
        if [[ "$GPU_ARCH_TYPE" = "cuda-aarch64" ]]; then
            TORCH_CUDA_ARCH_LIST="9.0"
        else
            TORCH_CUDA_ARCH_LIST="${TORCH_CUDA_ARCH_LIST};9.0"
        fi
        ;;
    11.[67])
        TORCH_CUDA_ARCH_LIST="${TORCH_CUDA_ARCH_LIST};3.7"
        ;;
esac
if [[ -n "$OVERRIDE" ]]; then
    TORCH_CUDA_ARCH_LIST="${TORCH_CUDA_ARCH_LIST};0.0"
fi
"""


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("derive_torch_declared", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def repository(path: Path, commits: list[tuple[str, dict[str, str]]]) -> Path:
    """A git repository with one commit a step; each step is a branch to be on and the files of its commit."""
    git = shutil.which("git")
    if git is None:
        pytest.skip("git is not installed")

    def run(*args: str) -> None:
        subprocess.run((git, "-C", str(path), *args), check=True, capture_output=True)

    path.mkdir()
    run("init", "--initial-branch=main")
    for branch, files in commits:
        run("checkout", "-B", branch)
        for name, text in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_text(text)
        run("add", ".")
        run("-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "--message", "x")
    return path


def build(version: str, system: str = "linux", machine: str = "x86_64") -> TorchBuild:
    return TorchBuild(
        version=version,
        source="default-index",
        os=system,
        machine=machine,
        cuda=None,
        arch_list=(),
        pythons=("cp311",),
        libc_tag="2.17" if system == "linux" else None,
        requires_python=">=3.9",
        requires_dist=("triton==3.1.0",),
        evidence=Evidence("measured", "torch.whl sha256:0", "2026-01-01"),
        triton="3.1.0",
    )


def test_ptx_is_told_apart(script: ModuleType) -> None:
    assert script.arch_names("7.5;9.0;12.0+PTX") == ("sm_75", "sm_90", "sm_120", "compute_120")


def test_variants_are_those_of_the_channel(script: ModuleType) -> None:
    found = script.variants_of(BUILD_MATRIX % ("2.12.0", "2.11.0"), "release", "here")
    assert (found.x86_64, found.aarch64) == (("12.6", "13.0"), ("13.0",))


def test_a_file_that_is_no_python_has_no_variants(script: ModuleType) -> None:
    assert script.variants_of("if channel != 'release'\n", "release", "here") is None


def test_the_shell_script_for_linux(script: ModuleType) -> None:
    assert script.manywheel_archs(BUILD_CUDA) == {
        "12.4": "5.0;7.0;9.0",
        "11.6": "5.0;7.0;3.7",
        "11.7": "5.0;7.0;3.7",
    }


def test_the_batch_file_for_windows(script: ModuleType) -> None:
    assert script.batch_archs("IF x (\n    set TORCH_CUDA_ARCH_LIST=3.7+PTX;9.0\n)") == "3.7+PTX;9.0"
    assert script.batch_archs("set OTHER=1") is None


def test_the_table_in_the_wheel(script: ModuleType) -> None:
    text = 'X: dict[str, int] = f()\nPYTORCH_RELEASES_CODE_CC: dict = {"13.0": {"x86_64": {75, 80}}, "12.6": {50}}\n'
    assert script.code_table(text) == {"13.0": {"x86_64": {75, 80}}}
    assert script.code_table("nothing = 1") == {}


def test_a_release_has_the_variants_of_the_day_it_became_stable(script: ModuleType, tmp_path: Path) -> None:
    name = script.BUILD_MATRIX
    later = BUILD_MATRIX.replace('"13.0"],', '"13.0", "13.2"],')
    clone = repository(
        tmp_path / "infra",
        [
            ("main", {name: BUILD_MATRIX % ("2.11.0", "2.11.0")}),
            ("main", {name: later % ("2.12.0", "2.11.0")}),
            ("release/2.12", {name: later % ("2.12.0", "2.11.0") + "\n"}),
        ],
    )
    infra = script.Clone(clone)
    released = script.released_variants(infra)
    assert {version: found.x86_64 for version, found in released.items()} == {"2.11.0": ("12.6", "13.0")}
    assert name in released["2.11.0"].source
    assert script.variants_for("2.11.0", released, infra) is released["2.11.0"]
    assert script.variants_for("2.11.1", released, infra) is released["2.11.0"]
    assert script.variants_for("2.12.0", released, infra).x86_64 == ("12.6", "13.2")
    assert script.variants_for("2.13.0", released, infra) is None


def test_a_clone_of_something_else_is_said(script: ModuleType, tmp_path: Path) -> None:
    clone = repository(tmp_path / "other", [("main", {"README": "x"})])
    with pytest.raises(Failed, match="holds no history"):
        script.released_variants(script.Clone(clone))


def test_rows_of_a_release(script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (BUILD_MATRIX % ("2.5.1", "2.5.1")).replace('"12.6", "13.0"]', '"12.4", "12.6"]')
    infra = repository(tmp_path / "infra", [("main", {script.BUILD_MATRIX: text})])
    files = {"manywheel/build_cuda.sh": BUILD_CUDA, "windows/cuda124.bat": "set TORCH_CUDA_ARCH_LIST=6.1\n"}
    builder = repository(tmp_path / "builder", [("release/2.5", files)])
    measured = [build("1.13.1"), build("2.5.1"), build("2.5.1", "windows"), build("2.5.1", machine="aarch64")]
    rows = list(script.derive(measured, script.Clone(infra), script.Clone(builder), (), "2026-11-21"))
    assert [(row.version, row.os, row.machine, row.index, row.arch_list, row.libc_tag, row.triton) for row in rows] == [
        ("2.5.1+cpu", "linux", "x86_64", "cpu", (), "2.17", None),
        ("2.5.1+cu124", "linux", "x86_64", "cu124", ("sm_50", "sm_70", "sm_90"), "2.17", "3.1.0"),
        ("2.5.1+cpu", "windows", "x86_64", "cpu", (), None, None),
        ("2.5.1+cu124", "windows", "x86_64", "cu124", ("sm_61",), None, "3.1.0"),
        ("2.5.1", "linux", "aarch64", "cpu", (), "2.17", None),
    ]
    assert all(row.pythons == ("cp311",) and row.requires_dist == () for row in rows)
    assert "2.5.1 linux x86_64 12.6: no source tells" in capsys.readouterr().err


def test_the_shipped_file_is_what_the_script_writes(script: ModuleType, tmp_path: Path) -> None:
    shipped = (find_data() / TORCH_DECLARED).read_bytes()
    rows = msgspec.json.decode(shipped, type=TorchTable).rows
    assert script.write(reversed(rows), tmp_path / "again.json") == len(rows)
    assert (tmp_path / "again.json").read_bytes() == shipped
