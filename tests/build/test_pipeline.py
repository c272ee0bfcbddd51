"""sync where no wheel fits: bitsandbytes is compiled for the GPU, locked, installed and switched to."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from bnbenv.matrix.native import read_native

H200 = "linux-x86_64__580.65.06__h200-sm90"
LOCK = "pylock.bnb.toml"
SITE = ".venv-bnb/lib/python3*/site-packages"
BUILT = "0.50.2+bnbenv.cu130.sm87"

Box = Callable[..., Any]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``source(version, **files)``: the project's own CUDA tree as that release of bitsandbytes, some files longer."""

    def make(version: str, **more: str) -> Path:
        tree = tmp_path_factory.mktemp("source") / "tree"
        shutil.copytree(Path(__file__).parent / "tree", tree)
        init = tree / "bitsandbytes" / "__init__.py"
        init.write_text(init.read_text().replace("0.50.9", version))
        for name, text in more.items():
            (tree / name).write_text((tree / name).read_text() + text)
        return tree

    return make


@pytest.fixture(scope="module")
def tree(source: Callable[..., Path]) -> Path:
    """A tree that compiles."""
    return source("0.50.2")


@pytest.fixture(scope="module")
def builds(tmp_path_factory: pytest.TempPathFactory, toolchains: Path) -> Path:
    """The folder of builds of a user who has the toolchain, and soon a wheel."""
    folder = tmp_path_factory.mktemp("home") / "builds"
    folder.mkdir()
    (folder / "toolchains").symlink_to(toolchains / "toolchains")
    return folder


@pytest.fixture
def box(
    gpu_box: Box, torch_wheel: Callable[..., str], builds: Path, build_environ: dict[str, str], tmp_path: Path
) -> Box:
    """``box(tree, capability="8.7", cuda="13.0")``: a project for a GPU that no published wheel has code for."""

    def make(tree: Path | str, capability: str = "8.7", cuda: str = "13.0") -> Any:
        made = gpu_box(H200, cuda=cuda)
        torch_wheel(made.root / "wheels", cuda, archs="sm_80 sm_87 sm_90")
        facts = json.loads((made.root / "facts.json").read_text())
        facts["gpus"][0]["compute_capability"] = capability
        (made.root / "facts.json").write_text(json.dumps(facts))
        config = made.root / "bnbenv.toml"
        config.write_text(config.read_text() + f"bitsandbytes-source = {json.dumps(str(tree))}\n")
        environ = {**build_environ, "BNBENV_HOME": str(builds.parent), "BNBENV_FACTS": made.environ["BNBENV_FACTS"]}
        return replace(made, environ=environ)

    return make


def library(project: Any) -> Any:
    """The CUDA library in the environment in use, read from its bytes."""
    (path,) = project.root.glob(f"{SITE}/bitsandbytes/libbitsandbytes_cuda*.so")
    return read_native(path.read_bytes(), path.name)


def actions(document: dict[str, Any]) -> list[str]:
    return [one["action"] for one in document["actions"]]


def chosen(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document["generations"][0]["choice"]["bitsandbytes"]
    return found


def refusal(project: Any, *words: str, exits: int, **changes: str | None) -> dict[str, Any]:
    """The error of a command that has to fail, after which wishes, lock and environment are as they were."""

    def files() -> list[str | None]:
        paths = [project.root / name for name in ("bnbenv.toml", LOCK)]
        texts = [path.read_text() if path.exists() else None for path in paths]
        link = project.root / ".venv-bnb"
        return [*texts, str(link.readlink()) if link.is_symlink() else None]

    before = files()
    ended = project(*words, "--json", **changes)
    assert ended.code == exits, ended.stdout + ended.stderr
    assert files() == before
    assert project.leftovers() == []
    error: dict[str, Any] = ended.document["error"]
    return error


def compiling(builds: Path) -> bool:
    """Whether a process works on a compilation."""
    folder = str(builds.resolve() / "work")

    def words(entry: Path) -> str:
        try:
            return str((entry / "cwd").readlink()) + (entry / "cmdline").read_bytes().decode(errors="replace")
        except OSError:  # it has ended
            return ""

    found = (words(entry) for entry in Path("/proc").iterdir() if entry.name.isdecimal())
    return any(folder in line and "ninja" in line for line in found)


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def interrupted(project: Any, builds: Path, sent: signal.Signals) -> int:
    """How a sync ends to which a signal is sent while it compiles; nothing goes on compiling then."""
    process = project.start("sync", "--fresh")
    assert wait_until(lambda: compiling(builds) or process.poll() is not None)
    process.send_signal(sent)
    process.communicate(timeout=60)
    assert wait_until(lambda: not compiling(builds), 10)
    return int(process.returncode)


def test_what_no_wheel_holds_is_compiled_locked_and_installed(box: Box, tree: Path, builds: Path) -> None:
    project = box(tree)
    planned = project("plan", "--json")
    assert planned.code == 3
    assert actions(planned.document) == ["build", "lock", "stage", "verify", "switch"]
    assert "compile bitsandbytes 0.50.2 for sm_87 with CUDA 13.0" in planned.document["actions"][0]["what"]
    assert not (builds / "wheels").exists()

    document = project.done("sync")
    assert actions(document) == ["build", "lock", "stage", "switch"]  # the recorded GPU is not here to run on
    made = chosen(document)
    assert (made["version"], made["source"], made["library"]) == (BUILT, "build", "libbitsandbytes_cuda130.so")
    (wheel,) = builds.glob("wheels/*/*.whl")
    assert made["filename"] == wheel.name
    assert f"{wheel.parent.as_uri()}/{wheel.name}" in unquote((project.root / LOCK).read_text())
    assert (library(project).sass, library(project).ptx) == (("sm_87",), ("compute_87",))
    assert project.python("import bitsandbytes; print(bitsandbytes.add(2, 3))") == "5.0"
    assert list(project.root.glob(f"{SITE}/bnbenv-environment.pth")) == []

    # There is nothing more to do, with the wheel at hand or without.
    assert project.drift() == {}
    assert project.done("sync")["actions"] == project.done("plan")["actions"] == []
    hidden = wheel.rename(wheel.with_name("hidden"))
    assert project.done("sync", "--locked")["actions"] == project.done("plan")["actions"] == []
    hidden.rename(wheel)

    # A new generation is made of the same wheel; asked for by name, it is the same build again.
    again = project.done("sync", "--fresh")
    assert (actions(again), chosen(again)["sha256"]) == (["stage", "switch"], made["sha256"])
    before = wheel.stat().st_mtime_ns
    asked = project.done("sync", "--build")
    assert chosen(asked)["sha256"] == made["sha256"]
    assert (project.generation(), wheel.stat().st_mtime_ns) == (2, before)
    assert 'build = "always"' in (project.root / "bnbenv.toml").read_text()
    project.done("rollback", "1")
    assert (project.generation(), project.drift()) == (
        1,
        {"wishes-changed": "bnbenv.toml asks for something else than before"},
    )


def test_a_lock_holds_only_with_the_very_wheel_in_ones_own_cache(box: Box, tree: Path, tmp_path: Path) -> None:
    project = box(tree)
    project.done("lock")
    again = {"BNBENV_HOME": str(tmp_path / "another")}
    elsewhere = refusal(project, "sync", "--locked", exits=4, **again)
    assert elsewhere["code"] == "lock-does-not-fit"
    assert f"bitsandbytes {BUILT} was compiled elsewhere" in elsewhere["message"]
    # The same bytes, where anybody may have put them.
    lock = project.root / LOCK
    text = lock.read_text()
    (line,) = (line for line in text.splitlines() if "/wheels/" in line and BUILT in line)
    place = line.split('"')[1]
    copy = shutil.copy(Path(unquote(place.removeprefix("file://"))), tmp_path)
    lock.write_text(text.replace(place, Path(copy).as_uri()))
    assert "was compiled elsewhere" in refusal(project, "sync", "--locked", exits=4)["message"]
    lock.write_text(text)
    project.done("sync", "--locked")


@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="processes are found through /proc")
def test_a_changed_wheel_is_made_again_whatever_interrupts_it(box: Box, tree: Path, builds: Path) -> None:
    project = box(tree)
    project.done("sync")
    first = library(project)
    (wheel,) = builds.glob("wheels/*/*.whl")
    data = wheel.read_bytes()
    wheel.unlink()  # uv may have linked it
    wheel.write_bytes(data[:-100] + bytes([data[-100] ^ 1]) + data[-99:])
    refused = refusal(project, "sync", "--locked", "--fresh", exits=4)
    assert "is not the wheel that was locked" in refused["message"]
    for sent, exits in ((signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)):
        assert interrupted(project, builds, sent) == exits
        assert (project.generation(), project.drift(), library(project)) == (1, {}, first)
    document = project.done("sync", "--fresh")
    assert project.generation() == 2
    assert library(project) == first
    assert chosen(document)["version"] == BUILT
    assert project.leftovers() == []
    assert list(builds.glob("work/*")) == []


def test_a_source_that_does_not_compile_changes_nothing(box: Box, source: Callable[..., Path], tree: Path) -> None:
    project = box(tree)
    project.done("sync")
    broken = source("0.50.2", **{"CMakeLists.txt": '\nmessage(FATAL_ERROR "this cannot be built")\n'})
    config = project.root / "bnbenv.toml"
    config.write_text(config.read_text().replace(str(tree), str(broken)))
    error = refusal(project, "sync", "--build", exits=1)
    assert error["code"] == "compile-failed"
    assert "this cannot be built" in error["message"] + error["detail"]
    assert set(project.drift()) == {"wishes-changed"}


def test_where_the_source_cannot_be_had_it_says_so(box: Box, tmp_path: Path) -> None:
    project = box("https://localhost:1/bitsandbytes.git")
    error = refusal(project, "sync", exits=7)
    assert error["code"] == "source-unreachable"
    assert "https://localhost:1/bitsandbytes.git cannot be reached" in error["message"]
    assert "bitsandbytes-source" in error["next_step"]
    # Only wheels: the option that compiles is offered.
    assert "--build" in refusal(project, "sync", "--no-build", exits=4)["next_step"]
    config = project.root / "bnbenv.toml"
    config.write_text(config.read_text().replace("https://localhost:1/bitsandbytes.git", "no/such/folder"))
    assert str(project.root / "no/such/folder") in refusal(project, "plan", exits=2)["message"]


def test_the_toolkit_may_be_of_another_release_than_torch(box: Box, source: Callable[..., Path], tree: Path) -> None:
    """bitsandbytes 0.49 looks for the library of torch's own CUDA alone, so it is told which one there is."""
    project = box(source("0.49.1"), "9.0", "13.9")  # a release of which nobody has a toolkit
    project.done("build", "--cuda", "13.0", "--arch", "sm_90")  # what its packaging needs is there from now on
    box_offline = {"BNBENV_OFFLINE": "1"}  # so that of the others only the one that is there can be had
    document = project.done("sync", "--build", **box_offline)
    assert chosen(document)["version"] == "0.49.1+bnbenv.cu130.sm90"
    assert document["generations"][0]["choice"]["environment"] == {"BNB_CUDA_VERSION": "130"}
    assert project.python("import os; print(os.environ['BNB_CUDA_VERSION'])") == "130"
    assert project.done("sync", "--locked", "--fresh", **box_offline)["generations"][0]["generation"] == 2
