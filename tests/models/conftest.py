"""Real environments with transformers, and small models of random weights that they made."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from packaging.utils import parse_wheel_filename
from uv import find_uv_bin

from bnbenv.envs.pipconfig import read_pip_config
from bnbenv.paths import Sysroot
from bnbenv.process import Command, Finished

PACKAGES = ("bitsandbytes==0.50.2", "accelerate==1.15.0", "peft==0.21.2", "safetensors==0.8.0")
MAKE_ZOO = Path(__file__).with_name("zoo.py")
FORKS = MAKE_ZOO.with_name("forks.py")


class Forks:
    """Runs programs with an environment's Python in forks of one process that has imported torch and transformers.

    Where there is no fork, or it is not safe, each is a process of its own.
    """

    def __init__(self, python: Path, environ: Mapping[str, str], folder: Path) -> None:
        self.python, self.environ, self.folder = python, dict(environ), folder
        self.parent: Any = None
        self.jobs = 0

    def __call__(self, *words: str | Path, stdin: str = "", seconds: float = 400, **changes: str) -> str:
        """What it prints on standard output; it has to succeed."""
        done = self.run(Command(tuple(map(str, (self.python, *words))), seconds, changes, stdin=stdin))
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    def run(self, command: Command) -> Finished:
        """As ``bnbenv.process.SystemRunner`` does, which it stands in for; ``command.env`` only sets."""
        began = time.monotonic()
        assert command.argv[0] == str(self.python)
        if sys.platform != "linux":
            environ = {**self.environ, **{name: value for name, value in command.env.items() if value is not None}}
            done = subprocess.run(
                command.argv, env=environ, input=command.stdin or "", capture_output=True, text=True, check=False
            )
            return Finished(command, done.returncode, done.stdout, done.stderr, False, time.monotonic() - began)
        if self.parent is None:
            argv = [self.python, FORKS]
            pipe = subprocess.PIPE
            self.parent = subprocess.Popen(argv, env=self.environ, stdin=pipe, stdout=pipe, text=True)
        self.jobs += 1
        place = self.folder / str(self.jobs)
        place.mkdir()
        (place / "stdin").write_text(command.stdin or "")
        job = {"argv": command.argv[1:], "env": command.env, "folder": str(place), "seconds": command.timeout}
        self.parent.stdin.write(json.dumps(job) + "\n")
        self.parent.stdin.flush()
        answer = self.parent.stdout.readline()
        assert answer, f"{self.python} cannot run {FORKS}: exit code {self.parent.wait()}"
        out, err = ((place / name).read_text() for name in ("stdout", "stderr"))
        return Finished(command, int(answer), out, err, False, time.monotonic() - began)

    def close(self) -> None:
        if self.parent is not None:
            self.parent.stdin.close()
            self.parent.wait(timeout=30)


@dataclass(frozen=True)
class Release:
    """A major release of transformers: its environment's Python, models that it made, and programs run there."""

    major: int
    python: Path
    zoo: Path
    run: Forks


# The first argument of tests for both: one test worker has one release, so that each is imported by one process.
BOTH = (
    pytest.param("models_5", marks=pytest.mark.xdist_group("models-5"), id="5"),
    pytest.param("models_4", marks=pytest.mark.xdist_group("models-4"), id="4"),
)


@pytest.fixture(params=BOTH)
def release(request: pytest.FixtureRequest) -> Release:
    """Each of the two: the test is run twice."""
    found: Release = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="session")
def models_5(models_python: Path, model_zoo: Path, models_run: Forks) -> Release:
    """Transformers 5."""
    return Release(5, models_python, model_zoo, models_run)


@pytest.fixture(scope="session")
def models_4(models_python_4: Path, model_zoo_4: Path, models_run_4: Forks) -> Release:
    """Transformers 4."""
    return Release(4, models_python_4, model_zoo_4, models_run_4)


@pytest.fixture(scope="session")
def models_run(
    models_python: Path, models_environ: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Forks]:
    """``models_run("-c", code)``: what that prints, run by ``models_python``."""
    forks = Forks(models_python, models_environ, tmp_path_factory.mktemp("forks-5"))
    yield forks
    forks.close()


@pytest.fixture(scope="session")
def models_run_4(
    models_python_4: Path, models_environ: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Forks]:
    """The same with ``models_python_4``."""
    forks = Forks(models_python_4, models_environ, tmp_path_factory.mktemp("forks-4"))
    yield forks
    forks.close()


@pytest.fixture(scope="session")
def models_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with CPU torch, bitsandbytes and transformers 5: BNBENV_TEST_MODELS_PYTHON."""
    return _environment(tmp_path_factory, "BNBENV_TEST_MODELS_PYTHON", "transformers==5.23.0")


@pytest.fixture(scope="session")
def models_python_4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with the last transformers 4, whose loader is another one: BNBENV_TEST_MODELS_PYTHON_4."""
    return _environment(tmp_path_factory, "BNBENV_TEST_MODELS_PYTHON_4", "transformers==4.57.6")


@pytest.fixture(scope="session")
def model_zoo(models_run: Forks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small checkpoints as transformers 5 writes them, named as in ``zoo.py``; leave it as it is."""
    return _zoo(tmp_path_factory, models_run, "zoo-5")


@pytest.fixture(scope="session")
def model_zoo_4(models_run_4: Forks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as transformers 4 writes them, as most of the hub's are."""
    return _zoo(tmp_path_factory, models_run_4, "zoo-4")


@pytest.fixture(scope="session")
def models_environ(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment for processes of these Pythons: no network, no GPU, bytecode shared, one thread."""
    return {
        **{name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
        **{"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1"},
        "OMP_WAIT_POLICY": "passive",  # two test workers have two cores: a thread that waits spins otherwise
        "MALLOC_MMAP_THRESHOLD_": "1048576",  # what is freed is given back: peaks are measured
        "HF_HOME": str(_shared(tmp_path_factory) / "huggingface"),
        "PYTHONPYCACHEPREFIX": str(_shared(tmp_path_factory) / "models-bytecode"),
    }


def _zoo(factory: pytest.TempPathFactory, run: Forks, name: str) -> Path:
    folder = _shared(factory) / name
    with FileLock(folder.with_suffix(".lock")):
        if not folder.exists():
            part = folder.with_suffix(".part")
            part.mkdir()
            run(MAKE_ZOO, part)
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
