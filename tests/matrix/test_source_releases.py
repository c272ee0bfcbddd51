"""What bitsandbytes' sources say of compiling them, read at the tags of a repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from bnbenv.matrix.load import SourceTable, load_matrix
from bnbenv.matrix.model import SourceTag

SCRIPT = Path(__file__).parents[2] / "scripts" / "derive_sources.py"
CMAKELISTS = """\
cmake_minimum_required(VERSION 3.22.1)
project(bitsandbytes LANGUAGES CXX)
set(COMPUTE_BACKEND "cpu" CACHE STRING "The compute backend to use")
if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS "11.8")
    message(FATAL_ERROR "CUDA Version < 11.8 is not supported")
elseif(CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL "14.0")
    message(FATAL_ERROR "CUDA Version > 13 is not supported")
endif()
set(COMPUTE_CAPABILITY "${POSSIBLE_CAPABILITIES}" CACHE STRING "Compute Capabilities Targeted")
"""
pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")


def row(version: str) -> SourceTag:
    (found,) = (one for one in load_matrix().source_releases if one.version == version)
    return found


@pytest.mark.parametrize(
    ("version", "cuda_min", "cuda_end", "sass_min"),
    [
        ("0.43.0", "11.0", "13.0", None),
        ("0.47.0", "11.4", "13.0", "sm_50"),
        ("0.48.2", "11.8", "14.0", "sm_50"),  # its wheels have sm_60 and newer, its kernels still compile for Maxwell
        ("0.50.1", "11.8", "14.0", "sm_60"),
    ],
)
def test_which_cuda_compiles_a_release(version: str, cuda_min: str, cuda_end: str, sass_min: str | None) -> None:
    found = row(version)
    assert (found.cuda_min, found.cuda_end, found.sass_min) == (cuda_min, cuda_end, sass_min)


@pytest.fixture
def clone(tmp_path: Path):
    """Makes a repository of one file a tag; each call of it adds a commit and its tag."""
    folder = tmp_path / "clone"
    folder.mkdir()
    who = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    who |= {f"GIT_{role}_{what}": "me@here" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}

    def git(*words: str) -> None:
        subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True, env={**os.environ, **who})

    git("init", "--quiet")

    def tagged(
        tag: str, cmakelists: str, pyproject: str = '[project]\nrequires-python = ">=3.10"\n', kernels: str = ""
    ) -> Path:
        if kernels:
            (folder / "csrc").mkdir(exist_ok=True)
            (folder / "csrc" / "common.cuh").write_text(kernels)
        (folder / "CMakeLists.txt").write_text(cmakelists)
        (folder / "pyproject.toml").write_text(pyproject)
        git("add", ".")
        git("commit", "--quiet", "--allow-empty", "--message", tag)
        git("tag", "--force", tag)
        return folder

    return tagged


def derive(clone: Path, out: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, SCRIPT, "--git", clone, "--out", out]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)


def test_the_tags_are_read_and_known_rows_kept(clone, tmp_path: Path) -> None:
    clone("0.42.0", "nothing that counts")  # before CMake
    clone("continuous-release_main", "nothing that counts")
    clone("0.50.0rc1", "nothing that counts")
    clone("0.49.0", CMAKELISTS.replace("14.0", "13.0"), "")
    folder = clone("0.50.0", CMAKELISTS, kernels="#define BNB_CC_PASCAL 600\n#define BNB_CC_AMPERE 800\n")
    done = derive(folder, tmp_path)
    assert done.stdout == (
        "added    0.50.0: CUDA 11.8 to before 14.0, sm_60\nadded    0.49.0: CUDA 11.8 to before 13.0, None\n"
    )
    rows = msgspec.json.decode((tmp_path / "source-releases.json").read_bytes(), type=SourceTable).rows
    assert [(one.tag, one.cmake, one.requires_python, one.sass_min) for one in rows] == [
        ("0.50.0", "3.22.1", ">=3.10", "sm_60"),
        ("0.49.0", "3.22.1", None, None),
    ]
    assert all(one.commit in one.evidence.source for one in rows)
    clone("0.49.0", CMAKELISTS.replace("3.22.1", "3.30"), "")
    again = derive(folder, tmp_path)
    assert (again.returncode, again.stdout) == (0, "changed  0.49.0: CUDA 11.8 to before 14.0, sm_60\n"), again.stderr


def test_a_file_of_another_shape_is_no_row(clone, tmp_path: Path) -> None:
    folder = clone("0.51.0", CMAKELISTS.replace("FATAL_ERROR", "STATUS"))
    done = derive(folder, tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "the CMakeLists.txt of 0.51.0 does not say which CUDA and CMake it takes" in done.stderr
