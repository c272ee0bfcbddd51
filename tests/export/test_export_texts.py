"""What is exported of an environment whose files come from elsewhere, and what has to be set for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from bnbenv.envs.lockfile import Decision, Locked, LockedFile
from bnbenv.envs.sources import PackageSources, Source
from bnbenv.export.kubernetes import image_name, kubernetes
from bnbenv.export.model import Exported, exported
from bnbenv.export.texts import conda, dockerfile, requirements, to_copy
from bnbenv.matrix.model import Evidence, TorchBuild
from bnbenv.solve.model import BitsandbytesChoice, Choice, Solution, TorchChoice

A, B = "a" * 64, "b" * 64
OWN = "https://me:secret@mirror.example/simple"


def given(
    torch_source: Any = "pytorch-index", where: str = "https://cdn.example/torch-2.9.1+cu126-cp312.whl"
) -> Exported:
    torch = TorchChoice(version="2.9.1+cu126", cuda="12.6", source=torch_source, index="cu126")
    wheel = BitsandbytesChoice("0.50.2", "wheel", "libbitsandbytes_cuda124.so", A, "bitsandbytes-0.50.2.whl")
    choice = Choice("3.12", torch, {"BNB_CUDA_VERSION": "124"}, wheel)
    row = TorchBuild(
        version=torch.version,
        cuda="12.6",
        source=torch_source,
        index="cu126",
        os="linux",
        machine="x86_64",
        arch_list=("sm_90",),
        pythons=("cp312",),
        requires_dist=(),
        evidence=Evidence(level="measured", source="a wheel", date="2026-11-21"),
    )
    files = {
        "bitsandbytes": (LockedFile("wheels", "https://mirror.example/f/bitsandbytes-0.50.2.whl", A),),
        "torch": (LockedFile("wheels", where, B),),
    }
    versions = {"bitsandbytes": "0.50.2", "torch": "2.9.1+cu126"}
    hashes = {name: frozenset(one.sha256 for one in some) for name, some in files.items()}
    locked = Locked("", Decision("bnb", "d", Solution("cuda", choice, (), (), ()), row), versions, hashes, files)
    sources = PackageSources(Source("default-index", OWN, "uv"), (), (), "https://torch.example/whl")
    return exported(locked, sources, "525.60.13")


def test_pytorchs_own_index_is_named_and_what_must_be_set() -> None:
    text = requirements(given())
    assert "--extra-index-url https://torch.example/whl/cu126\n" in text
    assert "# needs in the environment: BNB_CUDA_VERSION=124\n" in text
    assert f"torch==2.9.1+cu126 \\\n    --hash=sha256:{B}\n" in text
    assert 'variables:\n  BNB_CUDA_VERSION: "124"\n' in conda(given())
    image = dockerfile(given(), "some-image")
    assert "\nENV BNB_CUDA_VERSION=124\n" in image
    assert "525.60.13 or newer" in image


def test_an_index_of_ones_own_is_told_and_its_password_is_not() -> None:
    notes = given().notes()
    assert notes == ["files come from https://****@mirror.example/simple: set that up where it is installed"]
    assert "secret" not in requirements(given()) + conda(given()) + dockerfile(given(), "x") + "".join(notes)


def test_a_wheel_in_a_folder_is_told_and_belongs_beside_the_dockerfile(tmp_path: Path) -> None:
    local = given("local", f"{tmp_path.as_uri()}/torch-2.9.1+cu126-cp312.whl")
    assert f"--find-links {tmp_path}\n" in requirements(local)
    assert to_copy(local) == [f"{tmp_path}/torch-2.9.1+cu126-cp312.whl"]
    image = dockerfile(local, "some-image")
    assert "\nCOPY wheels/ /wheels/\n" in image
    assert str(tmp_path) not in image
    assert any("torch: in folders of this machine" in note for note in local.notes())


def test_a_folder_with_any_name_is_one_word_for_pip(tmp_path: Path) -> None:
    """pip splits options as a shell does, takes ``#`` for a comment, and puts variables in."""
    folder = tmp_path / "my 'own' #1 ${HOME}\nwheels"
    text = requirements(given("local", f"{folder.as_uri()}/torch-2.9.1+cu126-cp312.whl"))
    assert f"--find-links {folder.as_uri()}\n" in text
    assert not set(" '#$") & set(folder.as_uri())


def test_what_lies_on_a_torch_that_is_there_says_so() -> None:
    kept = given("existing")
    assert "has torch 2.9.1+cu126, CUDA 12.6 already" in requirements(kept)
    assert "-m venv --system-site-packages " in dockerfile(kept, "an-image-with-torch")
    assert any("does not bring one" in note for note in kept.notes())


@pytest.mark.parametrize("command", [("export", "poetry"), ("export",), ("export", "conda", "--base", "x")])
def test_wrong_usage(empty: Any, command: tuple[str, ...]) -> None:
    assert empty(*command).code == 2


def test_a_pod_for_a_gpu_verifies_on_the_gpu_that_its_command_then_gets() -> None:
    """Both containers ask for one, and Kubernetes gives the second what the first had; no GPU is no silent pass."""
    pod, job = yaml.safe_load_all(kubernetes(given(), image_name(given()), "0.1.0"))
    for spec in (pod["spec"], job["spec"]["template"]["spec"]):
        (verify,), (main,) = spec["initContainers"], spec["containers"]
        assert verify["resources"] == main["resources"] == {"limits": {"nvidia.com/gpu": 1}}
        assert verify["command"][-2:] == ["--device", "0"]
        assert verify["image"] == "bnbenv-bnb:bitsandbytes-0.50.2-torch-2.9.1-cu126-CUDA-12.6"
    (rule,) = job["spec"]["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["containerName"] == verify["name"]


def test_a_dockerfile_may_bring_bnbenv_which_the_pod_needs() -> None:
    text = dockerfile(given(), "some-image", "1.2.3")
    assert "pip install --no-cache-dir bnbenv==1.2.3" in text and "/usr/local/bin/bnbenv" in text
    assert "bnbenv==" not in dockerfile(given(), "some-image")
