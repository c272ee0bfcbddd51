"""Real environments with transformers, and small models of random weights that they made."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from filelock import FileLock
from packaging.utils import parse_wheel_filename
from uv import find_uv_bin

from bnbenv.envs.pipconfig import read_pip_config
from bnbenv.paths import Sysroot

PACKAGES = ("bitsandbytes==0.50.2", "accelerate==1.15.0", "peft==0.21.2", "safetensors==0.8.0")
MAKE_ZOO = Path(__file__).with_name("zoo.py")
ZOO = ("llama", "llama-sharded", "llama-f32", "llama-biases", "qwen2", "mistral", "gemma", "opt", "mixtral")


@pytest.fixture(scope="session")
def models_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with CPU torch, bitsandbytes and transformers 5: BNBENV_TEST_MODELS_PYTHON."""
    return _environment(tmp_path_factory, "BNBENV_TEST_MODELS_PYTHON", "transformers==5.23.0")


@pytest.fixture(scope="session")
def models_python_4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with the last transformers 4, whose loader is another one: BNBENV_TEST_MODELS_PYTHON_4."""
    return _environment(tmp_path_factory, "BNBENV_TEST_MODELS_PYTHON_4", "transformers==4.57.6")


@pytest.fixture(scope="session")
def model_zoo(models_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small checkpoints as transformers 5 writes them, named as in ``zoo.py``; leave it as it is."""
    return _zoo(tmp_path_factory, models_python, "zoo-5")


@pytest.fixture(scope="session")
def model_zoo_4(models_python_4: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as transformers 4 writes them, as most of the hub's are."""
    return _zoo(tmp_path_factory, models_python_4, "zoo-4")


@pytest.fixture(scope="session")
def models_environ(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment for processes of these Pythons: no network, no GPU, bytecode shared, two threads at most."""
    return {
        **{name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
        **{"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "TQDM_DISABLE": "1", "OMP_NUM_THREADS": "2"},
        "HF_HOME": str(_shared(tmp_path_factory) / "huggingface"),
        "PYTHONPYCACHEPREFIX": str(_shared(tmp_path_factory) / "models-bytecode"),
    }


def _zoo(factory: pytest.TempPathFactory, python: Path, name: str) -> Path:
    folder = _shared(factory) / name
    with FileLock(folder.with_suffix(".lock")):
        if not folder.exists():
            part = folder.with_suffix(".part")
            part.mkdir()
            environ = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
            subprocess.run([python, MAKE_ZOO, part], env=environ, check=True, timeout=300)
            part.rename(folder)
    return folder


def _environment(factory: pytest.TempPathFactory, variable: str, *packages: str) -> Path:
    """Made once for all test workers."""
    if given := os.environ.get(variable):
        return Path(given)
    config = read_pip_config(os.environ, Sysroot.from_environment(os.environ), Path.home())
    wheels = [wheel for folder in config.find_links for wheel in Path(folder).glob("torch-*+cpu-*.whl")]
    if not wheels:
        pytest.skip(f"no CPU build of torch in a find-links folder of pip's configuration; or set {variable}")
    newest = max(wheels, key=lambda wheel: parse_wheel_filename(wheel.name)[1])
    _, version, _, tags = parse_wheel_filename(newest.name)
    interpreter = sorted(tag.interpreter for tag in tags)[0]
    prefix = _shared(factory) / variable.lower()
    with FileLock(prefix.with_suffix(".lock")):
        if not (prefix / "complete").exists():
            _uv(config.find_links, "venv", "-q", "--clear", str(prefix), "-p", f"{interpreter[2]}.{interpreter[3:]}")
            wanted = (f"torch=={version}", *PACKAGES, *packages)
            _uv(config.find_links, "pip", "install", "-q", "--python", str(prefix), *wanted, index=config.index_url)
            (prefix / "complete").touch()
    return prefix / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _uv(find_links: Sequence[str], *words: str, index: str | None = None) -> None:
    environment = {**os.environ, "UV_FIND_LINKS": ",".join(find_links)}
    if index:
        environment["UV_DEFAULT_INDEX"] = index
    command = [find_uv_bin(), *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode != 0:
        pytest.skip(f"uv {words[0]} cannot install what this test needs: {done.stderr.strip()[-300:]}")


def _shared(factory: pytest.TempPathFactory) -> Path:
    """The folder that all test workers share."""
    base = factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
