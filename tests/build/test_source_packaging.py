"""A tree of each age gives its own wheel without running CMake: with the libraries that lie in it, and no others."""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from bnbenv.build.packaging import prepare_for_packaging
from bnbenv.build.ports import Ports
from bnbenv.build.source import fetch, offered
from bnbenv.errors import SourceUnreachable

LIBRARY = "bitsandbytes/libbitsandbytes_cuda130.so"

# The lines of upstream's files that matter, 0.46.1 to 0.48.2 and since 0.49.0.
_PYPROJECT = """\
[build-system]
requires = ["scikit-build-core", "setuptools >= 77.0.3"]
build-backend = "scikit_build_core.setuptools.build_meta"
[project]
name = "bitsandbytes"
dynamic = ["version"]
[tool.setuptools]
package-data = { "*" = ["libbitsandbytes*.*"] }
[tool.setuptools.packages.find]
include = ["bitsandbytes*"]
[tool.setuptools.dynamic]
version = {attr = "bitsandbytes.__version__"}
"""
_SETUP = """\
import os
from distutils.errors import DistutilsModuleError
from setuptools import find_packages, setup
from setuptools.command.build_py import build_py
class ExtBuildPy(build_py):
    def run(self):
        if not SKIP:
            try:
                self.run_command("build_cmake")
            except DistutilsModuleError:
                print("scikit-build-core not installed")
        super().run()
SKIP = {skip}
cmake = {{}} if SKIP else {{"cmake_source_dir": "."}}
setup(packages=find_packages(), cmdclass={{"build_py": ExtBuildPy}}, **cmake)
"""


@pytest.fixture(scope="module")
def upstream() -> str:
    """A repository of bitsandbytes with its tags."""
    source = os.environ.get("BNBENV_TEST_BNB_SOURCE")
    if not source:
        pytest.skip("the upstream repository is missing: name a path or git URL in BNBENV_TEST_BNB_SOURCE")
    return source


def _contents(ports: Ports, folder: Path, out: Path) -> tuple[str, set[str]]:
    """The version and the native libraries of the wheel that a tree gives with a library in it."""
    (folder / LIBRARY).write_bytes(b"compiled")
    changes = prepare_for_packaging(folder)
    assert prepare_for_packaging(folder) == changes, "an interrupted build does it again"
    try:
        wheel = ports.packages.wheel(folder, out, changes)
    except SourceUnreachable as error:
        pytest.skip(f"no package index answers: {error.message}")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if "libbitsandbytes" in name}
    return wheel.name.split("-")[1], names


@pytest.mark.parametrize("skip", ["False", 'os.environ.get("BNB_SKIP_CMAKE", "") == "1"'], ids=["0.48", "0.49"])
def test_cmake_is_not_run_for_the_wheel(
    tmp_path: Path, source_tree: Callable[..., Path], bare_ports: Callable[..., Ports], skip: str
) -> None:
    files = {"pyproject.toml": _PYPROJECT, "setup.py": _SETUP.format(skip=skip)}
    folder, ports = source_tree(tmp_path / "tree", "0.48.7", **files), bare_ports()
    with (folder / "CMakeLists.txt").open("a") as file:
        file.write('message(FATAL_ERROR "CMake was run")\n')
    assert _contents(ports, folder, tmp_path / "out") == ("0.48.7", {LIBRARY})


@pytest.mark.parametrize("tag", ["0.45.0", "0.46.1", "0.48.2", "0.50.1"])
def test_upstream(tmp_path: Path, upstream: str, bare_ports: Callable[..., Ports], tag: str) -> None:
    ports = bare_ports()
    tree = fetch(upstream, tag, ports, "")
    assert (tree.version, tree.origin.ref, tree.origin.kind) == (tag, tag, "git")
    assert tree.origin.commit == offered(upstream if "://" in upstream else None, ports, upstream)[tag]
    assert (tree.cuda_min is not None, tree.cuda_end) == (True, "13.0" if tag < "0.48" else "14.0")
    assert _contents(ports, Path(tree.folder), tmp_path / "out") == (tag, {LIBRARY})
    shutil.rmtree(tree.folder)
    again = fetch(upstream, f"v{tag}", ports, "")
    assert again.origin == tree.origin, "packaging changed its own copy alone"
