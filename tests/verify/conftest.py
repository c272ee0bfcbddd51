"""A real environment with a CPU build of torch and bitsandbytes, and copies of its bitsandbytes to break on purpose."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from packaging.utils import parse_wheel_filename
from packaging.version import Version
from uv import find_uv_bin

from bnbenv.envs.pipconfig import PipConfig, read_pip_config
from bnbenv.paths import Sysroot
from bnbenv.process import SystemRunner
from bnbenv.verify.devices import CPU
from bnbenv.verify.run import Report, verify_environment

BITSANDBYTES = "bitsandbytes==0.50.2"
FAMILY_PACKAGES = ("gptqmodel==7.6.0", "autoawq==0.2.9")
MODEL_PACKAGES = ("transformers==5.23.0", "accelerate==1.15.0", "peft==0.21.2")


@pytest.fixture(scope="session")
def real_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with CPU torch and bitsandbytes: BNBENV_TEST_PYTHON, or one made with uv."""
    given = os.environ.get("BNBENV_TEST_PYTHON")
    if given:
        return Path(given)
    config = pip_config()
    wheels = [wheel for folder in config.find_links for wheel in Path(folder).glob("torch-*+cpu-*.whl")]
    if not wheels:
        pytest.skip("no CPU build of torch in a find-links folder of pip's configuration; or set BNBENV_TEST_PYTHON")
    newest = max(wheels, key=_version)
    interpreter = sorted(tag.interpreter for tag in parse_wheel_filename(newest.name)[3])[0]
    prefix = tmp_path_factory.mktemp("real") / "env"
    uv("venv", "-q", str(prefix), "-p", f"{interpreter[2]}.{interpreter[3:]}")
    return installed(prefix, f"torch=={_version(newest)}", BITSANDBYTES)


def installed(prefix: Path, *requirements: str) -> Path:
    """The Python of an environment into which packages were installed."""
    uv("pip", "install", "-q", "--python", str(prefix), *requirements)
    return prefix / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


@pytest.fixture(scope="session")
def families_python(real_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with gptqmodel and autoawq beside a CPU torch, or BNBENV_TEST_FAMILIES_PYTHON."""
    given = os.environ.get("BNBENV_TEST_FAMILIES_PYTHON")
    if given:
        return Path(given)
    said = subprocess.run(
        [str(real_python), "-c", "from importlib.metadata import version; print(version('torch'))"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    prefix = tmp_path_factory.mktemp("families") / "env"
    uv("venv", "-q", str(prefix), "-p", str(real_python))
    return installed(prefix, f"torch=={said.stdout.strip()}", *FAMILY_PACKAGES)


def pip_config() -> PipConfig:
    """Where packages come from on this machine."""
    return read_pip_config(os.environ, Sysroot.from_environment(os.environ), Path.home())


def uv(*words: str) -> None:
    """Run uv with this machine's package sources; skips where it cannot do what it is told."""
    config = pip_config()
    environment = {**os.environ, "UV_FIND_LINKS": ",".join(config.find_links)}
    if config.index_url:
        environment["UV_DEFAULT_INDEX"] = config.index_url
    command = [find_uv_bin(), *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode != 0:
        pytest.skip(f"uv {words[0]} cannot install what this test needs: {done.stderr.strip()[-300:]}")


def _version(wheel: Path) -> Version:
    return parse_wheel_filename(wheel.name)[1]


@pytest.fixture(scope="session")
def bytecode(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str | None]:
    """Changes to the environment that let the processes of the tests share bytecode: an import is slow without."""
    return {
        "PYTHONDONTWRITEBYTECODE": None,
        "PYTHONPYCACHEPREFIX": str(tmp_path_factory.mktemp("bytecode")),
    }


@pytest.fixture(scope="session")
def model_packages(real_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with transformers, accelerate, peft and what they need but torch, to be named by PYTHONPATH."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "overrides.txt").write_text("torch ; sys_platform == 'never'\n")
    place = ["--target", str(folder / "packages"), "--overrides", str(folder / "overrides.txt")]
    uv("pip", "install", "-q", "--python", str(real_python), *place, *MODEL_PACKAGES)
    return folder / "packages"


@pytest.fixture
def broken_packages(real_python: Path, tmp_path: Path) -> Callable[..., str]:
    """A PYTHONPATH with a copy of bitsandbytes that is broken on purpose.

    A fault is Python text, the body of ``fault(name, kernel, arguments, options)``, which is called instead of every
    kernel with its name (``dequantize_4bit``), one fault around the other; ``after`` is text added at the end of the
    package's ``__init__``; ``spoil`` is called with the copy's folder. ``patches`` is text to run at the end of other
    modules, by their names; ``packages`` is a folder of more packages.
    """

    def make(
        *faults: str,
        after: str = "",
        spoil: Callable[[Path], None] = lambda folder: None,
        patches: Mapping[str, str] | None = None,
        packages: Path | None = None,
    ) -> str:
        copy = copy_of_bitsandbytes(real_python, tmp_path / "packages")
        with (copy / "_ops.py").open("a") as stream:
            for fault in faults:
                indented = "\n".join(f"    {line}" for line in fault.splitlines())
                stream.write(WRAPPER.replace("BODY", indented))
        with (copy / "__init__.py").open("a") as stream:
            stream.write(f"\n{after}\n")
        spoil(copy)
        if patches:
            (copy.parent / "sitecustomize.py").write_text(PATCHING.replace("PATCHES", repr(dict(patches))))
        return os.pathsep.join(str(folder) for folder in (copy.parent, packages) if folder)

    return make


@pytest.fixture
def broken(
    real_python: Path, bytecode: dict[str, str | None], broken_packages: Callable[..., str]
) -> Callable[..., Report]:
    """Verify with packages that are broken on purpose; the arguments are those of ``broken_packages``."""

    def verify(*faults: str, **options: Any) -> Report:
        environ = {**bytecode, "PYTHONPATH": broken_packages(*faults, **options)}
        return verify_environment(real_python, (CPU,), SystemRunner(), environ=environ)

    return verify


def copy_of_bitsandbytes(python: Path, folder: Path) -> Path:
    """A copy whose native libraries are links: they are large."""
    found = next(python.parent.parent.glob("[Ll]ib/**/site-packages/bitsandbytes"))
    copy = folder / "bitsandbytes"
    shutil.copytree(found, copy, ignore=shutil.ignore_patterns("*.so", "*.dll", "*.dylib", "__pycache__"))
    for library in found.glob("libbitsandbytes_*"):
        (copy / library.name).symlink_to(library.resolve())
    return copy


# Every kernel is registered through this function of bitsandbytes._ops.
WRAPPER = """

def _fault(name, kernel, arguments, options):
BODY


def _breaking(register, fault=_fault):
    def register_broken(name, *devices):
        def decorate(kernel):
            def run(*arguments, **options):
                return fault(name.split("::")[1], kernel, arguments, options)

            return register(name, *devices)(run)

        return decorate

    return register_broken


register_kernel = _breaking(register_kernel)
"""

# A module is patched at the end of its import, so that nobody has the right one before.
PATCHING = """
import sys
from importlib.machinery import PathFinder

patches = PATCHES


class Patching:
    def find_spec(self, name, path=None, target=None):
        if name not in patches:
            return None
        spec = PathFinder.find_spec(name, path, target)
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            exec(patches[name], vars(module))

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Patching())
"""
