"""What tests share: a stand-in for NVIDIA's management library, compiled in the test run."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class NvmlStub:
    """Environments in which the real nvidia-ml-py loads the stand-in. Its statements: tests/nvml_stub/nvml_stub.c."""

    libraries: dict[str, Path]
    folder: Path

    def environment(self, config: str, file_version: str | None = None, old: bool = False) -> dict[str, str]:
        """Variables to add to a process's environment.

        A second call of the same test rewrites the same file: that is how a GPU is swapped or a driver upgraded under
        a running test. ``file_version`` names the library's file as a driver package does
        (``libnvidia-ml.so.580.65.06`` behind the link); ``old`` takes a library without the newer functions.
        """
        place = self.folder / "lib"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        link = place / "libnvidia-ml.so.1"
        target = place / f"libnvidia-ml.so.{file_version}" if file_version else link
        os.link(self.libraries["old" if old else "new"], target)
        if file_version:
            link.symlink_to(target.name)
        settings = self.folder / "nvml.conf"
        settings.write_text(config)
        return {"LD_LIBRARY_PATH": str(place), "NVML_STUB_CONFIG": str(settings)}


@pytest.fixture(scope="session")
def _nvml_libraries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("a C compiler (gcc) is missing")
    folder = tmp_path_factory.mktemp("nvml_libraries")
    source = Path(__file__).parent / "nvml_stub" / "nvml_stub.c"
    built = {}
    for name, options in {"new": (), "old": ("-DOLD_DRIVER",)}.items():
        built[name] = folder / f"{name}.so"
        command = [compiler, "-O1", "-Wall", "-Werror", "-shared", "-fPIC", *options, "-o", built[name], source]
        subprocess.run(command, check=True, timeout=60)
    return built


@pytest.fixture
def nvml_stub(_nvml_libraries: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> NvmlStub:
    """A stand-in for libnvidia-ml.so.1 that the real nvidia-ml-py loads; see NvmlStub."""
    return NvmlStub(_nvml_libraries, tmp_path_factory.mktemp("nvml"))
