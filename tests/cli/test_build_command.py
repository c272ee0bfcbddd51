"""``bnbenv build`` refuses what cannot be read, found or compiled, before anything is fetched or written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HOSTS = Path(__file__).parent.parent / "hosts"
TREE = Path(__file__).parent.parent / "build" / "tree"
H200 = HOSTS / "linux-x86_64__580.65.06__h200-sm90" / "facts.json"
NOTHING = HOSTS / "linux-x86_64__absent__nogpu__glibc2.36" / "facts.json"

Refused = Callable[..., str]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], str]:
    """Recorded facts as if they were of a machine of this kind: only for its own can a machine compile."""
    import platform

    folder = tmp_path_factory.mktemp("facts")

    def write(recorded: Path) -> str:
        document = json.loads(recorded.read_text())
        document["platform"]["machine"] = platform.machine()
        path = folder / f"{recorded.parent.name}.json"
        path.write_text(json.dumps(document))
        return str(path)

    return write


@pytest.mark.parametrize(
    ("words", "code", "said", "step"),
    [
        (["--arch", "sm_90", "--arch", "RTX 4090"], 2, "no architecture", "Did you mean: --arch sm_89"),
        (["--source", "./nowhere", "--arch", "90", "--cuda", "13.0"], 2, "nowhere", ""),
        (["--arch", "90", "--cuda", "13.0", "--ref", "0.50.1"], 7, "BNBENV_OFFLINE", ""),
        (["--arch", "70", "--cuda", "13.0", "--ref", "0.50.1"], 4, "cannot compile for sm_70", "12.9"),
        (["--arch", "70", "--cuda", "13.0", "--source", str(TREE)], 4, "CUDA 13.0", "12.9"),
        (["--arch", "52", "--cuda", "13.0"], 4, "cannot compile for sm_52", "12.9"),
        (["--facts", str(HOSTS / "macos-aarch64__absent__nogpu" / "facts.json")], 4, "macos", "of that kind"),
    ],
    ids=["arch", "source", "offline", "toolkit before the network", "toolkit", "toolkit of old GPUs", "machine"],
)
def test_what_is_refused(words: list[str], code: int, said: str, step: str, bnbenv: Any, tmp_path: Path) -> None:
    ran = bnbenv("build", *words)
    assert (ran.code, ran.out) == (code, "")
    error, *_, last = ran.err.splitlines()
    assert error.startswith("error: ") and said in error
    assert step in last
    assert not (tmp_path / "user" / "builds" / "toolchains").exists()
    assert not (tmp_path / "user" / "builds" / "wheels").exists()


def test_without_a_gpu_an_architecture_has_to_be_named(refused: Refused, here: Callable[[Path], str]) -> None:
    said = refused("build", "--facts", here(NOTHING), step="--arch sm_90")
    assert said == "there is no NVIDIA GPU here, so nothing tells what to compile for"


def test_bnbenv_toml_names_the_source_and_the_gpus(bnbenv: Any, here: Callable[[Path], str], tmp_path: Path) -> None:
    project = tmp_path / "project"
    (project / "vendor" / "bnb").mkdir(parents=True)
    (project / "vendor" / "bnb" / "setup.py").write_text("raise SystemExit('never run')\n")
    (project / "bnbenv.toml").write_text('[envs.bnb]\ngpus = [5]\n[sources]\nbitsandbytes-source = "vendor/bnb"\n')
    ran = bnbenv("build", "--arch", "90", "--cuda", "13.0")
    assert ran.code == 2 and "vendor/bnb is no source tree of bitsandbytes" in ran.err
    assert "GPU 5 is not on this host" in bnbenv("build", "--facts", here(H200)).err
