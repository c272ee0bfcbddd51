"""A real environment with a CPU build of torch and bitsandbytes, and copies of its bitsandbytes to break on purpose."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from packaging.utils import parse_wheel_filename
from packaging.version import Version

from bnbenv.process import SystemRunner
from bnbenv.verify.devices import CPU
from bnbenv.verify.run import Report, verify_environment

BITSANDBYTES = "bitsandbytes==0.50.2"


@pytest.fixture(scope="session")
def real_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with CPU torch and bitsandbytes: BNBENV_TEST_PYTHON, or one made with uv."""
    given = os.environ.get("BNBENV_TEST_PYTHON")
    if given:
        return Path(given)
    from uv import find_uv_bin

    from bnbenv.envs.pipconfig import read_pip_config
    from bnbenv.paths import Sysroot

    config = read_pip_config(os.environ, Sysroot.from_environment(os.environ), Path.home())
    wheels = [wheel for folder in config.find_links for wheel in Path(folder).glob("torch-*+cpu-*.whl")]
    if not wheels:
        pytest.skip("no CPU build of torch in a find-links folder of pip's configuration; or set BNBENV_TEST_PYTHON")
    newest = max(wheels, key=_version)
    interpreter = sorted(tag.interpreter for tag in parse_wheel_filename(newest.name)[3])[0]
    prefix = tmp_path_factory.mktemp("real") / "env"
    environment = {**os.environ, "UV_FIND_LINKS": ",".join(config.find_links)}
    if config.index_url:
        environment["UV_DEFAULT_INDEX"] = config.index_url
    requirements = [f"torch=={_version(newest)}", BITSANDBYTES]
    for command in (
        [find_uv_bin(), "venv", "-q", str(prefix), "-p", f"{interpreter[2]}.{interpreter[3:]}"],
        [find_uv_bin(), "pip", "install", "-q", "--python", str(prefix), *requirements],
    ):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
        if done.returncode != 0:
            pytest.skip(f"no environment with CPU torch can be made here: {done.stderr.strip()[-300:]}")
    return prefix / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _version(wheel: Path) -> Version:
    return parse_wheel_filename(wheel.name)[1]


@pytest.fixture(scope="session")
def bytecode(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str | None]:
    """Changes to the environment that let the processes of the tests share bytecode: an import is slow without."""
    return {
        "PYTHONDONTWRITEBYTECODE": None,
        "PYTHONPYCACHEPREFIX": str(tmp_path_factory.mktemp("bytecode")),
    }


@pytest.fixture
def broken(real_python: Path, bytecode: dict[str, str | None], tmp_path: Path) -> Callable[..., Report]:
    """Verify with a copy of bitsandbytes that is broken on purpose, placed first by PYTHONPATH.

    A fault is Python text, the body of ``fault(name, kernel, arguments, options)``, which is called instead of every
    kernel with its name (``dequantize_4bit``), one fault around the other; ``after`` is text added at the end of the
    package's ``__init__``; ``spoil`` is called with the copy's folder.
    """

    def verify(
        *faults: str,
        after: str = "",
        spoil: Callable[[Path], None] = lambda folder: None,
    ) -> Report:
        copy = copy_of_bitsandbytes(real_python, tmp_path / "packages")
        with (copy / "_ops.py").open("a") as stream:
            for fault in faults:
                indented = "\n".join(f"    {line}" for line in fault.splitlines())
                stream.write(WRAPPER.replace("BODY", indented))
        with (copy / "__init__.py").open("a") as stream:
            stream.write(f"\n{after}\n")
        spoil(copy)
        environ = {**bytecode, "PYTHONPATH": str(copy.parent)}
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
