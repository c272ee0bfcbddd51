"""Pythons (no shims, no duplicates, what is not on PATH too) and CUDA toolkits."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from bnbenv.facts.model import Python, Toolkit
from bnbenv.facts.pythons import find_pythons, parse_list, search_path
from bnbenv.facts.toolkits import find_toolkits
from bnbenv.paths import Sysroot
from bnbenv.process import SystemRunner

BASE = os.path.realpath(getattr(sys, "_base_executable", sys.executable))


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def row(**changes: str) -> dict[str, str]:
    usual = {"path": "/x/python3.12", "version": "3.12.1", "implementation": "cpython", "arch": "x86_64"}
    return usual | {"variant": "default"} | changes


def test_a_version_that_is_not_on_path_is_found_and_its_shims_are_not(tmp_path: Path) -> None:
    root = tmp_path / "pyenv"
    # a version folder as pyenv has them: here one whose interpreter is a link to the running one
    (root / "versions" / "3.99.0" / "bin").mkdir(parents=True)
    (root / "versions" / "3.99.0" / "bin" / "python").symlink_to(BASE)
    broken = program(
        root / "shims" / "python3.99", "#!/bin/sh\necho 'pyenv: python3.99: command not found' >&2\nexit 127\n"
    )
    program(root / "versions" / "broken" / "bin" / "python", "#!/bin/sh\nexit 1\n")
    environ = {"PYENV_ROOT": str(root), "PATH": f"{broken.parent}:{os.defpath}", "HOME": str(tmp_path)}
    found, _ = find_pythons(environ, SystemRunner(), None, "linux")
    paths = [python.path for python in found]
    assert paths.count(BASE) == 1, paths
    assert not any("shims" in path or "broken" in path for path in paths)


def test_shims_are_left_out_and_versions_of_all_managers_are_searched(tmp_path: Path) -> None:
    for place in (".pyenv/versions/3.12.1", ".asdf/installs/python/3.11.9", "miniforge3"):
        program(tmp_path / place / "bin" / "python", "")
    program(tmp_path / ".pyenv/pyenv-win/versions/3.13.0/python.exe", "")
    found = search_path({"HOME": str(tmp_path), "PATH": f"{tmp_path}/.pyenv/shims:/usr/bin:/usr/bin"})
    assert found == [
        "/usr/bin",
        f"{tmp_path}/.pyenv/versions/3.12.1/bin",
        f"{tmp_path}/.asdf/installs/python/3.11.9/bin",
        f"{tmp_path}/.pyenv/pyenv-win/versions/3.13.0",
        f"{tmp_path}/miniforge3/bin",
    ]


def test_only_cpythons_of_64_bits_that_run_the_usual_wheels_count() -> None:
    rows = [
        row(),
        row(),
        row(path="/x/pypy", implementation="pypy"),
        row(path="/x/small", arch="x86"),
        row(path="/x/python3.13t", version="3.13.0", variant="freethreaded"),
    ]
    assert parse_list(json.dumps(rows)) == (Python("/x/python3.12", "3.12.1"),)
    assert parse_list(json.dumps(rows[4:])) == ()


def test_a_virtual_environment_is_no_python_of_the_host() -> None:
    environ = {"PATH": str(Path(sys.executable).parent), "VIRTUAL_ENV": sys.prefix, "HOME": "/nowhere"}
    found, _ = find_pythons(environ, SystemRunner(), Python(BASE, "3.10.0"), "linux")
    assert sys.prefix == sys.base_prefix or not any(python.path.startswith(sys.prefix) for python in found)
    assert BASE in [python.path for python in found]


NVCC = "#!/bin/sh\necho 'Cuda compilation tools, release 12.4, V12.4.131'\n"


def test_toolkits_are_found_once_each_with_their_compilers_version(tmp_path: Path) -> None:
    local = tmp_path / "usr" / "local"
    program(local / "cuda-12.4" / "bin" / "nvcc", NVCC)
    (local / "cuda").symlink_to("cuda-12.4")
    program(local / "cuda-13.0" / "bin" / "nvcc", "#!/bin/sh\nexit 1\n")
    (local / "cuda-13.0" / "version.json").write_text('{"cuda_nvcc": {"version": "13.0.88"}}')
    program(local / "cuda-12.0" / "version.json", "{}")  # a runtime without a compiler
    program(local / "cuda-old-docs" / "readme.txt", "")
    wrapper = program(tmp_path / "bin" / "nvcc", f'#!/bin/sh\nexec {local}/cuda-12.4/bin/nvcc "$@"\n')
    environ = {"CUDA_HOME": str(local / "cuda"), "PATH": str(wrapper.parent), "CONDA_PREFIX": str(tmp_path / "conda")}
    found, unknown = find_toolkits(environ, Sysroot(tmp_path), SystemRunner())
    assert found == (
        Toolkit(str(local / "cuda-12.4"), "12.4.131"),
        Toolkit(str(local / "cuda-12.0"), None),
        Toolkit(str(local / "cuda-13.0"), "13.0.88"),
    )
    assert [entry.fact for entry in unknown] == ["toolkits[1].nvcc"]


def test_no_toolkit_is_told_with_the_places_looked_at(tmp_path: Path) -> None:
    found, unknown = find_toolkits({}, Sysroot(tmp_path), SystemRunner())
    assert found == ()
    assert "CUDA_HOME" in unknown[0].reason


@pytest.mark.parametrize("script", ["#!/bin/sh\necho nonsense\n", "no program at all", ""])
def test_a_broken_nvcc_has_no_version_and_a_reason(tmp_path: Path, script: str) -> None:
    program(tmp_path / "usr/local/cuda/bin/nvcc", script)
    found, unknown = find_toolkits({}, Sysroot(tmp_path), SystemRunner())
    assert [toolkit.nvcc for toolkit in found] == [None]
    assert unknown[0].fact == "toolkits[0].nvcc" and unknown[0].reason
